"""Tell MLflow about a run when it starts and when it ends."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomaly_ft import __version__
from anomaly_ft.data.loaded import Images
from anomaly_ft.evaluation.gallery import NOT_IN_A_KEY
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.summary import final_metrics
from anomaly_ft.run.summary_text import run_note, verdict_of
from anomaly_ft.tracking.interface import Tracker

# these the logged model holds once; the sums serve the run folder alone
NOT_ARTIFACTS = frozenset({"encoder", "adapter", "detector.safetensors", "sums.safetensors"})


def log_start(recipe: Recipe, split: pd.DataFrame, tracker: Tracker, commit: str) -> None:
    """Log parameters, tags and data, before the first epoch."""
    tracker.params(recipe.flat())
    tracker.tags(
        {
            "anomaly_ft.version": __version__,
            "git.commit": commit,
            "encoder": recipe.encoder.name,
            "dataset": Path(recipe.data.root).name,
        }
    )
    tracker.dataset(split, recipe.data.root, Path(recipe.data.root).name)


def log_suspicious(rows: Sequence[Mapping[str, Any]], images: Images, tracker: Tracker) -> None:
    """Log pictures of suspicious training images, the most suspicious first, under `suspicious/`."""
    places = {record.name: i for i, record in enumerate(images.records)}
    for rank, row in enumerate(rows, 1):
        stem = NOT_IN_A_KEY.sub("-", Path(row["name"]).stem)
        tracker.image(np.asarray(images.pixels[places[row["name"]]]), f"suspicious/{rank} {stem}", 0)


def log_end(summary: RunSummary, tracker: Tracker, folder: Path) -> None:
    """Log what the restored best epoch is worth, why training ended, and the run folder as artifacts, without
    what the logged model holds."""
    tracker.metrics(final_metrics(summary))
    tracker.tags(
        {
            "stop_reason": summary.stop_reason,
            "stop_why": summary.stop_why,
            "verdict": verdict_of(summary),
            **({"position": summary.position.chosen} if summary.position else {}),
            **({"teacher": summary.teacher.name} if summary.teacher else {}),
            "run_folder": str(folder.resolve()),
            "mlflow.note.content": run_note(summary, folder.resolve()),
        }
    )
    tracker.artifacts(folder, without=NOT_ARTIFACTS)
