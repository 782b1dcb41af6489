"""Measure a detector on a test split: numbers for each score, rows for each image."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from anomaly_ft.data.records import NORMAL, Record, counts
from anomaly_ft.evaluation.working_points import observed
from anomaly_ft.metrics import (
    Floats,
    Interval,
    curve,
    image_ap,
    image_auroc,
    image_numbers,
    percentile_intervals,
    resampled_numbers,
    wilson_interval,
)
from anomaly_ft.model.threshold import WorkingPoint

IMAGE_NUMBERS = (
    "image_f1_max",
    "image_tpr_at_1pct_fpr",
    "image_tpr_at_5pct_fpr",
    "image_tnr_at_1pct_fnr",
    "image_tnr_at_5pct_fnr",
)  # of the curve, beside AUROC and average precision


def measure(
    records: Sequence[Record], scores: Mapping[str, Floats], chosen: str, point: WorkingPoint | None = None
) -> dict[str, float | None]:
    """Measure the chosen score, the AUROC of every score, and with a working point the shares of normal and
    anomalous images it rejects. None where a kind of image is missing."""
    anomalous = _labels(records)
    both = bool(anomalous.any() and not anomalous.all())
    numbers: dict[str, float | None] = {
        "image_auroc": image_auroc(anomalous, scores[chosen]) if both else None,
        "image_ap": image_ap(anomalous, scores[chosen]) if both else None,
    }
    of_curve = image_numbers(curve(anomalous, scores[chosen])) if both else {}
    for name in IMAGE_NUMBERS:
        numbers[name] = float(of_curve[name]) if both else None
    for name, values in scores.items():
        numbers[f"{name}_image_auroc"] = image_auroc(anomalous, values) if both else None
    if point is not None:
        rejected = scores[chosen] > point.threshold
        for kind, members in (("false_positive_rate", ~anomalous), ("true_positive_rate", anomalous)):
            numbers[kind] = float(rejected[members].mean()) if members.any() else None
    return numbers


def intervals(records: Sequence[Record], scores: Floats) -> dict[str, Interval]:
    """Bootstrap the 95 % interval of each image number, by name; none where a kind of image is missing."""
    anomalous = _labels(records)
    if anomalous.all() or not anomalous.any():
        return {}
    return percentile_intervals(resampled_numbers(anomalous, scores))


def gain_intervals(records: Sequence[Record], before: Floats, after: Floats) -> dict[str, Interval]:
    """Bootstrap the 95 % interval of each number's change on the same images: resampled in pairs, hence far
    narrower than the two intervals apart."""
    anomalous = _labels(records)
    if anomalous.all() or not anomalous.any():
        return {}
    first, second = (resampled_numbers(anomalous, scores) for scores in (before, after))
    return percentile_intervals({name: second[name] - first[name] for name in first})


def measure_kinds(
    records: Sequence[Record], scores: Mapping[str, Floats], chosen: str, point: WorkingPoint
) -> list[dict[str, Any]]:
    """Measure each kind of image, a row each, `good` first: how many, how many the threshold rejects with its
    95 % Wilson interval, and for a defect type its numbers against the normal images, with intervals."""
    kinds = np.array([record.kind for record in records])
    rows = []
    for kind, count in counts(records).items():
        rejected = int((scores[chosen][kinds == kind] > point.threshold).sum())
        row: dict[str, Any] = {
            "kind": kind,
            "images": count,
            "rejected": rejected,
            "rejected_interval": wilson_interval(rejected, count),
        }
        if kind != NORMAL and NORMAL in kinds:
            chosen_rows = [i for i, other in enumerate(kinds) if other in (NORMAL, kind)]
            part = [records[i] for i in chosen_rows]
            row |= measure(part, {name: values[chosen_rows] for name, values in scores.items()}, chosen)
            row["intervals"] = intervals(part, scores[chosen][chosen_rows])
        rows.append(row)
    return rows


def threshold_numbers(point: WorkingPoint) -> dict[str, float | int | None]:
    """Name the numbers of a threshold as `summary.json` does: target and guaranteed false positive rate."""
    return {
        "threshold": point.threshold,
        "target_fpr": point.target_fpr,
        "guaranteed_fpr": point.guaranteed_fpr,
        "varied_fpr": point.varied_fpr,
        "images": point.images,
        "confidence": point.confidence,
        "found_share": point.found_share,
    }


def describe_point(point: WorkingPoint, records: Sequence[Record], scores: Floats) -> dict[str, Any]:
    """Put what the threshold did to the normal test images beside what it guarantees."""
    rates = observed(point.threshold, scores[~_labels(records)])
    return {
        **threshold_numbers(point),
        "likely_at_most": point.likely_at_most(),
        "observed": asdict(rates) if rates else None,
    }


def prediction_table(
    records: Sequence[Record], scores: Mapping[str, Floats], chosen: str, point: WorkingPoint
) -> pd.DataFrame:
    """Tabulate the images, a row each: path, label, kind, score, decision, and every score by name."""
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


def frozen_columns(scores: Floats, point: WorkingPoint) -> dict[str, Any]:
    """What the pretrained encoder's detector said of the same images at its own threshold, as two columns."""
    return {
        "frozen_score": scores,
        "frozen_decision": np.where(scores > point.threshold, "anomalous", "normal"),
    }


def _labels(records: Sequence[Record]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.array([record.anomalous for record in records], dtype=bool)
