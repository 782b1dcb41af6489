"""`anomaly-ft predict` and what it is made of, on a run with random weights."""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.data.images import Decoder
from anomaly_ft.errors import DataError, DivergedError, RunError
from anomaly_ft.model.gaussian.settings import SCORES
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.loading import LoadedRun, load_run
from anomaly_ft.model.maps import upsample
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.run.open import open_run
from anomaly_ft.run.predict import expand, predict
from anomaly_ft.run.prediction_files import stream
from anomaly_ft.run.prediction_rows import Prediction, Tally, columns, render


@pytest.fixture(scope="module")
def run(small_run: Path) -> LoadedRun:
    return load_run(small_run, device="cpu", precision="fp32", batch_size=3)


def call(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)], input=given)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_test_split_gets_the_scores_that_the_run_wrote_down(
    form: str, small_run: Path, mvtec_folder: Path
) -> None:
    result = call(small_run, mvtec_folder / "test", "--format", form)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    found = rows(result.stdout) if form == "csv" else [json.loads(line) for line in lines]
    written = pd.read_csv(small_run / "predictions.csv").set_index("path")
    assert len(found) == len(written) == 10
    for row in found:
        expected = written.loc[Path(row["path"]).relative_to(mvtec_folder).as_posix()]
        assert float(row["score"]) == pytest.approx(expected["score"], rel=1e-4, abs=1e-4)
        assert float(row["dense_score"]) == pytest.approx(expected["dense_score"], rel=1e-4)
        assert row["decision"] == expected["decision"]
        assert not row["error"]
    assert "10 images" in result.stderr


def test_files_folders_patterns_and_stdin_are_taken_in_their_order(mvtec_folder: Path) -> None:
    test = mvtec_folder / "test"
    given = [str(test / "hole" / "002.png"), str(test / "good"), str(test / "hole" / "00[01].png"), "-"]
    found = list(expand(given, stdin=["a.png\n", "\n", "with space.png\r\n"]))
    names = [f"good/{i:03d}.png" for i in range(6)]
    expected = ["hole/002.png", *names, "hole/000.png", "hole/001.png"]
    assert found == [*(test / name for name in expected), Path("a.png"), Path("with space.png")]
    assert len(list(expand([str(mvtec_folder / "**" / "*_mask.png")]))) == 4


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "part[1].png"
    path.touch()
    assert list(expand([str(path)])) == [path]


def test_stdin_is_read_line_by_line() -> None:
    def lines() -> Iterator[str]:
        yield "first.png\n"
        raise AssertionError("read too far")

    assert next(expand(["-"], stdin=lines())) == Path("first.png")


def test_what_holds_no_image_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images below"):
        list(expand([str(tmp_path)]))
    with pytest.raises(DataError, match="nothing matches"):
        list(expand([str(tmp_path / "*.png")]))


def test_bad_images_become_rows_that_say_why(run: LoadedRun, mvtec_folder: Path, tmp_path: Path) -> None:
    good = mvtec_folder / "test" / "good" / "000.png"
    (tmp_path / "broken.png").write_bytes(good.read_bytes()[:60])
    (tmp_path / "empty.png").touch()
    paths = [tmp_path / "broken.png", good, tmp_path / "empty.png", tmp_path / "missing.png", good]
    found = list(predict(run, paths))
    assert [bool(p.error) for p in found] == [True, False, True, True, False]
    assert found[2].error.endswith("the file is empty")
    assert found[3].error == "file does not exist"
    assert found[0].score is None
    assert found[1].scores == pytest.approx(found[4].scores)
    assert [p.path for p in found] == [str(path) for path in paths]


def test_maps_are_made_only_when_asked_for(run: LoadedRun, mvtec_folder: Path) -> None:
    paths = [mvtec_folder / "test" / "hole" / "000.png"]
    (plain,), (mapped,) = predict(run, paths), predict(run, paths, maps=True)
    assert plain.map is None
    assert mapped.map is not None
    with torch.no_grad():
        maps = run.detector(run.compute.batch(np.stack([run.decoder(paths[0])]))).maps
    large = upsample(mapped.map, 64, 64, run.decoder)
    np.testing.assert_allclose(large, maps[0], rtol=1e-3, atol=1e-3)


def test_a_whole_batch_of_bad_images_does_not_stop_the_next(run: LoadedRun, mvtec_folder: Path) -> None:
    good = mvtec_folder / "test" / "good" / "000.png"
    found = list(predict(run, [Path("missing.png")] * 7 + [good], threads=2))
    assert [bool(p.error) for p in found] == [True] * 7 + [False]


def test_paths_are_drawn_a_few_batches_ahead_and_no_further(run: LoadedRun, mvtec_folder: Path) -> None:
    drawn = []

    def endless() -> Iterator[Path]:
        while True:
            drawn.append(1)
            yield mvtec_folder / "test" / "good" / "000.png"

    predictions = predict(run, endless())
    for _ in range(4):
        next(predictions)
    assert len(drawn) <= 4 * run.compute.batch_size


def test_rows_are_complete_whenever_writing_ends(run: LoadedRun, mvtec_folder: Path) -> None:
    out = io.StringIO()

    def cut_short() -> Iterator[Prediction]:
        yield from predict(run, [mvtec_folder / "test" / "good" / "000.png"] * 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream(cut_short(), out, "csv", SCORES)
    assert out.getvalue().endswith("\n")
    assert len(rows(out.getvalue())) == 4


def test_paths_with_commas_and_quotes_survive_in_both_formats() -> None:
    row = Prediction('odd, "name".png', dict.fromkeys(SCORES), error="why, so").row()
    assert next(csv.reader([render(row, "csv")])) == ['odd, "name".png', "", "", "", "", "", "", "why, so"]
    assert json.loads(render(row, "jsonl"))["path"] == 'odd, "name".png'
    assert tuple(row) == columns(SCORES)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_name_that_is_not_utf_8_is_scored_and_spelled_so_that_the_rows_after_it_follow(
    form: str, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.png"))
    try:
        shutil.copyfile(mvtec_folder / "test" / "hole" / "000.png", odd)
    except OSError:
        pytest.skip("this file system has no such names")
    for name in ("a", "c"):
        shutil.copyfile(mvtec_folder / "test" / "hole" / "001.png", tmp_path / f"{name}.png")
    result = call(small_run, tmp_path / "*.png", "--output", tmp_path / "out", "--maps", "--format", form)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / f"predictions.{form}").read_text()
    found = rows(text) if form == "csv" else [json.loads(line) for line in text.splitlines()]
    assert [Path(row["path"]).name for row in found] == ["a.png", r"b\xff.png", "c.png"]
    assert all(row["decision"] in ("normal", "anomalous") for row in found)
    assert found[1]["map"].endswith(r"000001-b\xff")
    said = call(small_run, tmp_path / "*.png", "--format", form)
    assert said.exit_code == 0, said.output
    assert said.stdout.count("\n") == 3 + (form == "csv")


def test_an_anomaly_fails_the_command_only_when_asked_to(small_run: Path, mvtec_folder: Path) -> None:
    wrong, fine = mvtec_folder / "test" / "hole", mvtec_folder / "train" / "good"
    assert call(small_run, wrong).exit_code == 0
    assert call(small_run, wrong, "--fail-on-anomaly").exit_code == 3
    written = pd.DataFrame(rows(call(small_run, fine).stdout))
    calm = written[written["decision"] == "normal"]["path"].iloc[0]
    assert call(small_run, calm, "--fail-on-anomaly").exit_code == 0


def a_calm_image(run: Path, folder: Path) -> str:
    """The path of an image that the run calls normal."""
    written = pd.DataFrame(rows(call(run, folder / "train" / "good").stdout))
    return str(written[written["decision"] == "normal"]["path"].iloc[0])


@pytest.mark.parametrize("wrong", [False, True])
@pytest.mark.parametrize("bad", ["missing.png", "broken.png", "empty.heic"])
def test_a_gate_fails_when_an_image_got_no_decision(
    bad: str, wrong: bool, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut off")
    (tmp_path / "empty.heic").touch()
    other = mvtec_folder / "test" / "hole" / "000.png" if wrong else a_calm_image(small_run, mvtec_folder)
    assert call(small_run, other, tmp_path / bad).exit_code == 0, "rows say it; nobody asked for a gate"
    result = call(small_run, other, tmp_path / bad, "--fail-on-anomaly")
    assert result.exit_code == 7
    assert "1 could not be read or scored" in result.stderr
    assert call(small_run, tmp_path / bad, "--fail-on-anomaly").exit_code == 7, "not a single one could be read"


def test_a_gate_that_sees_nothing_fails(small_run: Path, tmp_path: Path) -> None:
    assert call(small_run, "-", "--fail-on-anomaly", given="").exit_code == 2
    assert call(small_run, tmp_path, "--fail-on-anomaly").exit_code == 2


def test_a_score_that_is_not_finite_is_a_row_and_fails_a_gate(
    small_run: Path, mvtec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [mvtec_folder / "test" / "good" / f"{i:03d}.png" for i in range(6)]
    right = rows(call(small_run, *paths).stdout)
    spoilt = torch.from_numpy(load_run(small_run).decoder(paths[2]).copy()).permute(2, 0, 1)

    def spoil(detector: Detector, images: torch.Tensor, *rest: Any, **options: Any) -> Predictions:
        if any(torch.equal(image, spoilt) for image in images):
            raise DivergedError(f"1 of {len(images)} fused scores are not finite")
        return predict_batch(detector, images, *rest, **options)

    monkeypatch.setattr("anomaly_ft.run.predict.predict_batch", spoil)
    result = call(small_run, *paths, "--fail-on-anomaly")
    assert result.exit_code == 7
    found = rows(result.stdout)
    assert "not finite" in found[2]["error"]
    assert not found[2]["score"]
    assert not found[2]["decision"]
    for i in (0, 1, 3, 4, 5):
        assert found[i]["decision"] == right[i]["decision"]
        assert float(found[i]["score"]) == pytest.approx(float(right[i]["score"]), rel=1e-4)


def test_no_file_that_may_be_an_image_is_passed_over(tmp_path: Path) -> None:
    for name in ("a.png", "b.HEIC", "c.gif", "d.jfif", "notes.txt", "table.csv", "e.pdf"):
        (tmp_path / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "f.JPG").touch()
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    names = ["a.png", "b.HEIC", "c.gif", "d.jfif", "elsewhere/f.JPG"]  # listed once
    assert list(expand([str(tmp_path)])) == [tmp_path / name for name in names]


def test_a_folder_that_cannot_be_listed_fails_a_gate(
    small_run: Path, mvtec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(a_calm_image(small_run, mvtec_folder), tmp_path / "calm.png")
    (tmp_path / "closed").mkdir()
    listed = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    result = call(small_run, tmp_path, "--fail-on-anomaly")
    assert result.exit_code == 2
    assert "closed: the folder cannot be listed: Permission denied" in result.stderr
    assert not result.stdout


@pytest.mark.parametrize("resize", ["stretch", "letterbox"])
def test_maps_lie_beside_the_predictions_at_the_images_own_size(
    resize: str, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    description = (folder / "detector.json").read_text()
    (folder / "detector.json").write_text(description.replace('"resize": "stretch"', f'"resize": "{resize}"'))
    wide = Image.open(mvtec_folder / "test" / "hole" / "000.png").resize((90, 50))
    wide.save(tmp_path / "wide.png")
    result = call(folder, tmp_path / "wide.png", "no.png", "--output", tmp_path / "out", "--maps")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert table["map"].tolist()[0] == "000000-wide"
    assert table["map"].isna().tolist() == [False, True]
    values = np.load(tmp_path / "out" / "maps" / "000000-wide.npy")
    assert values.shape == (50, 90)
    assert values.dtype == np.float32
    run = open_run(folder)[1]  # computes as the command does
    assert run.decoder.resize == resize
    (alone,) = predict(run, [tmp_path / "wide.png"], maps=True)
    np.testing.assert_allclose(values, upsample(alone.map, 50, 90, run.decoder), rtol=1e-3, atol=1e-3)
    drawn = np.asarray(Image.open(tmp_path / "out" / "maps" / "000000-wide.png"))
    assert drawn.shape == (50, 90, 3)
    assert not np.array_equal(drawn, np.asarray(wide))


def test_maps_of_a_pooled_score_are_contributions(small_run: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    described = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(
        json.dumps(described | {"settings": described["settings"] | {"score": "pooled"}})
    )
    image = mvtec_folder / "test" / "hole" / "000.png"
    assert call(folder, image, "--output", tmp_path / "out", "--maps").exit_code == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    values = np.load(tmp_path / "out" / "maps" / "000000-000.npy")
    assert table["score"][0] == table["pooled_score"][0] == pytest.approx(values.mean(), rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "nothing/*.png"], "nothing matches"),
        (["{run}", "no.png"], "none of 1 images could be read and scored"),
        (["{run}/encoder", "no.png"], "is not a finished run: recipe.yaml, summary.json"),
        (["{run}", "no.png", "--maps"], "--maps needs a folder to write to"),
        (["{run}", "no.png", "--output", "{run}/recipe.yaml"], "cannot write to"),
    ],
)
def test_what_the_user_can_mend_ends_with_two(arguments: list[str], message: str, small_run: Path) -> None:
    result = call(*(argument.format(run=small_run) for argument in arguments))
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": None}, "has no threshold"),
        ({"preprocessing": 3}, "no usable preprocessing"),
        (
            {"preprocessing": {"resize": "squash", "range": None}},
            "resize is 'squash', expected one of stretch",
        ),
        ({"preprocessing": {"resize": "stretch", "range": [1]}}, "no usable preprocessing"),
    ],
)
def test_a_description_that_leaves_out_how_to_decide_or_to_read_is_refused(
    change: dict[str, object], message: str, small_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    described = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps(described | change))
    with pytest.raises(RunError, match=message):
        load_run(folder)


def test_images_are_read_as_the_run_read_them(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    described = json.loads((folder / "detector.json").read_text())
    how = {"resize": "letterbox", "range": [0, 4095]}
    (folder / "detector.json").write_text(json.dumps(described | {"preprocessing": how}))
    assert load_run(small_run).decoder == Decoder(64)
    assert load_run(folder).decoder == Decoder(64, "letterbox", (0.0, 4095.0))
    with pytest.raises(RunError, match="no run folder at"):
        load_run(tmp_path / "nowhere")


def test_a_tally_says_what_could_not_be_read() -> None:
    assert str(Tally(5, 2, 0)) == "5 images, 2 anomalous"
    assert str(Tally(5, 2, 1)) == "5 images, 2 anomalous, 1 could not be read or scored"
    with pytest.raises(DataError, match="none of 5 images could be read and scored"):
        Tally(5, 0, 5).refuse_if_nothing_was_scored()
