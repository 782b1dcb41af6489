"""Run a sweep: skip runs already finished, train the others, tabulate all side by side."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import pandas as pd

from anomaly_ft.errors import DataError, RecipeError, RunError
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.sweep import Job, Sweep
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.executors import Outcome, in_process, on_ray
from anomaly_ft.run.open import finished_runs, open_recipe, open_summary
from anomaly_ft.run.run_summary import FinishedRun
from anomaly_ft.run.setup import with_native_size
from anomaly_ft.run.summary import DIGITS, difference
from anomaly_ft.run.summary_text import peak
from anomaly_ft.run.sweep_choice import chosen, comparable
from anomaly_ft.system.addresses import without_password
from anomaly_ft.system.files import write_json, write_text
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.interface import Tracker
from anomaly_ft.tracking.store import choose_store
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker

# columns of a run in `results.csv` that a run which failed does not have
RESULTS = (
    "frozen", "fine_tuned", "gain", "vicinal_gain", "kept_epoch", "stop_reason", "seconds", "folder"
)  # fmt: skip
Engine = Literal["in-process", "ray"]
# settings that do not decide what a run finds, but for one
NO_SAY = ("tracking.", "runtime.", "expert.tracking.", "expert.runtime.")
SAY = "runtime.precision"


def run_sweep(
    sweep: Sweep,
    output: Path,
    terminal: Terminal,
    *,
    engine: Engine = "in-process",
    address: str | None = None,
) -> dict[str, Any]:
    """Do all runs of a sweep that are not finished yet; returns its summary.

    Run folders and `results/` (a line for each run in `results.csv`, mean ± sd in `results.md`, why runs
    failed in `errors/`) go into a folder of the sweep's name in `output`; in MLflow the runs are children
    of one.

    Raises:
        RunError: an output folder or an engine that cannot be used. A run that fails raises nothing.
    """
    folder = output / sweep.name
    jobs = [_tracked(job, output) for job in sweep.jobs]
    known = {job.recipe.name: finished(job.recipe, folder) for job in jobs}
    left = [job for job in jobs if known[job.recipe.name] is None]
    terminal.say(f"sweep {sweep.name}: {len(jobs)} runs, {len(jobs) - len(left)} of them finished before")
    first, state = jobs[0].recipe.tracking, folder / "sweep.json"
    parent = TrackedRun(first.experiment, sweep.name, _parent_of(state), experiment_tags())
    with make_tracker(parent, enabled=first.mlflow, uri=first.uri, output=output) as tracker:
        _write_state(state, sweep.name, tracker.run_id)
        tracker.tags({"group": sweep.name})
        tags = {"group": sweep.name} | ({"mlflow.parentRunId": tracker.run_id} if tracker.run_id else {})
        before = [Outcome(job, earlier) for job in jobs if (earlier := known[job.recipe.name])]
        doing = (
            on_ray(left, folder.resolve(), tags, address=address, resources=sweep.resources)
            if engine == "ray"
            else in_process(left, folder, tags)
        )
        outcomes = [*before, *_announced(doing, len(jobs), len(before), terminal)]
        rows = [row_of(outcome) for outcome in outcomes]
        table = side_by_side([*rows, *(chosen(rows) if comparable(jobs) else [])])
        _write_results(folder / "results", rows, table, outcomes)
        failed = sum(bool(row["error"]) for row in rows)
        tracker.metrics({"sweep/runs": len(rows), "sweep/failed": failed, **_means(rows)}, len(rows) - failed)
        tracker.tags({"mlflow.note.content": markdown(table), "verdict": forgot_when(outcomes)})
        _log_curve(tracker, outcomes)
        tracker.artifacts(folder / "results")
    return {
        "name": sweep.name,
        "folder": str(folder),
        "runs": rows,
        "table": table,
        "failed": failed,
        "skipped": len(before),
        "mlflow_run_id": tracker.run_id,
        "mlflow_uri": without_password(tracker.uri or ""),
    }


def finished(recipe: Recipe, folder: Path) -> FinishedRun | None:
    """Find the finished run in `folder` with the recipe's name and settings, if there is one.

    Where and how it was computed and tracked is no difference, nor what `auto` stood for.
    """
    name = re.escape(recipe.name) + r"-\d{3,}"
    candidates = [run for run in reversed(finished_runs(folder)) if re.fullmatch(name, run.name)]
    wanted = _wanted(recipe) if candidates else {}
    for candidate in candidates:
        try:
            settings_of_run, summary = open_recipe(candidate).flat(), open_summary(candidate)
        except (RecipeError, RunError):
            continue  # not a run that this version can vouch for
        if wanted.items() <= {key: settings_of_run.get(key) for key in wanted}.items():
            return FinishedRun(candidate, summary)
    return None


def _wanted(recipe: Recipe) -> dict[str, Any]:
    """Give the settings that decide what a run finds, as a run that was trained with them has them."""
    with suppress(DataError):  # images that cannot be used have no size; training says why
        recipe = with_native_size(recipe)
    settings = {k: v for k, v in recipe.flat().items() if k == SAY or not k.startswith(NO_SAY)}
    return {key: value for key, value in settings.items() if value != "auto"}


def row_of(outcome: Outcome) -> dict[str, Any]:
    """Flatten one run to one line; what was not measured is None."""
    job = outcome.job
    return {
        "category": job.category or Path(job.recipe.data.root).name,
        "setting": job.setting or "default",
        "seed": job.recipe.seed,
        **(dict.fromkeys(RESULTS) if outcome.run is None else _results(outcome.run)),
        "error": outcome.error,
    }


def _results(run: FinishedRun) -> dict[str, Any]:
    """Read the results of a finished run, under the keys `RESULTS`."""
    summary = run.summary
    before, after = ((numbers or {}).get("image_auroc") for numbers in (summary.frozen_test, summary.test))
    return {
        "frozen": before,
        "fine_tuned": after,
        "gain": difference(after, before),
        "vicinal_gain": difference(summary.kept_vicinal_auroc, summary.vicinal_auroc[0]),
        "kept_epoch": summary.best_epoch,
        "stop_reason": summary.stop_reason,
        "seconds": sum(summary.seconds.values()),
        "folder": str(run.folder),
    }


def side_by_side(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Tabulate each category and setting: image AUROC as mean ± sd over the seeds that were finished."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["category"], row["setting"]), []).append(row)
    return [
        {
            "category": category,
            "setting": setting,
            "runs": str(sum(not row["error"] for row in group)),
            "failed": str(sum(bool(row["error"]) for row in group) or "-"),
            "frozen": spread(row["frozen"] for row in group),
            "fine-tuned": spread(row["fine_tuned"] for row in group),
            "gain": spread((row["gain"] for row in group), "+.4f"),
            "vicinal gain": spread((row["vicinal_gain"] for row in group), "+.4f"),
            "kept epochs": " ".join(str(r["kept_epoch"]) for r in group if r["kept_epoch"] is not None) or "-",
        }
        for (category, setting), group in groups.items()
    ]


def spread(values: Iterable[float | None], form: str = ".4f") -> str:
    """Format mean ± standard deviation (n - 1) of the values there are.

    >>> spread([0.8, None, 0.9]), spread([0.8]), spread([None])
    ('0.8500 ± 0.0707', '0.8000', '-')
    """
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    return format(mean(there), form) + (f" ± {stdev(there):.4f}" if len(there) > 1 else "")


def markdown(table: Sequence[Mapping[str, str]]) -> str:
    """Format the table for a note or a page."""
    head = list(table[0])
    rows = ["| " + " | ".join(row.values()) + " |" for row in table]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *rows]) + "\n"


def _tracked(job: Job, output: Path) -> Job:
    """Point the job to the sweep's store, wherever it is run."""
    tracking = job.recipe.tracking
    if not tracking.mlflow:
        return job
    tracking = tracking.model_copy(update={"uri": choose_store(tracking.uri, output)})
    return Job(job.category, job.setting, job.recipe.model_copy(update={"tracking": tracking}))


def _parent_of(state: Path) -> str | None:
    """Read the MLflow run of this sweep where it was begun before."""
    try:
        run_id: str | None = json.loads(state.read_text(encoding="utf-8"))["mlflow_run_id"]
    except (OSError, ValueError, KeyError):
        return None
    return run_id


def _write_state(state: Path, name: str, run_id: str | None) -> None:
    try:
        state.parent.mkdir(parents=True, exist_ok=True)
        write_json(state, {"name": name, "mlflow_run_id": run_id})
    except OSError as cause:
        raise RunError(f"--output {state.parent.parent}: cannot be written to ({cause})") from cause


def _announced(doing: Iterator[Outcome], total: int, done: int, terminal: Terminal) -> Iterator[Outcome]:
    for count, outcome in enumerate(doing, done + 1):
        row = row_of(outcome)
        outcome_text = f"failed: {row['error']}"
        if not row["error"]:
            outcome_text = f"frozen {spread([row['frozen']])}, fine-tuned {spread([row['fine_tuned']])}"
        terminal.say(f"[{count} of {total}] {outcome.job.recipe.name}: {outcome_text}")
        yield outcome


def _write_results(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    table: Sequence[Mapping[str, str]],
    outcomes: Sequence[Outcome],
) -> None:
    errors = folder / "errors"
    errors.mkdir(parents=True, exist_ok=True)
    for old in errors.glob("*.txt"):
        old.unlink()
    for outcome in outcomes:
        if outcome.error:
            write_text(errors / f"{outcome.job.recipe.name}.txt", without_password(outcome.trace))
    write_text(folder / "results.csv", pd.DataFrame(rows).to_csv(index=False))
    write_text(folder / "results.md", markdown(table))


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Average over all runs, under the names that a single run has."""
    names = {
        "frozen": "frozen/image_auroc",
        "fine_tuned": "test/image_auroc",
        "gain": "gain/image_auroc",
        "vicinal_gain": "gain/vicinal_auroc",
    }
    there = {name: [row[key] for row in rows if row[key] is not None] for key, name in names.items()}
    return {name: round(mean(values), DIGITS) for name, values in there.items() if values}


def forgot_when(outcomes: Sequence[Outcome]) -> str:
    """Say how many of the runs forgot, and when, for a column of a table."""
    summaries = [outcome.run.summary for outcome in outcomes if outcome.run]
    forgot = [each for each in summaries if each.stop_reason == "forgetting"]
    epochs = sorted({peak(each.curve, each.best_epoch) for each in forgot})
    when = f" after epoch {' or '.join(map(str, epochs))}" if forgot else ""
    return f"{len(forgot) or 'none'} of {len(outcomes)} forgot{when}"


def _log_curve(tracker: Tracker, outcomes: Sequence[Outcome]) -> None:
    """Log the mean curve of runs that differ in their seed alone, as far as all were trained."""
    curves = [outcome.run.summary.vicinal_auroc for outcome in outcomes if outcome.run]
    settings = {(outcome.job.category, outcome.job.setting) for outcome in outcomes}
    if len(settings) > 1 or len(curves) < len(outcomes):
        return
    for step, values in enumerate(zip(*curves, strict=False)):
        there = [value for value in values if value is not None]
        if len(there) == len(values):
            tracker.metrics({"val/vicinal_auroc": round(mean(there), DIGITS)}, step)
