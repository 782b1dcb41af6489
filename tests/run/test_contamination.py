"""Defective images among the training images: planted as planned, and nothing changes where none are."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from settings import ONE_AUGMENTATION, write_images, write_recipe

from anomaly_ft.analysis.contamination import plan
from anomaly_ft.cli.main import main
from anomaly_ft.data.splits import enough
from anomaly_ft.finetune.early_stopping import StoppingRule
from anomaly_ft.finetune.records import StopDecision, Validation
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run import contamination
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.contamination import Extent, detect, mean_rows
from anomaly_ft.run.planting import plant, with_data, without
from anomaly_ft.run.setup import Setup, prepare

DIRTY = (*ONE_AUGMENTATION, "name=dirty", "expert.runtime.batch_size=4")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, make_textures: Callable[[int, int, int], np.ndarray]
) -> Path:
    """24 good training images; 6 good and 8 defective ones to test with, with masks."""
    root = tmp_path_factory.mktemp("to be planted")
    write_images(root / "train" / "good", make_textures(24, 64, 1))
    write_images(root / "test" / "good", make_textures(6, 64, 2))
    wrong, masks = make_textures(8, 64, 3), np.zeros((8, 64, 64), np.uint8)
    wrong[:, 20:40, 20:40] = 255
    masks[:, 20:40, 20:40] = 255
    write_images(root / "test" / "hole", wrong)
    write_images(root / "ground_truth" / "hole", masks, name="{:03d}_mask.png")
    return root


@pytest.fixture(scope="module")
def recipe(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "dirty.yaml"
    write_recipe(path, folder, *DIRTY)
    return path


@pytest.fixture(scope="module")
def setup(recipe: Path) -> Setup:
    return prepare(read_recipe(recipe), Terminal(quiet=True))


DEAL = plan(24, 8, [0.0, 0.1, 0.2], seed=0)


def test_planted_images_join_every_part_and_leave_the_test_at_every_share(setup: Setup) -> None:
    tested = {plant(setup.data, DEAL, share).data.test.records for share in (0.0, 0.1, 0.2)}
    assert len(tested) == 1
    found = plant(setup.data, DEAL, 0.2)
    parts = [getattr(found.data.split, part) for part in ("train", "val", "calibration")]
    assert sorted(i for part in parts for i in part) == list(range(30))
    assert found.planted.tolist() == [False] * 24 + [True] * 6
    assert all(any(i >= 24 for i in part) for part in parts)
    assert len(next(iter(tested))) == 6 + 2


def test_planted_pixels_are_those_of_the_test_images_and_the_others_are_untouched(setup: Setup) -> None:
    data = plant(setup.data, DEAL, 0.2).data
    for i, record in enumerate(data.undivided.records):
        source = setup.data.test if record.anomalous else setup.data.undivided
        assert (data.undivided.pixels[i] == source.pixels[source.records.index(record)]).all()
    assert (data.undivided.pixels[[0, 29, 5]][1] == data.undivided.pixels[29]).all()


@pytest.mark.parametrize("train", [False, True])
def test_with_nothing_planted_it_is_the_run_without_it_bit_for_bit(
    setup: Setup, folder: Path, recipe: Path, tmp_path: Path, train: bool
) -> None:
    """The run is a real one, on a copy of the folder without the images that are kept for planting."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    wrong = [record for record in setup.data.test.records if record.anomalous]
    for k in DEAL.planted[0.2]:
        (copy / wrong[k].name).unlink()
        (copy / wrong[k].mask_name).unlink()
    options = ["-s", f"data.root={copy}", "-s", f"schedule.max_epochs={int(train)}", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, ["train", str(recipe), *options])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "dirty-001" / "summary.json").read_text())
    table = pd.read_csv(tmp_path / "dirty-001" / "predictions.csv")

    own = with_data(setup, without(plant(setup.data, DEAL, 0.0).data, np.ones(24, dtype=bool)))
    before = {name: value.clone() for name, value in setup.encoder.state_dict().items()}
    kept, tested, epoch = detect(own, train=train)
    assert tested is not None
    assert [record.name for record in own.data.test.records] == table["path"].tolist()
    assert tested.score.tolist() == table["score"].tolist()
    assert kept.point.threshold == summary["thresholds"]["threshold"]
    assert epoch == summary["best_epoch"]
    after = setup.encoder.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items()), "the next cell begins anew"


def test_planted_images_change_the_detector(setup: Setup) -> None:
    scores = [
        detect(with_data(setup, plant(setup.data, DEAL, share).data))[1].score  # type: ignore[union-attr]
        for share in (0.0, 0.2)
    ]
    assert not np.allclose(*scores)


def test_images_that_are_not_usual_serve_nothing(setup: Setup) -> None:
    usual = np.arange(24) % 4 != 0
    split = without(setup.data, usual).split
    assert sorted((*split.train, *split.val, *split.calibration)) == np.flatnonzero(usual).tolist()


def test_a_part_of_which_hardly_anything_is_usual_keeps_its_two_least_suspicious_images(setup: Setup) -> None:
    split, suspicion = setup.data.split, np.random.default_rng(0).permutation(24).astype(float)
    usual = np.isin(np.arange(24), split.train)
    usual[split.calibration[0]] = True
    kept = without(setup.data, enough(split, usual, suspicion)).split
    assert kept.train == split.train
    assert kept.val == tuple(sorted(sorted(split.val, key=suspicion.__getitem__)[:2]))
    others = sorted(split.calibration[1:], key=suspicion.__getitem__)
    assert kept.calibration == tuple(sorted((split.calibration[0], others[0])))
    assert usual.sum() == len(split.train) + 1, "flags that came in are left as they were"


def test_nothing_comes_back_where_enough_is_usual(setup: Setup) -> None:
    usual = np.isin(
        np.arange(24),
        [i for part in ("train", "val", "calibration") for i in getattr(setup.data.split, part)[:2]],
    )
    assert (enough(setup.data.split, usual, np.zeros(24)) == usual).all()


def test_a_treatment_that_drops_nearly_everything_is_measured_with_what_a_part_needs(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(contamination.USUAL, "MCD", lambda levels: np.zeros(len(levels[0]), dtype=bool))  # type: ignore[arg-type]
    rows = contamination._cell(lambda seed: setup, 0, [0.0], 0.0, False)
    assert [row["dropped_good"] for row in rows if row["treatment"] == "MCD"] == [24 - 3 * 2]
    assert all(np.isfinite(row["image_auroc"]) for row in rows)


def test_fewer_than_ten_training_images_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    few, recipe = tmp_path / "few", tmp_path / "dirty.yaml"
    shutil.copytree(folder, few)
    for path in sorted((few / "train" / "good").iterdir())[9:]:
        path.unlink()
    write_recipe(recipe, few, *DIRTY)
    done = CliRunner().invoke(main, ["analyse", "contamination", str(recipe), "--output", str(tmp_path)])
    assert done.exit_code == 2
    assert "which takes 10 at least, there are 9; add good images" in done.stderr.splitlines()[-1]


def test_trimmed_training_is_of_whole_batches_whatever_is_computed_at_a_time(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts of one image nothing could be left out: rounding would keep each. The last epoch is kept."""

    def last(history: list[Validation], rule: StoppingRule, *, diverged: bool = False) -> StopDecision:
        return StopDecision(diverged or len(history) > rule.max_epochs, "max_epochs", len(history) - 1)

    monkeypatch.setattr("anomaly_ft.finetune.loop.early_stop", last)
    runtime = setup.recipe.runtime.model_copy(update={"micro_batch_size": 1})
    parts = replace(setup, recipe=setup.recipe.model_copy(update={"runtime": runtime}))
    found = [
        detect(own, train=True, trim=trim)[1] for own, trim in ((setup, True), (parts, True), (setup, False))
    ]
    scores = [tested.score.tolist() for tested in found if tested]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def run(*arguments: object) -> str:
    done = CliRunner().invoke(main, ["analyse", "contamination", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_study_has_a_row_for_each_share_and_treatment_and_goes_on_after_a_kill(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [recipe, "--shares", "0,0.2", "--seeds", 2, "--output", tmp_path]
    said = run(*options, "--json")
    place = tmp_path / "dirty-contamination"
    table = pd.read_csv(place / "contamination.csv")
    assert [tuple(row) for row in table[["share", "treatment"]].to_numpy()] == [
        (share, name) for share in (0.0, 0.2) for name in ("as it is", "trimmed", "MCD")
    ]
    assert (table["seeds"] == 2).all()
    assert table.query("share == 0.2")["found_auroc"].notna().all()
    assert table.query("share == 0")["planted"].sum() == 0
    assert json.loads(said.splitlines()[-1])[0]["image_auroc"] == pytest.approx(table["image_auroc"][0])
    lines = (place / ".steps.jsonl").read_text().splitlines(keepends=True)
    (place / ".steps.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    seen: list[float] = []
    real = contamination._cell
    monkeypatch.setattr(contamination, "_cell", lambda *a: seen.append(a[3]) or real(*a))
    run(*options)
    assert seen == [0.2]
    again = pd.read_csv(place / "contamination.csv")
    pd.testing.assert_frame_equal(again, table)


def test_steps_measured_with_images_that_are_gone_are_not_taken_for_those_of_the_others(
    folder: Path, tmp_path: Path
) -> None:
    copy, recipe = tmp_path / "copy", tmp_path / "dirty.yaml"
    shutil.copytree(folder, copy)
    write_recipe(recipe, copy, *DIRTY)
    options = ["analyse", "contamination", str(recipe), "--shares", "0", "--seeds", "1"]
    for gone, ended in ((None, 0), (None, 0), ("test/good/000.png", 2)):
        if gone:
            (copy / gone).unlink()
        done = CliRunner().invoke(main, [*options, "--output", str(tmp_path)])
        assert done.exit_code == ended, done.output
    assert "holds a study with other settings (split '" in done.stderr


def test_fine_tuned_treatments_are_measured_when_asked_for(recipe: Path, tmp_path: Path) -> None:
    run(recipe, "--shares", "0.2", "--seeds", 1, "--finetune", "--output", tmp_path)
    table = pd.read_csv(tmp_path / "dirty-contamination" / "contamination.csv")
    assert table["treatment"].str.startswith("fine-tuned").sum() == 3


def test_means_are_over_seeds() -> None:
    rows = [
        {"seed": s, "share": 0.0, "treatment": "as it is", "planted": 0, "image_auroc": a}
        for s, a in enumerate((0.8, 0.9))
    ]
    (mean,) = mean_rows(rows)
    assert mean["image_auroc"] == pytest.approx(0.85)
    assert mean["auroc_sd"] == pytest.approx(0.1 / np.sqrt(2))
    assert mean["seeds"] == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--shares", "0.5"], "a share of 0.5 of the training images needs 24 defective images"),
        (["--shares", "1"], "from 0 up to but not including 1"),
        (["--shares", "a,b"], "expected numbers with commas"),
        (["--seeds", "0"], "expected 1 or more, got 0"),
    ],
)
def test_what_cannot_be_tried_is_refused(recipe: Path, tmp_path: Path, options: list[str], says: str) -> None:
    done = CliRunner().invoke(
        main, ["analyse", "contamination", str(recipe), *options, "--output", str(tmp_path)]
    )
    assert done.exit_code == 2
    assert says in done.stderr


def test_usual_shares_that_ask_for_too_many_are_left_out_and_the_user_is_told(setup: Setup) -> None:
    said: list[str] = []
    terminal = Terminal(quiet=True)
    terminal.say = said.append  # type: ignore[method-assign]
    few = plant(setup.data, plan(24, 8, [0.2], seed=0), 0.2).data.test  # two defective images are left
    shares = contamination._shares(replace(setup, data=replace(setup.data, test=few)), Extent(), terminal)
    assert shares == (0.0, 0.02, 0.05)
    assert "shares from 0.1 on are left out: 0.1 needs 3 defective images" in said[0]


def test_without_defective_images_nothing_can_be_planted(recipe: Path, folder: Path, tmp_path: Path) -> None:
    options = ["-s", f"data.root={folder / 'train' / 'good'}", "--output", str(tmp_path)]
    done = CliRunner().invoke(main, ["analyse", "contamination", str(recipe), *options])
    assert done.exit_code == 2
    assert "needs good and at least two defective test images" in done.stderr


def test_the_study_is_one_run_in_mlflow_however_often_it_is_shown(
    recipe: Path, tmp_path: Path, store: str
) -> None:
    from mlflow.tracking import MlflowClient

    tracked = ["-s", "tracking.mlflow=true", "-s", f"tracking.uri={store}", "-s", "name=shown"]
    options = [recipe, *tracked, "--shares", "0", "--seeds", 1, "--output", tmp_path]
    run(*options)
    run(*options)
    found = json.loads((tmp_path / "shown-contamination" / "mlflow.json").read_text())["mlflow_run_id"]
    client = MlflowClient(store)
    logged = client.get_run(found)
    same = client.search_runs([logged.info.experiment_id], "tags.study = 'shown-contamination'")
    assert [one.info.run_id for one in same] == [found]
    assert logged.info.status == "FINISHED"
    names = {artifact.path for artifact in client.list_artifacts(found)}
    assert {"contamination.csv", "seeds.csv", "contamination.png"} <= names
