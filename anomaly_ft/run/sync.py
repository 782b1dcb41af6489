"""Send a finished run to MLflow where the store was down while it trained: only what is missing is sent."""

import shutil
import warnings
from pathlib import Path

import pandas as pd

from anomaly_ft.errors import RunError
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.log import log_end, log_start
from anomaly_ft.run.open import Epoch, open_history, open_recipe, open_summary
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.system.addresses import without_password
from anomaly_ft.system.files import write_json
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.retry_queue import NotSent
from anomaly_ft.tracking.store import choose_store, refuse_new_database
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker


def sync(folder: Path, store: str | None = None) -> str:
    """Send what the store lacks of a finished run; says where it is now.

    Args:
        folder: what `train` left; its summary is told the id of a run that had to be made.
        store: MLflow server or database; unset: the recipe's, else MLFLOW_TRACKING_URI, else the database
            beside the folder.

    Raises:
        RunError: a folder that is not a finished run, or a store that does not take everything.
    """
    recipe, summary, history, split = _read(folder)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # of a run that was killed when it was complete
    run_id, uri = summary.mlflow_run_id, choose_store(store or recipe.tracking.uri, folder.parent)
    if not store:
        refuse_new_database(recipe.tracking.uri)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotSent)
        run = TrackedRun(recipe.tracking.experiment, folder.resolve().name, run_id, experiment_tags())
        with make_tracker(run, enabled=True, uri=uri, output=folder.parent) as tracker:
            log_start(recipe, split, tracker, summary.git_commit)
            for epoch, metrics in history:
                tracker.metrics(metrics, epoch)
            log_end(summary, tracker, folder)
            tracker.model(folder, recipe.runtime.computing(), recipe.tracking.register)
    failures = [one for one in caught if issubclass(one.category, NotSent)]
    for other in (one for one in caught if one not in failures):  # what libraries warn of goes where it would
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if not tracker.complete:
        trouble = (
            str(failures[0].message).partition("; training")[0] if failures else "it did not take everything"
        )
        raise RunError(f"{folder}: {trouble}; what arrived is kept, the same command sends the rest")
    if tracker.run_id != run_id:
        summary = summary.model_copy(update={"mlflow_run_id": tracker.run_id})
        write_json(folder / "summary.json", summary.plain())
    return f"{folder.name} is complete as run {tracker.run_id} in {without_password(uri)}"


def _read(folder: Path) -> tuple[Recipe, RunSummary, list[Epoch], pd.DataFrame]:
    """Read recipe, summary, the metrics of each epoch and the split of a finished run; refuse damaged
    ones."""
    recipe, summary, history = open_recipe(folder), open_summary(folder), open_history(folder)
    if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
        raise RunError(f"{folder}: cannot be sent: {link.relative_to(folder)} is a link, which no run has")
    try:
        return recipe, summary, history, pd.read_csv(folder / "split.csv", keep_default_na=False)
    except Exception as cause:  # it may hold anything
        reason = f"{type(cause).__name__}: {cause}"
        raise RunError(f"{folder} is not a finished run: no usable split.csv ({reason:.200})") from cause
