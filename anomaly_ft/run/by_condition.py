"""What `evaluate --by` needs besides: the frozen detector's word on the same images, names for MLflow."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.conditions import Judged, as_columns

NOT_AT_HAND = (
    "the frozen detector is not at hand {why}, so it does not stand beside these numbers; a run with "
    "-s schedule.max_epochs=0 is one that can be evaluated like this one"
)
METRICS = ("false_alarm_rate", "found_rate", "image_auroc")  # of each condition, in MLflow


def frozen_predictions(folder: Path, records: Sequence[Record], own: bool) -> Judged | str:
    """Look up what the pretrained encoder's detector said of these images when the run was trained, or why that
    is not known.

    Args:
        folder: the run.
        records: the images.
        own: whether they are the run's own test images.
    """
    if not own:
        return NOT_AT_HAND.format(why="for other images than the run's own")
    try:
        table = pd.read_csv(folder / "predictions.csv", dtype={"path": str}, keep_default_na=False)
        rows = table.set_index("path").loc[[record.name for record in records]]
        scores, rejected = rows["frozen_score"], rows["frozen_decision"] == "anomalous"
        return Judged(scores.to_numpy(np.float64), rejected.to_numpy(bool))
    except (OSError, ValueError, KeyError):  # there is none, or it has not these columns or images
        return NOT_AT_HAND.format(
            why="in this run's predictions.csv (an update or an older version made it, or images are new)"
        )


def condition_metrics(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float | None]]:
    """Name the numbers of each condition as MLflow does; characters that it refuses become underscores, and of
    conditions that differ in nothing else the second gets a 2, and so on."""
    metrics: list[dict[str, float | None]] = []
    named: set[str] = set()
    for row in rows:
        plain = re.sub(r"[^\w.\- ]", "_", row["condition"])[:100]
        numbered = (f"{plain}_{k}" for k in range(2, len(rows) + 1))
        name = next(name for name in (plain, *numbered) if name not in named)
        named.add(name)
        columns = as_columns(dict(row))
        keys = [key for part in METRICS for key in (part, f"frozen_{part}")]
        metrics.append({f"condition/{name}.{key}": columns[key] for key in keys})
    return metrics


def condition_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row for each condition, as `conditions.csv` has it."""
    return pd.DataFrame([as_columns(dict(row)) for row in rows])
