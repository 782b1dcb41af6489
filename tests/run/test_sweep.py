import json
import os
import shutil
import signal
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click.testing
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, write_recipe

import anomaly_ft.run.executors
from anomaly_ft.cli.main import main
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.sweep import Job
from anomaly_ft.run.executors import run_job
from anomaly_ft.run.folder import locked
from anomaly_ft.run.sweep import finished, side_by_side

UNTRAINED = ("schedule.max_epochs=0", *ONE_AUGMENTATION)
SWEEP = """
name: pair
recipe: tiny.yaml
categories: {{textures: {root}, other: {other}}}
seeds: [0, 1]
"""


@pytest.fixture
def sweep(mvtec_folder: Path, tmp_path: Path) -> Path:
    """A sweep of two categories with two seeds; the images of the second category are not there yet."""
    (tmp_path / "other").mkdir()
    write_recipe(tmp_path / "tiny.yaml", mvtec_folder, *UNTRAINED)
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(root=mvtec_folder, other=tmp_path / "other"))
    return path


def run(sweep: Path, *options: str) -> click.testing.Result:
    return CliRunner().invoke(main, ["sweep", str(sweep), "--output", str(sweep.parent / "runs"), *options])


def summary_of(result: click.testing.Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def mend(sweep: Path, mvtec_folder: Path) -> None:
    shutil.copytree(mvtec_folder, sweep.parent / "other", dirs_exist_ok=True)


def test_a_failing_run_sinks_no_other_and_is_run_again_alone(sweep: Path, mvtec_folder: Path) -> None:
    first = run(sweep, "--json")
    assert first.exit_code == 5, first.output
    summary = summary_of(first)
    assert (summary["failed"], summary["skipped"]) == (2, 0)
    folder = sweep.parent / "runs" / "pair"
    assert {p.name for p in folder.iterdir()} >= {"textures-seed0-001", "textures-seed1-001", "results"}
    errors = sorted(path.name for path in (folder / "results" / "errors").iterdir())
    assert errors == ["other-seed0.txt", "other-seed1.txt"]
    assert "DataError" in (folder / "results" / "errors" / "other-seed0.txt").read_text()
    assert "other-seed0: failed: " in first.stderr

    said = run(sweep, "--dry-run").stderr
    assert "textures-seed1-001" in said
    assert "other-seed1: to be run" in said
    mend(sweep, mvtec_folder)
    again = run(sweep, "--json")
    assert again.exit_code == 0, again.output
    assert (summary_of(again)["failed"], summary_of(again)["skipped"]) == (0, 2)
    assert not list((folder / "results" / "errors").iterdir())
    table = pd.read_csv(folder / "results" / "results.csv")
    assert table.groupby("category").size().to_dict() == {"textures": 2, "other": 2}
    assert {p.name for p in folder.glob("*-seed*")} == {
        "textures-seed0-001", "textures-seed1-001", "other-seed0-001", "other-seed1-001",
    }  # fmt: skip
    everything = summary_of(run(sweep, "--json"))
    assert everything["skipped"] == 4
    for row in everything["runs"]:
        summary = json.loads(Path(row["folder"], "summary.json").read_text())
        assert row["fine_tuned"] == summary["test"]["image_auroc"]
        assert row["frozen"] == summary["frozen_test"]["image_auroc"]
        assert row["seed"] == summary["seed"]


def test_a_sweep_in_a_folder_in_use_is_refused(sweep: Path) -> None:
    with locked(sweep.parent / "runs" / "pair"):
        result = run(sweep)
    assert result.exit_code == 2
    assert "another run is being written there" in result.stderr
    assert [path.name for path in (sweep.parent / "runs" / "pair").iterdir()] == [".lock"]


def test_a_dry_run_writes_nothing(sweep: Path) -> None:
    assert run(sweep, "--dry-run").exit_code == 0
    assert not (sweep.parent / "runs").exists()


def test_finished_is_a_run_with_the_same_settings_wherever_it_was_computed(small_run: Path) -> None:
    recipe = read_recipe(small_run / "recipe.yaml")
    found = finished(recipe, small_run.parent)
    assert found is not None
    assert found.folder == small_run
    elsewhere = [("runtime", "batch_size", 7), ("runtime", "precision", "auto"), ("tracking", "mlflow", True)]
    other = [("gaussian", "grid", 5), ("runtime", "precision", "bf16"), ("encoder", "weights", "package")]
    for changes, is_finished in ((elsewhere, True), (other, False)):
        for section, key, value in changes:
            changed = getattr(recipe, section).model_copy(update={key: value})
            again = finished(recipe.model_copy(update={section: changed}), small_run.parent)
            assert (again is not None) == is_finished, (section, key)
    assert finished(recipe.model_copy(update={"name": "smal"}), small_run.parent) is None


def test_a_folder_that_is_no_finished_run_is_run_again(small_run: Path, tmp_path: Path) -> None:
    recipe = read_recipe(small_run / "recipe.yaml")
    for lost in ("summary.json", "recipe.yaml"):
        copy = shutil.copytree(small_run, tmp_path / lost / small_run.name)
        (copy / lost).unlink()
        assert finished(recipe, copy.parent) is None
    (copy / lost).write_text("data: 3")
    assert finished(recipe, copy.parent) is None


def test_runs_are_children_of_one_and_stay_so_when_the_sweep_goes_on(
    sweep: Path, mvtec_folder: Path, store: str
) -> None:
    tracked = ("--json", "-s", "tracking.mlflow=true", "-s", f"tracking.uri={store}")
    tracked += ("-s", "tracking.experiment=sweep")
    first = summary_of(run(sweep, *tracked))
    mend(sweep, mvtec_folder)
    summary = summary_of(run(sweep, *tracked))
    assert summary["mlflow_run_id"] == first["mlflow_run_id"]
    client = MlflowClient(store)
    parent = client.get_run(summary["mlflow_run_id"])
    found = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert sorted(run.info.run_name for run in found) == [
        "other-seed0-001", "other-seed1-001", "textures-seed0-001", "textures-seed1-001",
    ]  # fmt: skip
    assert {run.data.tags["group"] for run in [parent, *found]} == {"pair"}
    assert {run.data.tags["sweep.category"] for run in found} == {"textures", "other"}
    scores = [run.data.metrics["test/image_auroc"] for run in found]
    assert parent.data.metrics["test/image_auroc"] == pytest.approx(mean(scores), abs=1e-6)
    assert parent.data.tags["verdict"] == "none of 4 forgot"
    assert "val/vicinal_auroc" not in parent.data.metrics, "a mean over settings would say nothing"
    assert parent.data.metrics["sweep/failed"] == 0
    assert parent.info.status == "FINISHED"
    assert "| textures |" in parent.data.tags["mlflow.note.content"]
    logged = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"results.csv", "results.md"} <= logged


def test_the_curve_of_a_sweep_over_seeds_is_the_mean_of_its_runs(sweep: Path, store: str) -> None:
    text = sweep.read_text()
    sweep.write_text(
        text.replace("name: pair", "name: seeds").replace(text[text.index(", other:") : -1], "}\nseeds: [0, 1]")
    )
    summary = summary_of(
        run(
            sweep,
            "--json",
            "-s",
            "tracking.mlflow=true",
            "-s",
            f"tracking.uri={store}",
            "-s",
            "schedule.max_epochs=1",
        )
    )
    curves = [
        json.loads(Path(row["folder"], "summary.json").read_text())["vicinal_auroc"] for row in summary["runs"]
    ]
    points = MlflowClient(store).get_metric_history(summary["mlflow_run_id"], "val/vicinal_auroc")
    assert [point.value for point in points] == pytest.approx(
        [mean(values) for values in zip(*curves, strict=True)]
    )
    assert [point.step for point in points] == [0, 1]


def test_a_bug_in_one_run_is_its_outcome_with_a_trace(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomaly_ft.recipe.sweep import read_sweep

    def fail(*args: object) -> None:
        raise ZeroDivisionError("somewhere")

    monkeypatch.setattr(anomaly_ft.run.executors, "prepare", fail)
    outcome = run_job(read_sweep(sweep).jobs[0], sweep.parent, {})
    assert outcome.run is None
    assert outcome.error == "ZeroDivisionError: somewhere"
    assert "Traceback" in outcome.trace


def test_what_an_interrupted_sweep_left_is_gone_on_with(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(small_run / "recipe.yaml")
    partial = shutil.copytree(small_run, tmp_path / ".small-001.partial")
    begun: list[Path | None] = []

    def train(setup: object, output: Path, *, unfinished: Path | None, tags: object) -> dict[str, Any]:
        begun.append(unfinished)
        return {}

    monkeypatch.setattr(anomaly_ft.run.executors, "train", train)
    other = recipe.optimizer.model_copy(update={"lr": 0.5})
    for each in (recipe, recipe.model_copy(update={"optimizer": other})):
        assert run_job(Job("", "", each), tmp_path, {}).error == ""
    assert begun == [partial, None], "with other settings it begins anew"


def row(seed: int, tuned: float | None, error: str = "") -> dict[str, Any]:
    gain = None if tuned is None else tuned - 0.5
    return {
        "category": "c", "setting": "s", "seed": seed, "frozen": 0.5, "fine_tuned": tuned, "gain": gain,
        "vicinal_gain": gain, "kept_epoch": seed, "error": error,
    }  # fmt: skip


def test_the_table_holds_mean_and_deviation_of_what_was_finished() -> None:
    (line,) = side_by_side([row(1, 0.8), row(2, 0.85), row(3, 0.96), row(4, None, "failed")])
    values = [0.8, 0.85, 0.96]
    assert line["fine-tuned"] == f"{mean(values):.4f} ± {stdev(values):.4f}"
    assert line["gain"] == f"+{mean(values) - 0.5:.4f} ± {stdev(values):.4f}"
    assert (line["runs"], line["failed"]) == ("3", "1")
    assert line["kept epochs"] == "1 2 3 4"


def test_without_test_images_the_table_has_no_test_numbers() -> None:
    bare = {**row(0, None), "frozen": None, "vicinal_gain": 0.01}
    (line,) = side_by_side([bare])
    assert (line["frozen"], line["fine-tuned"], line["gain"]) == ("-", "-", "-")
    assert line["vicinal gain"] == "+0.0100"


def test_an_address_is_for_ray(sweep: Path) -> None:
    result = run(sweep, "--address", "auto")
    assert result.exit_code == 2
    assert "add --engine ray" in result.stderr


def test_without_ray_the_way_to_get_it_is_named(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = run(sweep, "--engine", "ray")
    assert result.exit_code == 2
    assert "pip install ray" in result.stderr


@pytest.fixture
def ray_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers give way to all else on a machine; beside other work they would not be done in time."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_workers")
def test_two_ray_workers_find_what_one_process_finds(sweep: Path, mvtec_folder: Path) -> None:
    mend(sweep, mvtec_folder)
    here = summary_of(run(sweep, "--json"))
    there = summary_of(
        run(
            sweep,
            "--json",
            "--engine",
            "ray",
            "-s",
            "expert.gaussian.grid=4",
            "--output",
            f"{sweep.parent}/ray",
        )
    )

    def scores(summary: dict[str, Any]) -> dict[tuple[str, int], float]:
        return {(row["category"], row["seed"]): row["fine_tuned"] for row in summary["runs"]}

    assert scores(there) == pytest.approx(scores(here), abs=1e-6)
    assert (there["failed"], there["skipped"], len(there["runs"])) == (0, 0, 4)
    assert all(Path(row["folder"]).parent == (sweep.parent / "ray" / "pair") for row in there["runs"])


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.usefixtures("ray_workers")
def test_a_worker_that_dies_fails_its_run_alone(sweep: Path, mvtec_folder: Path) -> None:
    mend(sweep, mvtec_folder)
    write_recipe(sweep.parent / "tiny.yaml", mvtec_folder, "name=x", *UNTRAINED)
    from anomaly_ft.recipe.sweep import Resources, read_sweep
    from anomaly_ft.run.executors import on_ray

    jobs = read_sweep(sweep).jobs[:2]

    def die(job: Any, output: Path, tags: dict[str, str]) -> Any:
        if job.recipe.seed == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return anomaly_ft.run.executors.Outcome(job, None, "fine")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anomaly_ft.run.executors, "run_job", die)
        outcomes = {o.job.recipe.seed: o for o in on_ray(jobs, sweep.parent, {}, resources=Resources())}
    assert "the worker died" in outcomes[0].error
    assert outcomes[1].error == "fine"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_workers")
def test_more_than_this_machine_has_is_refused(sweep: Path) -> None:
    with sweep.open("a") as file:
        file.write("resources: {cpus: 4096}\n")
    result = run(sweep, "--engine", "ray")
    assert result.exit_code == 2
    assert "a run wants 4096 CPU, this machine has" in result.stderr
