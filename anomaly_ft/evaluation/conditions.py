"""What a detector is worth under each condition: of each camera, shift, month or lamp.

The threshold is one for all; AUROCs are of a condition's own good against its own anomalous images. Pure.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.measure import intervals
from anomaly_ft.evaluation.working_points import observed
from anomaly_ft.metrics import Floats, image_auroc


@dataclass(frozen=True)
class Judged:
    """What one detector said of n images: scores `(n,)`, higher = more anomalous, and which it rejects."""

    scores: Floats
    rejected: np.ndarray[Any, np.dtype[np.bool_]]


def by_condition(
    records: Sequence[Record], conditions: Sequence[str], judged: Judged, frozen: Judged | None = None
) -> list[dict[str, Any]]:
    """A row for each condition, in the order of their names.

    Args:
        records: n labelled images.
        conditions: of each image.
        judged: by the detector.
        frozen: by the pretrained encoder's detector, at its own threshold.

    Returns:
        `condition`, counts `normal` and `anomalous`, `false_alarms`, `found`, `image_auroc` with
        `image_auroc_interval`, and `frozen`: the last four of the pretrained encoder. None where there is
        nothing to measure.
    """
    names, anomalous = np.array(conditions), np.array([record.anomalous for record in records], bool)
    rows = []
    for name in sorted(set(conditions)):
        members = np.flatnonzero(names == name)
        chosen = [records[int(i)] for i in members]
        rows.append(
            {
                "condition": name,
                "normal": int((~anomalous[members]).sum()),
                "anomalous": int(anomalous[members].sum()),
                **_result(chosen, judged, members),
                "frozen": _result(chosen, frozen, members) if frozen else None,
            }
        )
    return rows


def _result(records: Sequence[Record], judged: Judged, members: np.ndarray[Any, Any]) -> dict[str, Any]:
    """What one detector made of some of the images."""
    anomalous = np.array([record.anomalous for record in records], bool)
    scores, rejected = judged.scores[members], judged.rejected[members]
    both = bool(anomalous.any() and not anomalous.all())
    return {
        "false_alarms": _share(rejected[~anomalous]),
        "found": _share(rejected[anomalous]),
        "image_auroc": image_auroc(anomalous, scores) if both else None,
        "image_auroc_interval": intervals(records, scores).get("image_auroc"),
    }


def _share(rejected: np.ndarray[Any, Any]) -> dict[str, Any] | None:
    """Count how many are rejected, with the 95 % Wilson interval of their share; None of no images."""
    share = observed(0.5, rejected)  # 1 where it is rejected
    return asdict(share) if share else None


def as_columns(row: dict[str, Any]) -> dict[str, Any]:
    """One row as flat columns of a table, the pretrained encoder's with `frozen_` before their names."""
    flat = {name: row[name] for name in ("condition", "normal", "anomalous")}
    for prefix, part in (("", row), ("frozen_", row["frozen"] or {})):
        for key, short in (("false_alarms", "false_alarm"), ("found", "found")):
            share = part.get(key) or {}
            flat[f"{prefix}{key}"] = share.get("rejected")
            flat |= {f"{prefix}{short}_{name}": share.get(name) for name in ("rate", "low", "high")}
        low, high = part.get("image_auroc_interval") or (None, None)
        flat |= {f"{prefix}image_auroc": part.get("image_auroc")}
        flat |= {f"{prefix}image_auroc_low": low, f"{prefix}image_auroc_high": high}
    return flat
