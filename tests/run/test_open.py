"""What is a finished run and what is none, and what its summary may hold."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import summaries
from pydantic import ValidationError

from anomaly_ft.errors import RunError
from anomaly_ft.run.open import (
    FILES,
    finished_runs,
    is_finished,
    open_history,
    open_recipe,
    open_run,
    open_summary,
    refuse_unfinished,
)
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.summary import final_metrics


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_run, tmp_path / "small-001"))


def test_every_door_opens_a_finished_run(small_run: Path) -> None:
    assert is_finished(small_run)
    refuse_unfinished(small_run)
    recipe, loaded = open_run(small_run)
    summary, history = open_summary(small_run), open_history(small_run)
    assert recipe.runtime.precision == open_recipe(small_run).runtime.precision == "fp32"
    assert (summary.name, summary.score, summary.folder_name) == (recipe.name, loaded.score, small_run.name)
    assert summary.thresholds.threshold == loaded.point.threshold
    assert [epoch for epoch, _ in history] == list(range(summary.epochs + 1))
    assert [points["val/vicinal_auroc"] for _, points in history] == list(summary.vicinal_auroc)


@pytest.mark.parametrize("name", [*FILES, "encoder"])
def test_a_folder_that_lacks_a_file_is_no_finished_run_at_any_door(name: str, run: Path) -> None:
    (run / name).rename(run / "elsewhere")
    assert not is_finished(run)
    for door in (refuse_unfinished, open_recipe, open_summary, open_history, open_run):
        with pytest.raises(RunError, match=f"small-001 is not a finished run: {name} is missing"):
            door(run)


def test_a_run_that_is_being_written_is_none(run: Path) -> None:
    partial = run.rename(run.with_name(".small-001.partial"))
    assert not is_finished(partial)
    with pytest.raises(RunError, match="it was not written to its end; go on with train --resume"):
        open_summary(partial)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere is not a finished run: there is no such folder"):
        open_run(tmp_path / "nowhere")
    assert finished_runs(tmp_path / "nowhere") == []


def test_the_finished_runs_of_a_folder_are_listed_by_name(small_run: Path, tmp_path: Path) -> None:
    for name in ("b-001", "a-001", ".c-001.partial", "half"):
        shutil.copytree(small_run, tmp_path / name)
    (tmp_path / "half" / "summary.json").unlink()
    (tmp_path / "results.csv").touch()
    assert [path.name for path in finished_runs(tmp_path)] == ["a-001", "b-001"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("[]", "an object"),
        ('{"name": ', "Invalid JSON"),
        ("\udcff", "Invalid JSON"),
        (json.dumps(summaries.PLAIN | {"nmae": 1}), "nmae: unknown key"),
        (json.dumps(summaries.PLAIN | {"epochs": 7}), "vicinal_auroc has 2 values"),
        (json.dumps(summaries.PLAIN | {"test": {"image_auroc": math.nan}}), "test.image_auroc"),
    ],
)
def test_a_damaged_summary_is_refused_with_where_and_why(text: str, said: str, run: Path) -> None:
    (run / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"is not a finished run: no usable summary[.]json") as error:
        open_summary(run)
    assert said in str(error.value)


@pytest.mark.parametrize("line", ["", "[]", "{}", '{"epoch": 1, "train/loss": "low"}', "{"])
def test_a_damaged_history_is_refused(line: str, run: Path) -> None:
    (run / "history.jsonl").write_text(line + "\n")
    with pytest.raises(RunError, match=r"is not a finished run: no usable history[.]jsonl"):
        open_history(run)


def changed(place: str, value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(summaries.PLAIN))
    *outer, last = place.split(".")
    part = plain
    for key in outer:
        part = part[key]
    part[last] = value
    return plain


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("thresholds.threshold", math.inf),
        ("thresholds.threshold", True),
        ("thresholds.other", 0.1),
        ("vicinal_auroc", [0.8, math.nan]),
        ("vicinal_auroc", []),
        ("best_epoch", 2),
        ("best_epoch", -1),
        ("stop_reason", "bored"),
        ("data.train", "many"),
        ("data.train", 1.5),
        ("seconds", {"train": -math.inf}),
        ("mlflow_run_id", 3),
        ("test_by_kind", [{"kind": "a", "images": 1, "rejected": 0, "rejected_interval": [0, 1], "x": "y"}]),
    ],
)
def test_what_no_run_writes_is_no_summary(place: str, value: Any) -> None:
    RunSummary.model_validate(summaries.PLAIN)
    with pytest.raises(ValidationError):
        RunSummary.model_validate(changed(place, value))


def test_a_summary_survives_its_file(small_run: Path) -> None:
    summary = open_summary(small_run)
    assert RunSummary.model_validate_json(json.dumps(summary.plain())) == summary
    assert summary.plain() == json.loads((small_run / "summary.json").read_text())
    with pytest.raises(ValidationError):
        summary.seed = 2  # type: ignore[misc]


def test_shares_that_were_mixed_are_written_as_json_has_keys() -> None:
    mixed = RunSummary.model_validate(summaries.PLAIN | {"mixed": {0.5: 0.8, 1.0: 0.9}})
    assert mixed.plain()["mixed"] == {"0.5": 0.8, "1.0": 0.9}
    assert RunSummary.model_validate_json(json.dumps(mixed.plain())) == mixed


def test_a_run_without_a_test_split_has_no_test_metric() -> None:
    metrics = final_metrics(RunSummary.model_validate(summaries.PLAIN))
    assert metrics["gain/vicinal_auroc"] == pytest.approx(0.05)
    assert not [name for name in metrics if name.startswith(("test/", "frozen/", "gain/image"))]
