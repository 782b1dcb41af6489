"""Change the threshold of a finished run."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from settings import write_images

from anomaly_ft.cli.main import main
from anomaly_ft.model.changes import read_changes
from anomaly_ft.model.loading import load_run
from anomaly_ft.run.folder import locked_run

Textures = Callable[[int, int, int], np.ndarray]


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run, tmp_path / "runs" / "small-001")


def threshold(run: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["threshold", str(run), *options])


def changed(run: Path, *options: str) -> str:
    result = threshold(run, *options)
    assert result.exit_code == 0, result.output
    return result.output


def refused(run: Path, *options: str) -> str:
    result = threshold(run, *options)
    assert result.exit_code == 2, result.output
    return result.output


def files(run: Path) -> dict[str, bytes]:
    names = [path for path in run.rglob("*") if path.is_file() and path.name != "thresholds.json"]
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in names}


def test_a_threshold_by_hand_is_in_force_at_once_and_the_record_says_when_and_why(run: Path) -> None:
    before, was = files(run), load_run(run).point.threshold
    said = changed(run, "--value", "123.5", "--why", "as agreed")
    assert "by hand: threshold 123.5: nothing is guaranteed of normal images" in said
    loaded = load_run(run)
    assert (loaded.point.threshold, float(loaded.detector.threshold), loaded.point.images) == (123.5, 123.5, 0)
    assert files(run) == before, "what training left stays"
    changed(run, "--value", "7")
    first, second = read_changes(run)
    assert (first.why, first.before, second.before) == ("as agreed", was, 123.5)
    assert first.when.endswith("+00:00")
    assert load_run(run).point.threshold == 7
    shown = changed(run).splitlines()
    assert shown[0].startswith("threshold 7: ")
    assert shown[1].endswith("-> 123.5  by hand: as agreed")
    assert len(shown) == 3


def test_another_rate_recalibrates_on_the_runs_own_images_and_evaluate_goes_by_it(
    run: Path, tmp_path: Path
) -> None:
    was = load_run(run).point
    changed(run, "--rate", str(was.target_fpr))
    again = load_run(run).point
    assert again.threshold == pytest.approx(was.threshold, rel=1e-5), "nothing was asked for that is new"
    changed(run, "--rate", "0.5")
    point = load_run(run).point
    assert point.threshold < was.threshold
    assert (point.target_fpr, point.images) == (0.5, was.images)
    result = CliRunner().invoke(
        main, ["evaluate", str(run), "--output", str(tmp_path / "evaluations"), "--json"]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output.splitlines()[-1])
    assert summary["thresholds"]["threshold"] == point.threshold
    assert summary["test"]["false_positive_rate"] >= 0.5 / 6


def test_other_good_images_set_it_with_confidence_and_groups_count_once(
    run: Path, tmp_path: Path, make_textures: Textures
) -> None:
    write_images(tmp_path / "good", make_textures(8, 64, 9))
    said = changed(run, "--good", str(tmp_path / "good"), "--rate", "0.4", "--guarantee", "confidence")
    assert "with 95% confidence" in said
    point = load_run(run).point
    assert (point.images, point.confidence, point.target_fpr) == (8, 0.95, 0.4)
    assert point.guaranteed_fpr <= 0.4
    recipe = run / "recipe.yaml"
    text = recipe.read_text().replace("group_by: ''", r"group_by: '(\d\d)\d'")
    recipe.write_text(text.replace("allow_leak: false", "allow_leak: true"))
    changed(run, "--good", str(tmp_path / "good"))
    point = load_run(run).point
    assert (point.images, point.confidence) == (1, 0.95), "all of one group, and what was asked for stays"


def test_the_one_image_whose_score_is_the_threshold_is_named(
    run: Path, tmp_path: Path, make_textures: Textures
) -> None:
    images = make_textures(8, 64, 9)
    images[5] = 255 - images[5]
    write_images(tmp_path / "good", images)
    recipe = run / "recipe.yaml"
    recipe.write_text(re.sub("preset: .*", "preset: none", recipe.read_text()))
    assert "one image alone decides the threshold: 005.png" in changed(run, "--good", str(tmp_path / "good"))
    assert "one image" not in changed(run, "--good", str(tmp_path / "good"), "--rate", "0.4")


def test_a_guarantee_that_was_asked_for_stays_until_another_one_is(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("guarantee: average", "guarantee: confidence"))
    changed(run, "--guarantee", "average", "--rate", "0.3")
    changed(run, "--rate", "0.4")
    assert load_run(run).point.confidence is None, "as before, not as the recipe says"
    changed(run, "--value", "3")
    changed(run, "--rate", "0.4")
    assert load_run(run).point.confidence == 0.95, "by hand nothing was asked for, so the recipe holds again"


def test_an_updated_run_is_recalibrated_on_the_images_of_its_update_too(
    run: Path, tmp_path: Path, make_textures: Textures
) -> None:
    write_images(tmp_path / "new", make_textures(20, 64, 9))
    result = CliRunner().invoke(main, ["update", str(run), str(tmp_path / "new")])
    assert result.exit_code == 0, result.output
    new = max(run.parent.glob("*-update-*"))
    before = load_run(new).point
    changed(new, "--rate", f"{before.target_fpr}")
    assert read_changes(new)[-1].how.endswith(" and of updates")
    point = load_run(new).point
    assert point.images == before.images > load_run(run).point.images
    assert point.threshold == pytest.approx(before.threshold, rel=1e-6), "the update set it on the same images"
    assert "images of the run already" in refused(new, "--good", str(tmp_path / "new")), (
        "some are in its statistics"
    )


@pytest.mark.parametrize("folder", ["good", "train/good", "test/good", "."])
def test_good_images_are_not_taken_for_defects(
    folder: str, run: Path, tmp_path: Path, make_textures: Textures
) -> None:
    root = tmp_path / "ok"
    write_images(root / folder, make_textures(4, 64, 9))
    said = refused(run, "--from", str(root))
    assert "4 of 4 images are good by their names" in said
    assert not (run / "thresholds.json").exists()


@pytest.mark.parametrize("alone", [False, True])
def test_labelled_defects_set_it_below_the_lowest_of_them(
    run: Path, mvtec_folder: Path, tmp_path: Path, alone: bool
) -> None:
    root = mvtec_folder / "test" / "hole" if alone else mvtec_folder
    assert "at least 47.3% of defective images are found" in changed(run, "--from", str(root))
    point = load_run(run).point
    assert point.found_share == pytest.approx(0.05 ** (1 / 4)), "Clopper and Pearson, 4 of 4"
    shutil.copytree(mvtec_folder / "test" / "hole", tmp_path / "hole")
    output = tmp_path / "predictions"
    result = CliRunner().invoke(
        main, ["predict", str(run), str(tmp_path / "hole"), "--output", str(output), "--format", "jsonl"]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert {row["decision"] for row in rows} == {"anomalous"}
    changed(run, "--from", str(root), "--missed", "0.25")
    assert load_run(run).point.threshold > point.threshold


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--value", "3", "--good", "x"), "--value and --good: give one of them"),
        (("--value", "3", "--rate", "0.1"), "--rate and --guarantee are of thresholds from good images"),
        (("--missed", "0.1"), "--missed is of a threshold from defects"),
        (("--value", "nan"), "--value nan: expected a number"),
        (("--rate", "1"), "--rate"),
        (("--good", "nowhere"), "does not exist: nowhere"),
        (("--from", "nowhere"), "--from nowhere: there are no defective images"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(run: Path, options: tuple[str, ...], message: str) -> None:
    assert message in refused(run, *options)
    assert not (run / "thresholds.json").exists()


def test_images_that_cannot_set_a_threshold_are_named(run: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    assert "images of the run already" in refused(run, "--good", str(mvtec_folder / "train"))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"no image")
    assert "broken.png" in refused(run, "--from", str(tmp_path / "bad"))
    assert "not a finished run" in refused(tmp_path, "--value", "3")


def test_a_run_whose_images_are_gone_says_so(run: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(mvtec_folder, tmp_path / "moved")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(mvtec_folder), str(moved)))
    shutil.rmtree(moved / "train" / "good")
    write_images(moved / "train" / "good", np.zeros((2, 64, 64, 3), np.uint8))
    assert "of the images it was made from are gone" in refused(run, "--rate", "0.2")
    shutil.rmtree(moved)
    assert "cannot be read: data.root: folder does not exist" in refused(run, "--rate", "0.2")


def test_a_full_disk_leaves_the_threshold_as_it_was(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(run, "--value", "5")
    before = (run / "thresholds.json").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "the threshold is as it was" in refused(run, "--value", "6")
    assert (run / "thresholds.json").read_bytes() == before
    assert not list(run.glob(".*.new"))
    assert load_run(run).point.threshold == 5


def test_two_changes_at_once_are_one_too_many(run: Path) -> None:
    with locked_run(run):
        assert "another command is changing this run" in refused(run, "--value", "6")


@pytest.mark.parametrize("text", ["", "{}", '{"changes": [{"when": "now"}]}'])
def test_a_damaged_record_is_named_and_says_the_way_out(run: Path, text: str) -> None:
    (run / "thresholds.json").write_text(text)
    assert "thresholds.json is damaged" in refused(run)
    (run / "thresholds.json").unlink()
    changed(run)


def test_a_threshold_that_is_no_number_is_damage(run: Path) -> None:
    changed(run, "--value", "5")
    text = (run / "thresholds.json").read_text().replace('"threshold": 5.0', '"threshold": "high"')
    (run / "thresholds.json").write_text(text)
    assert "a working point is numbers" in refused(run)
