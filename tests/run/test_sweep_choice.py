"""Which of several ways to train is taken: vicinal validation says so, and test images do not."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import summaries
from click.testing import CliRunner
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Data, Recipe
from anomaly_ft.recipe.sweep import Job
from anomaly_ft.run.executors import Outcome
from anomaly_ft.run.run_summary import FinishedRun, RunSummary
from anomaly_ft.run.sweep import forgot_when, row_of, side_by_side
from anomaly_ft.run.sweep_choice import chosen, comparable


def row(
    setting: str, vicinal: float | None, *, tuned: float = 0.5, seed: int = 0, error: str = ""
) -> dict[str, Any]:
    return {
        "category": "bolts", "setting": setting, "seed": seed, "frozen": 0.5, "fine_tuned": tuned,
        "gain": tuned - 0.5, "vicinal_gain": vicinal, "kept_epoch": int(bool(vicinal)), "error": error,
    }  # fmt: skip


def test_the_highest_vicinal_gain_is_taken_whatever_the_test_images_say() -> None:
    (taken,) = chosen(
        [row("early", 0.01, tuned=0.9), row("late", 0.03, tuned=0.4), row("all", 0.02, tuned=0.8)]
    )
    assert (taken["setting"], taken["fine_tuned"]) == ("chosen by validation: late", 0.4)


def outcome(**changes: Any) -> Outcome:
    """A finished run whose summary differs from the plain one in this."""
    recipe = Recipe.model_construct(data=Data.model_construct(root="bolts"), seed=0)
    summary = RunSummary.model_validate(summaries.PLAIN | changes)
    return Outcome(Job("bolts", "late", recipe), FinishedRun(Path("bolts-001"), summary))


def test_the_gain_that_chooses_is_of_the_mixture_that_was_kept() -> None:
    mixed = outcome(mixed={0.0: 0.8, 1.0: 0.85, 0.5: 0.82})
    assert row_of(mixed)["vicinal_gain"] == pytest.approx(0.02)


def test_a_sweep_says_after_which_epochs_its_runs_forgot() -> None:
    fell = {"epochs": 4, "vicinal_auroc": [0.80, 0.82, 0.835, 0.77, 0.76], "stop_reason": "forgetting"}
    runs = [outcome(**fell, best_epoch=0), outcome(**fell, best_epoch=2), outcome()]
    assert forgot_when(runs) == "2 of 3 forgot after epoch 2"
    assert forgot_when([outcome(), Outcome(runs[0].job, None, "disk full")]) == "none of 2 forgot"


def test_each_seed_chooses_for_itself_and_the_table_has_their_mean() -> None:
    rows = [
        row("early", 0.02, tuned=0.6), row("late", 0.01, tuned=0.7),
        row("early", 0.01, tuned=0.8, seed=1), row("late", 0.02, tuned=0.9, seed=1),
    ]  # fmt: skip
    line = side_by_side([*rows, *chosen(rows)])[-1]
    assert line["setting"] == "chosen by validation: early, late"
    assert line["fine-tuned"] == "0.7500 ± 0.2121"
    assert line["vicinal gain"] == "+0.0200 ± 0.0000"


def test_where_no_block_gained_the_frozen_encoder_is_taken() -> None:
    (taken,) = chosen([row("early", 0.0), row("late", 0.0)])
    assert (taken["setting"], taken["kept_epoch"]) == ("chosen by validation: frozen", 0)


def test_runs_that_failed_are_no_candidates() -> None:
    (taken,) = chosen([row("early", None, error="disk full"), row("late", 0.01)])
    assert taken["setting"] == "chosen by validation: late"
    assert chosen([row("early", None, error="disk full")]) == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ((["encoder.train_blocks=[a]"], ["encoder.train_blocks=[b]"]), True),
        ((["encoder.adapt=lora"], ["optimizer.lr=0.1", "runtime.device=cpu"]), True),
        ((["encoder.train_blocks=[a]"], ["data.image_size=64"]), False),
        ((["encoder.name=resnet18"], ["encoder.name=resnet34"]), False),
        (([], []), False),
    ],
)
def test_vicinal_gains_are_compared_only_where_nothing_but_training_differs(
    settings: tuple[list[str], list[str]], expected: bool, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {root: data}\n")
    jobs = [Job("bolts", str(i), read_recipe(file, each, check_root=False)) for i, each in enumerate(settings)]
    assert comparable(jobs) is expected


def test_a_sweep_over_blocks_says_which_it_takes(mvtec_folder: Path, tmp_path: Path) -> None:
    write_recipe(tmp_path / "tiny.yaml", mvtec_folder, "schedule.max_epochs=0", *ONE_AUGMENTATION)
    sweep = tmp_path / "sweep.yaml"
    settings = "{early: {encoder.train_blocks: [blocks.1]}, late: {encoder.train_blocks: [blocks.4]}}"
    sweep.write_text(f"name: blocks\nrecipe: tiny.yaml\nsettings: {settings}\n")
    result = CliRunner().invoke(main, ["sweep", str(sweep), "--output", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    results = tmp_path / "runs" / "blocks" / "results"
    assert "| chosen by validation: frozen | 1 |" in (results / "results.md").read_text()
    assert list(pd.read_csv(results / "results.csv")["setting"]) == ["early", "late"], "runs alone"
