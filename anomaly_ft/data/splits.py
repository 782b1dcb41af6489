"""Divide the normal training images into train, val and calibration, and hold out a test split.

A threshold keeps its guarantee only if the images that set it were used for nothing else, hence three
parts, not two. Images of one group (shots of one part) stay together; sub-folders (kinds of normal
images) are represented in every part alike.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.data.records import PARTS, Record
from anomaly_ft.errors import DataError

FEWEST = 2  # images in each part: one more than makes a variance
TEST_SHARE = 0.2  # of the normal images of layouts that know defects but no split
TEST_SEED = 0  # the split between train and test belongs to the data, not to the run


@dataclass(frozen=True)
class Split:
    """Positions into the list of normal training images; disjoint, together complete."""

    train: tuple[int, ...]  # estimate statistics and train the encoder
    val: tuple[int, ...]  # see forgetting
    calibration: tuple[int, ...]  # set the threshold


@dataclass(frozen=True)
class Shares:
    """Shares of the normal training images, in (0, 1), that are held back, and the seed that draws them."""

    val: float
    calibration: float
    seed: int = 0


def split_normals(records: Sequence[Record], shares: Shares) -> Split:
    """Divide the normal training images three ways by a seeded draw, or as their manifest divides them.

    Raises:
        DataError: too few images, or groups, for the shares asked for.
    """
    if any(record.part for record in records):
        chosen = [tuple(i for i, record in enumerate(records) if record.part == part) for part in PARTS]
        if min(map(len, chosen)) < FEWEST:
            counts = ", ".join(f"{len(c)} {part}" for c, part in zip(chosen, PARTS, strict=True))
            raise DataError(
                f"data: the manifest gives {counts}; each needs at least {FEWEST} normal images: "
                "give some of them, or call all of them train, which are then divided"
            )
        return Split(*chosen)
    count = len(records)
    sizes = [round(share * count) for share in (shares.val, shares.calibration)]
    dealt = _deal(records, sizes, shares.seed)
    if min(*sizes, *map(len, dealt)) < FEWEST:
        groups = {record.group for record in records if record.group}
        together = f" in {len(groups)} groups" if groups else ""
        raise DataError(
            f"data: {count} normal training images{together} are too few to hold back {shares.val:.0%} for "
            f"validation and {shares.calibration:.0%} for calibration; each part needs at least {FEWEST} "
            "images: use more images or raise expert.data.val_share and expert.data.calibration_share"
        )
    return Split(train=dealt[2], val=dealt[0], calibration=dealt[1])


def enough(split: Split, usual: NDArray[np.bool_], suspicion: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Select the usual images `(n,)`, and where they are too few for a part, its least suspicious others.

    Args:
        split: of the n images.
        usual: `(n,)`.
        suspicion: `(n,)`, higher = more suspicious.
    """
    kept = usual.copy()
    for part in PARTS:
        places = np.array(getattr(split, part))
        gone = places[~usual[places]]
        missing = max(0, FEWEST - (len(places) - len(gone)))
        kept[gone[np.argsort(suspicion[gone], kind="stable")][:missing]] = True
    return kept


def only(split: Split, usual: NDArray[np.bool_]) -> Split:
    """Leave images that are not usual `(n,)` out of every part."""
    return Split(*(tuple(i for i in getattr(split, part) if usual[i]) for part in PARTS))


def hold_out(records: Sequence[Record]) -> list[Record]:
    """Place the undecided normal images: a seeded fifth is test, if there is anything to test against.

    Groups with test images are test images altogether; they count towards the fifth.
    """
    undecided = [record for record in records if record.split == "undecided"]
    test_groups = {record.group for record in records if record.split == "test" and record.group}
    forced = {record.name for record in undecided if record.group in test_groups}
    free = [record for record in undecided if record.name not in forced]
    chosen = set(forced)
    if any(record.anomalous for record in records):
        wanted = max(0, round(TEST_SHARE * len(undecided)) - len(forced))
        chosen |= {free[i].name for i in _deal(free, [wanted], TEST_SEED)[0]}
    return [
        record
        if record.split != "undecided"
        else replace(record, split="test" if record.name in chosen else "train")
        for record in records
    ]


def group(records: Sequence[Record], pattern: str) -> list[Record]:
    """Give each record the group that a regular expression finds in its name.

    Raises:
        DataError: an expression that is not one or has no group, or names it does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as cause:
        raise DataError(f"data.group_by: {pattern!r} is not a regular expression: {cause}") from None
    if expression.groups < 1:
        raise DataError(
            f"data.group_by: {pattern!r} is no column of the manifest and has no group in parentheses; "
            r"expected something like 'part(\d+)_'"
        )
    matches = [expression.search(record.name) for record in records]
    misses = [record.name for record, match in zip(records, matches, strict=True) if not match or not match[1]]
    if misses:
        raise DataError(
            f"data.group_by: {pattern!r} does not match {len(misses)} of {len(records)} names, "
            f"such as {', '.join(misses[:3])}"
        )
    return [replace(record, group=match[1]) for record, match in zip(records, matches, strict=True) if match]


def shared_groups(records: Sequence[Record]) -> list[str]:
    """Find groups with images both in train and in test."""
    train, test = ({r.group for r in records if r.split == split and r.group} for split in ("train", "test"))
    return sorted(train & test)


def _deal(records: Sequence[Record], sizes: Sequence[int], seed: int) -> list[tuple[int, ...]]:
    """Deal positions to shares of these sizes, and last the rest; each share in ascending order.

    Units (groups, or single images) come in random order, spread evenly over the sub-folders: unit k
    of n in its folder stands at (k + u) / n with a random u of the folder. A unit goes to the first
    share which it does not overfill by more than half of itself.
    """
    units = _units(records)
    rng = np.random.default_rng(seed)
    order = [units[int(i)] for i in rng.permutation(len(units))]
    folders = [records[unit[0]].name.rpartition("/")[0] for unit in order]
    totals = Counter(folders)
    starts = dict(zip(sorted(totals), rng.random(len(totals)), strict=True))
    seen: Counter[str] = Counter()
    places = []
    for folder in folders:
        places.append((seen[folder] + starts[folder]) / totals[folder])
        seen[folder] += 1
    dealt: list[list[int]] = [[] for _ in (*sizes, None)]
    for k in sorted(range(len(order)), key=places.__getitem__):
        unit = order[k]
        room = (i for i, size in enumerate(sizes) if len(dealt[i]) + len(unit) / 2 <= size)
        dealt[next(room, len(sizes))] += unit
    return [tuple(sorted(share)) for share in dealt]


def _units(records: Sequence[Record]) -> list[list[int]]:
    """Group positions that stay together: one list for each group, and for each image without one."""
    units: dict[tuple[str, int], list[int]] = {}
    for i, record in enumerate(records):
        units.setdefault((record.group, -1) if record.group else ("", i), []).append(i)
    return list(units.values())
