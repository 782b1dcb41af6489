"""A study's folder: what was computed so far, so that a study that was killed goes on, and its tables.

`.steps.jsonl` has a line for each step that is done. A line that was cut off in the middle is computed again.
Tables and figures are made from the steps alone, so that a study that is finished shows them at once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from anomaly_ft.errors import RunError
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.folder import locked, writing_to
from anomaly_ft.run.open import open_summary
from anomaly_ft.system.files import append_json_line, json_line, write_json, write_text
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.store import refuse_new_database
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker

Row = dict[str, Any]
STEPS, SETTINGS = ".steps.jsonl", "study.json"
AGAIN = "give the same command again"  # once there is room on the disk


@dataclass
class Study:
    """The rows of the steps that are done, by the name of the step; each is computed once."""

    folder: Path
    done: dict[str, list[Row]] = field(default_factory=dict)

    def step(self, name: str, compute: Callable[[], Sequence[Row]]) -> list[Row]:
        """Give the rows of a step, from the folder or computed now."""
        if name not in self.done:
            rows = list(compute())
            with writing_to(self.folder, AGAIN):
                append_json_line(self.folder / STEPS, {"step": name, "rows": rows})
            self.done[name] = rows
        return self.done[name]

    def write(self, tables: Mapping[str, Sequence[Row]], figures: Mapping[str, Any]) -> None:
        """Write tables as CSV and matplotlib's figures as PNG, each under its name."""
        with writing_to(self.folder, AGAIN):
            for name, rows in tables.items():
                text = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
                write_text(self.folder / f"{name}.csv", text)
            for name, figure in figures.items():
                figure.savefig(self.folder / f"{name}.png", dpi=130)


@contextmanager
def open_study(folder: Path, settings: Mapping[str, Any], terminal: Terminal) -> Iterator[Study]:
    """Open a study that nobody else works on meanwhile, with the steps that an earlier try left.

    Args:
        folder: of the study; made where it is not there.
        settings: what decides the numbers, as JSON holds it.
        terminal: is told of steps that are there already.

    Raises:
        RunError: a folder that cannot be written to, or one of a study with other settings.
    """
    with locked(folder):
        _refuse_others(folder, settings)
        with writing_to(folder, AGAIN):
            done = _read(folder / STEPS)
            write_json(folder / SETTINGS, settings)
            write_text(folder / STEPS, "".join(json_line({"step": k, "rows": v}) for k, v in done.items()))
        if done:
            terminal.say(f"going on with {folder}: {len(done)} steps are done")
        yield Study(folder, done)


def log_with_run(study: Study, run: Path, recipe: Recipe) -> None:
    """Log a study of a finished run to its MLflow run, as files below the study's name; nothing where the run
    is not in MLflow.

    Raises:
        RunError: the recipe of the run names a database that is not there.
    """
    known = open_summary(run).mlflow_run_id
    if known is None:
        return
    refuse_new_database(recipe.tracking.uri)
    tracked = TrackedRun(recipe.tracking.experiment, run.resolve().name, run_id=known)
    output = run.resolve().parent
    with make_tracker(tracked, enabled=True, uri=recipe.tracking.uri, output=output) as tracker:
        tracker.artifacts(study.folder.parent)


def log_alone(study: Study, recipe: Recipe, name: str, output: Path) -> None:
    """Log a study as one MLflow run of its own, where the recipe logs at all, however often it is shown."""
    remembered = study.folder / "mlflow.json"
    known = json.loads(remembered.read_text(encoding="utf-8")) if remembered.is_file() else {}
    run = TrackedRun(
        recipe.tracking.experiment,
        name,
        run_id=known.get("mlflow_run_id"),
        experiment_tags=experiment_tags(),
    )
    enabled, uri = recipe.tracking.mlflow, recipe.tracking.uri
    with make_tracker(run, enabled=enabled, uri=uri, output=output) as tracker:
        tracker.params(recipe.flat())
        tracker.tags({"dataset": Path(recipe.data.root).name, "study": name})
        tracker.artifacts(study.folder)
    if tracker.run_id:
        with writing_to(study.folder, AGAIN):
            write_json(remembered, {"mlflow_run_id": tracker.run_id})


def _refuse_others(folder: Path, settings: Mapping[str, Any]) -> None:
    try:
        before = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    changed = sorted(
        key
        for key in {*before, *settings}
        if json.dumps(before.get(key), sort_keys=True) != json.dumps(settings.get(key), sort_keys=True)
    )
    if changed:
        now = ", ".join(f"{key} {before.get(key)!r:.60} -> {settings.get(key)!r:.60}" for key in changed[:3])
        raise RunError(
            f"{folder} holds a study with other settings ({now}); give another --output, or remove that folder"
        )


def _read(path: Path) -> dict[str, list[Row]]:
    """Read the steps that were written to their end."""
    if not path.is_file():
        return {}
    done = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            step = json.loads(line)
            done[str(step["step"])] = list(step["rows"])
        except (ValueError, KeyError, TypeError):
            break  # cut off here
    return done
