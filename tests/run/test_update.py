"""New good images enter a finished run without training."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import lives
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file
from settings import ONE_AUGMENTATION, tracked, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.model.encoder.adapters import digest
from anomaly_ft.model.gaussian.fitting import sums_of
from anomaly_ft.model.gaussian.sums import load_sums
from anomaly_ft.model.inference import score_images
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.folder import locked_run
from anomaly_ft.run.open import finished_runs, is_finished, open_run, open_summary
from anomaly_ft.run.own_images import own_records, read_all, with_own_copies
from anomaly_ft.run.updated_images import named_by_content, read_updates

Textures = Callable[[int, int, int], np.ndarray]


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run, tmp_path / "runs" / "small-001")


@pytest.fixture
def new(tmp_path: Path, make_textures: Textures) -> Path:
    """Two folders of new good images, below one."""
    images = make_textures(14, 64, 7)
    write_images(tmp_path / "new" / "march", images[:8])
    write_images(tmp_path / "new" / "april", images[8:])
    return tmp_path / "new"


def update(run: Path, folder: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["update", str(run), str(folder), *options])


def updated(run: Path, folder: Path, *options: str) -> Path:
    result = update(run, folder, *options)
    assert result.exit_code == 0, result.output
    return max(run.parent.glob("*-update-*"))


def refused(run: Path, folder: Path, *options: str) -> str:
    before = contents(run.parent)
    result = update(run, folder, *options)
    assert result.exit_code == 2, result.output
    assert contents(run.parent) == before, "nothing half is left"
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_an_update_leaves_a_new_run_that_says_what_changed_and_the_old_one_as_it_was(
    run: Path, new: Path
) -> None:
    before = contents(run)
    result = update(run, new)
    assert result.exit_code == 0, result.output
    made = run.parent / "small-001-update-001"
    assert contents(run) == before
    assert is_finished(made)
    assert not [path for path in run.parent.iterdir() if path.name.endswith(".partial")]
    old, summary = open_summary(run), open_summary(made)
    assert summary.update is not None
    added = summary.update.added
    assert sum(added.values()) == 14
    assert min(added.values()) > 0, "shares of a fifth, by content"
    assert summary.data.train == old.data.train + added["train"]
    assert summary.thresholds.images == old.thresholds.images + added["calibration"]
    assert summary.update.of == "small-001"
    assert summary.update.threshold_before == old.thresholds.threshold
    assert summary.update.false_alarms.images == old.data.calibration
    assert summary.test is not None
    assert f"added to small-001: {added['train']} images to the statistics" in result.output
    assert "false alarms among the 5 calibration images of training" in result.output
    for command in ("predict", "evaluate"):
        arguments = [command, str(made), *([str(new)] if command == "predict" else [])]
        assert CliRunner().invoke(main, arguments).exit_code == 0


def test_updated_twice_is_updated_once_with_all_is_fitted_to_all(run: Path, new: Path) -> None:
    once = updated(run, new)
    second = updated(updated(run, new / "march"), new / "april")
    assert second.name == "small-001-update-003"
    both = {r.path.name + r.path.parent.name: r.part for r in read_updates(once)}
    assert {r.path.name + r.path.parent.name: r.part for r in read_updates(second)} == both
    sums = [load_sums(once).sums, load_sums(second).sums]
    recipe, loaded = open_run(once)
    train = [*own_records(once, recipe)["train"], *(r for r in read_updates(once) if r.part == "train")]
    images = read_all(train, recipe, loaded.decoder, Terminal())
    pixels = with_own_copies(named_by_content(images, read_updates(once)), recipe, "train").pixels
    settings = loaded.detector.settings
    sums.append(sums_of(loaded.detector.encoder, pixels, loaded.compute, settings, exact=True))
    for other in sums[1:]:
        for one, another in zip(sums[0], other, strict=True):
            moved = another.about(one.shift)
            assert one.count == another.count
            for name in ("first", "second", "third", "fourth"):
                found, expected = getattr(moved, name), getattr(one, name)
                # the encoder itself rounds otherwise in other batches
                assert float((found - expected).norm() / expected.norm()) < 1e-4, name
    assert open_summary(once).thresholds.threshold == pytest.approx(
        open_summary(second).thresholds.threshold, rel=1e-3
    )
    scores = []
    for folder in (once, second):
        opened = open_run(folder)[1]
        scores.append(score_images(opened.detector, images.pixels, opened.compute)[opened.score])
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-3, atol=1e-3)


def test_cleared_false_alarms_all_enter_the_statistics_and_score_lower(run: Path, new: Path) -> None:
    made = updated(run, new / "april", "--cleared")
    summary = open_summary(made)
    assert summary.update is not None
    assert summary.update.added == {"train": 6, "val": 0, "calibration": 0}
    recipe, before = open_run(run)
    images = read_all(read_updates(made), recipe, before.decoder, Terminal())
    after = open_run(made)[1]
    scores = [score_images(r.detector, images.pixels, r.compute)[r.score].mean() for r in (before, after)]
    assert scores[1] < scores[0]


def test_another_part_is_refused_with_the_numbers_unless_forced(run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write_images(tmp_path / "other", rng.integers(0, 255, (5, 64, 64, 3), dtype=np.uint8))
    said = refused(run, tmp_path / "other")
    assert "look like another part: their median score" in said
    assert "standard deviations of the run's calibration images above their mean" in said
    assert is_finished(updated(run, tmp_path / "other", "--force"))


def test_a_run_whose_encoder_is_another_one_than_that_of_its_sums_is_refused_by_name(
    run: Path, new: Path
) -> None:
    weights = run / "encoder" / "model.safetensors"
    before, tensors = load_sums(run).encoder, load_file(weights)
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    save_file(tensors | {name: tensors[name] + 1}, weights)
    now = digest(open_run(run)[1].detector.encoder.model)
    assert before != now
    said = refused(run, new)
    assert f"{new}: its features would be of the encoder with sha256 {now[:12]}…" in said
    assert f"the sums of small-001 are of the one with sha256 {before[:12]}…" in said


def test_images_that_cannot_enter_are_named(run: Path, new: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(run, tmp_path / "empty")
    assert "does not exist" in refused(run, tmp_path / "nowhere")
    shutil.copy(mvtec_folder / "test" / "good" / "000.png", new / "march" / "again.png")
    said = refused(run, new)
    assert "1 images are there twice or are images of the run already" in said
    assert "again.png" in said
    (new / "march" / "again.png").write_bytes(b"no image")
    assert "again.png" in refused(run, new)
    (new / "march" / "again.png").unlink()
    made = updated(run, new)
    assert "14 images are there twice" in refused(made, new)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("expert.gaussian.statistics=pretrained", "keeps no sums to add to"),
        ("model.kind=filter", "a filter keeps no sums that images can be added to; train it again"),
    ],
)
def test_a_run_without_sums_is_refused(
    mvtec_folder: Path, tmp_path: Path, new: Path, setting: str, message: str
) -> None:
    changes = ("name=bare", "schedule.max_epochs=1", "expert.schedule.epoch_steps=1", setting)
    severity = "expert.validation.severity=0.5"
    recipe = write_recipe(tmp_path / "bare.yaml", mvtec_folder, *changes, severity)
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    assert message in refused(tmp_path / "runs" / "bare-001", new)


def test_two_updates_at_once_are_one_too_many(run: Path, new: Path) -> None:
    with locked_run(run):
        assert "another command is changing this run or updating it" in refused(run, new)
    made = updated(run, new / "march")
    with locked_run(run):
        assert "another command is changing this run or updating it" in refused(made, new / "april")


def test_a_full_disk_leaves_nothing_half(run: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "give the command again; the run is as it was" in refused(run, new)


def test_what_a_killed_update_left_is_gone_after_the_next(run: Path, new: Path) -> None:
    left = run.parent / ".small-001-update-001.partial"
    left.mkdir()
    (left / "recipe.yaml").write_text("half")
    made = updated(run, new / "march")
    assert not left.exists()
    assert finished_runs(run.parent) == [run, made]


def test_an_update_killed_half_way_leaves_the_run_as_it_was_and_the_next_one_works(
    run: Path, new: Path, tmp_path: Path
) -> None:
    before = contents(run)
    command, log = ["update", str(run), str(new / "march")], tmp_path / "log.txt"
    half = "open /.small-#-update-#.partial/detector.json"
    assert lives.run(command, log, {"write": half, "below": str(run.parent)}) == lives.KILLED, log.read_text()
    assert (run.parent / ".small-001-update-001.partial" / "sums.safetensors").exists()
    assert contents(run) == before
    assert finished_runs(run.parent) == [run]
    made = updated(run, new / "march")
    assert finished_runs(run.parent) == [run, made]
    assert not list(run.parent.glob(".*.partial"))


@pytest.mark.faults
@pytest.mark.parametrize("fault", ["write", "full"])
def test_an_update_that_ends_at_any_write_leaves_the_run_as_it_was(
    run: Path, new: Path, tmp_path: Path, fault: str, record_property: Callable[[str, object], None]
) -> None:
    command, log, before = ["update", str(run), str(new / "march")], tmp_path / "log.txt", contents(run)
    assert lives.run(command, log, {"below": str(run.parent)}) == 0, log.read_text()
    sites = lives.sites(log)
    for site in sites:
        for made in run.parent.glob("*-update-*"):
            shutil.rmtree(made)
        log.unlink()
        code, said = lives.run(command, log, {fault: site, "below": str(run.parent)}), log.read_text()
        assert "Traceback" not in said, said
        assert code in (0, 2, lives.KILLED), said
        assert contents(run) == before, site
        made = [path for path in finished_runs(run.parent) if path != run]
        assert len(made) == 1 if code == 0 else len(made) <= int(code == lives.KILLED), site
        assert not list(run.parent.glob(".*.partial")) or code == lives.KILLED
    record_property("tries", len(sites))


def test_images_of_an_earlier_update_that_are_gone_are_named(run: Path, new: Path) -> None:
    made = updated(run, new / "march")
    (new / "march" / "003.png").unlink()
    said = refused(made, new / "april")
    assert "images of earlier updates are gone or changed" in said
    assert "003.png" in said
    (made / "updates.csv").write_text("nonsense")
    assert "updates.csv is damaged" in refused(made, new / "april")


def test_an_update_of_a_run_with_free_positions_is_its_child_in_mlflow_and_can_be_promoted(
    mvtec_folder: Path, tmp_path: Path, new: Path, store: str
) -> None:
    from mlflow import MlflowClient

    changes = ("name=kept", "schedule.max_epochs=0", "gaussian.position=free", *ONE_AUGMENTATION)
    changes += tracked(store, "updates")
    recipe = write_recipe(tmp_path / "kept.yaml", mvtec_folder, *changes)
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    run = tmp_path / "runs" / "kept-001"
    made = updated(run, new, "--cleared")
    sums = load_sums(made).sums
    assert sums[-1].count == sums[0].count * 14**2, "one Gaussian of all positions"
    assert open_run(made)[1].detector.settings.position == "free"
    summary, client = open_summary(made), MlflowClient(store)
    assert summary.mlflow_run_id is not None
    logged = client.get_run(summary.mlflow_run_id)
    assert logged.data.tags["mlflow.parentRunId"] == open_summary(run).mlflow_run_id
    assert logged.data.tags["update_of"] == "kept-001"
    assert logged.data.metrics["threshold/score"] == pytest.approx(summary.thresholds.threshold, abs=1e-5)
    result = CliRunner().invoke(main, ["promote", str(made), "--name", "updated", "--store", store])
    assert result.exit_code == 0, result.output
    assert "models:/updated@champion is version 1" in result.output


def test_a_run_that_goes_by_a_column_of_a_manifest_takes_a_manifest_with_that_column(
    run: Path, new: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(mvtec_folder, tmp_path / "set")
    own = pd.read_csv(run / "split.csv", keep_default_na=False)
    own.assign(part_id=range(len(own))).to_csv(tmp_path / "set" / "set.csv", index=False)
    text = (run / "recipe.yaml").read_text().replace(str(mvtec_folder), str(tmp_path / "set" / "set.csv"))
    (run / "recipe.yaml").write_text(text.replace("group_by: ''", "group_by: part_id"))
    said = refused(run, new)
    assert "the manifest's column part_id (data.group_by)" in said
    assert "name a manifest that has it" in said
    rows = [f"march/{i:03d}.png,0,train,p{i // 2}" for i in range(8)]
    table = tmp_path / "new" / "march.csv"
    table.write_text("\n".join(["image_path,label_index,split,part_id", *rows]) + "\n")
    added = pd.read_csv(updated(run, table) / "updates.csv")
    assert len(added) == 8
    assert (added.groupby("group")["split"].nunique() == 1).all(), "parts stay together"
    assert added["group"].nunique() == 4


def test_an_update_makes_no_database_that_a_run_folder_names(run: Path, new: Path, tmp_path: Path) -> None:
    database = tmp_path / "elsewhere.db"
    text = re.sub("mlflow: false", "mlflow: true", (run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(re.sub("uri: .*", f"uri: sqlite:///{database}", text))
    summary = json.loads((run / "summary.json").read_text()) | {"mlflow_run_id": "0" * 32}
    (run / "summary.json").write_text(json.dumps(summary))
    result = update(run, new)
    assert result.exit_code == 0, result.output
    assert "not in MLflow: tracking.uri of the run: there is no" in result.output
    assert not database.exists()
    assert open_summary(max(run.parent.glob("*-update-*"))).mlflow_run_id is None
