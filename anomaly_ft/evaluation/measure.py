"""What a detector is worth on a test split: numbers for each score, rows for each image."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.working_points import WorkingPoint
from anomaly_ft.metrics import Floats, image_ap, image_auroc


def measure(
    records: Sequence[Record], scores: Mapping[str, Floats], chosen: str, point: WorkingPoint | None = None
) -> dict[str, float | None]:
    """Image AUROC and AP of the chosen score, the AUROC of every score, and with a working point the
    shares of normal and anomalous images it rejects. None where a kind of image is missing."""
    anomalous = np.array([record.anomalous for record in records])
    both = bool(anomalous.any() and not anomalous.all())
    numbers: dict[str, float | None] = {
        "image_auroc": image_auroc(anomalous, scores[chosen]) if both else None,
        "image_ap": image_ap(anomalous, scores[chosen]) if both else None,
    }
    for name, values in scores.items():
        numbers[f"{name}_image_auroc"] = image_auroc(anomalous, values) if both else None
    if point is not None:
        rejected = scores[chosen] > point.threshold
        for kind, members in (("false_positive_rate", ~anomalous), ("true_positive_rate", anomalous)):
            numbers[kind] = float(rejected[members].mean()) if members.any() else None
    return numbers


def prediction_table(
    records: Sequence[Record], scores: Mapping[str, Floats], chosen: str, point: WorkingPoint
) -> pd.DataFrame:
    """One row for each image: path, label, kind, score, decision, and every score by name."""
    return pd.DataFrame(
        {
            "path": [record.name for record in records],
            "label": [int(record.anomalous) for record in records],
            "kind": [record.kind for record in records],
            "score": scores[chosen],
            "decision": np.where(scores[chosen] > point.threshold, "anomalous", "normal"),
            **{f"{name}_score": values for name, values in scores.items()},
        }
    )
