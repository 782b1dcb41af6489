"""Which normal image serves what: fitting, watching for forgetting, calibrating thresholds.

A threshold keeps its promise only if the images that set it were seen by nothing else, hence three
shares, not two.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

FEWEST = 2  # images in each share: one more than makes a variance


@dataclass(frozen=True)
class Split:
    """Positions into the list of normal training images; disjoint, together complete."""

    fit: tuple[int, ...]
    watch: tuple[int, ...]
    calibrate: tuple[int, ...]


def split_normals(records: Sequence[Record], *, watch: float, calibrate: float, seed: int) -> Split:
    """A seeded three-way split of the normal training images.

    Raises:
        DataError: too few images for the shares asked for.
    """
    count = len(records)
    sizes = [round(share * count) for share in (watch, calibrate)]
    if min(*sizes, count - sum(sizes)) < FEWEST:
        raise DataError(
            f"data: {count} normal training images are too few to hold back {watch:.0%} for watching and "
            f"{calibrate:.0%} for calibration; each share needs at least {FEWEST} images: "
            "use more images or raise data.watch_share and data.calibration_share"
        )
    order = [int(i) for i in np.random.default_rng(seed).permutation(count)]
    held = sizes[0] + sizes[1]
    return Split(
        fit=tuple(sorted(order[held:])),
        watch=tuple(sorted(order[: sizes[0]])),
        calibrate=tuple(sorted(order[sizes[0] : held])),
    )
