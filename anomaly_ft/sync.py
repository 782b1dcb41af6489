"""A finished run into MLflow, where the store was not there while it trained: only what is missing is sent."""

import json
import warnings
from pathlib import Path

import pandas as pd

from anomaly_ft.bookkeeping import log_end, log_start
from anomaly_ft.errors import RunError
from anomaly_ft.folder import write_json
from anomaly_ft.notes import experiment_tags
from anomaly_ft.outbox import NotSent
from anomaly_ft.recipe_file import read_recipe
from anomaly_ft.store import choose_store
from anomaly_ft.tracking import make_tracker


def sync(folder: Path, store: str | None = None) -> str:
    """Send what the store lacks of a finished run; says where it is now.

    Args:
        folder: what `train` left; its summary is told the id of a run that had to be made.
        store: MLflow server or database; unset: the recipe's, else MLFLOW_TRACKING_URI, else the database
            beside the folder.

    Raises:
        RunError: a folder that is not a finished run, or a store that does not take everything.
    """
    if not (folder / "summary.json").is_file():
        raise RunError(
            f"{folder} is not a finished run: summary.json is missing; go on with train --resume first"
        )
    recipe = read_recipe(folder / "recipe.yaml", check_root=False)
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        history = [json.loads(line) for line in lines]
        frame = pd.read_csv(folder / "split.csv", keep_default_na=False)
        run_id, commit = summary["mlflow_run_id"], summary.get("git_commit", "none")
    except Exception as cause:  # they may hold anything
        raise RunError(f"{folder}: cannot be read as a run: {type(cause).__name__}: {cause}") from cause
    uri = choose_store(store or recipe.tracking.uri, folder.parent)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", NotSent)
        with make_tracker(
            enabled=True,
            uri=uri,
            experiment=recipe.tracking.experiment,
            name=folder.resolve().name,
            output=folder.parent,
            run_id=run_id,
            experiment_tags=experiment_tags(),
        ) as tracker:
            log_start(recipe, frame, tracker, commit)
            for line in history:
                tracker.metrics({key: value for key, value in line.items() if "/" in key}, line["epoch"])
            log_end(summary, tracker, folder)
            tracker.model(folder, recipe.runtime.computing(), recipe.tracking.register)
    failures = [one for one in said if issubclass(one.category, NotSent)]
    for other in (one for one in said if one not in failures):  # what libraries warn of goes where it would
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if not tracker.complete:
        trouble = (
            str(failures[0].message).partition("; training")[0] if failures else "it did not take everything"
        )
        raise RunError(f"{folder}: {trouble}; what arrived is kept, the same command sends the rest")
    if tracker.run_id != run_id:
        write_json(folder / "summary.json", summary | {"mlflow_run_id": tracker.run_id})
    return f"{folder.name} is complete as run {tracker.run_id} in {uri}"
