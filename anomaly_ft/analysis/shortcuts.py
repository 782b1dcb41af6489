"""Audit a split for shortcuts: could a light meter have told its images apart, from files and thumbnails?

Two questions. *Good test against good training images*: both are good, so whatever tells them apart is how
they were taken, and the test is from another world. *Defective against good test images*: what a light
meter tells apart says nothing about a detector, whether defects are that plain or were photographed
otherwise.

Both are judged on one scale, the lower end of the AUROC's interval. Two normal distributions whose means lie
d standard deviations apart have an AUROC of Phi(d / sqrt 2). From d = 1 on it is time to look (0.760); from
d = 2 on (0.921) half of one group lies beyond 97.7 % of the other, and the split says little. The ends were
set by this reasoning and not by any data set. What pixels do not show, such as the camera's name, is a hint
and never more than "look at this". No hint at all are names, for people name files after what they show, that
test images are later than training images, and that a defect changes how well a file can be compressed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from anomaly_ft.analysis.separation import auroc_interval, held_out_scores
from anomaly_ft.data.checks.appearance import Appearance
from anomaly_ft.data.checks.audit import (
    CANNOT_SAY,
    FINE,
    LITTLE,
    LOOK,
    SHIFT,
    SHORTCUT,
    TOGETHER,
    Example,
    Question,
    Separation,
    ShortcutAudit,
)
from anomaly_ft.data.records import Record
from anomaly_ft.metrics import Floats, image_auroc

FEWEST = 10  # images of a group below which nothing is said about it
WORTH_A_LOOK = float(norm.cdf(1 / np.sqrt(2)))  # one standard deviation apart
WORLDS_APART = float(norm.cdf(2 / np.sqrt(2)))  # two
HINTS = ("bytes a pixel", "time taken", "file format", "colour mode", "camera", "name pattern")
NO_HINT = {SHIFT: ("time taken", "name pattern"), SHORTCUT: ("bytes a pixel", "name pattern")}
NONE = (None, None)
LEVELS = (FINE, LOOK, LITTLE)
TRAIN, GOOD, DEFECTIVE = "good training", "good test", "defective test"
GROUPS: dict[Question, tuple[str, str]] = {SHIFT: (TRAIN, GOOD), SHORTCUT: (GOOD, DEFECTIVE)}
TELLS: dict[Question, str] = {
    SHIFT: "the good test images were taken otherwise than the training images: {} them apart",
    SHORTCUT: "{} defective from good test images",
}
SAYS_LITTLE: dict[Question, str] = {
    SHIFT: "good test from training images with AUROC",
    SHORTCUT: "defective from good ones with AUROC",
}


@dataclass(frozen=True)
class _Side:
    """The images of one question: what they are, which are of the second group, what belongs together."""

    question: Question
    records: Sequence[Record]
    looks: Sequence[Appearance]
    second: NDArray[np.bool_]
    groups: NDArray[np.int64]


@dataclass(frozen=True)
class _Found:
    """A row, and the values `(n,)` of the images that it rests on, higher in the second group."""

    row: Separation
    side: _Side
    values: Floats


def audit_shortcuts(records: Sequence[Record], looks: Sequence[Appearance]) -> ShortcutAudit:
    """Judge what numbers on this split are worth.

    Args:
        records: of training and test images; their labels are used here and nowhere else.
        looks: of each record, in the same order.
    """
    kinds = np.array([_kind(record) for record in records], dtype=np.str_)
    counts = {kind: int((kinds == kind).sum()) for kind in (TRAIN, GOOD, DEFECTIVE)}
    all_rows: list[_Found] = []
    missing: list[str] = []
    for question, (first, second) in GROUPS.items():
        few = [f"{counts[kind]} {kind} images" for kind in (first, second) if counts[kind] < FEWEST]
        if few:
            missing.append(f"not asked: {question}, with {' and '.join(few)}; {FEWEST} are needed")
            continue
        places = np.flatnonzero((kinds == first) | (kinds == second)).tolist()
        chosen = [records[i] for i in places]
        side = _Side(question, chosen, [looks[i] for i in places], kinds[places] == second, _groups(chosen))
        all_rows += _compare(side)
    rows = tuple(each.row for each in all_rows)
    if not all_rows:
        same, too_few = "files and thumbnails do not differ at all", "too few images to judge the split by"
        asked = len(missing) < len(GROUPS)
        verdict, why = (FINE, same) if asked else (CANNOT_SAY, "; ".join([too_few, *missing]))
        return ShortcutAudit(verdict, why, counts, (), tuple(missing) if asked else (), ())
    worst = max(all_rows, key=lambda each: _rank(each.row))
    verdict = worst.row.level
    examples = () if verdict == FINE else _examples(worst, records, kinds, looks)
    return ShortcutAudit(verdict, _why(rows), counts, rows, tuple(missing), examples)


def _kind(record: Record) -> str:
    if record.split == "train":
        return TRAIN
    return DEFECTIVE if record.anomalous else GOOD


def _groups(records: Sequence[Record]) -> NDArray[np.int64]:
    """Number the groups: one number for each record, the same for those of one group."""
    codes = {record.group: -1 - i for i, record in enumerate(records) if record.group}
    return np.array([codes.get(record.group, i) for i, record in enumerate(records)], np.int64)


def _compare(side: _Side) -> list[_Found]:
    """List the rows of one question, the most telling first."""
    numbers = {name: np.array([look.numbers[name] for look in side.looks]) for name in side.looks[0].numbers}
    words = {name: np.array([look.words[name] for look in side.looks]) for name in side.looks[0].words}
    numbers = {name: each for name, each in numbers.items() if np.isfinite(each).all() and np.ptp(each) > 0}
    words = {name: each for name, each in words.items() if len(set(each.tolist())) > 1}
    compared, nothing = len(numbers) + len(words), np.empty((len(side.looks), 0))
    rows = [_of_number(side, name, values, compared) for name, values in numbers.items()]
    for name, spelt in words.items():
        odds = held_out_scores(side.second, nothing, spelt[:, None], side.groups)
        rows.append(_found(side, name, odds, compared))
    seen = [values for name, values in numbers.items() if name not in HINTS]
    if seen:
        odds = held_out_scores(side.second, np.stack(seen, axis=1), nothing.astype(np.str_), side.groups)
        rows.append(_found(side, TOGETHER, odds, 1))
    return sorted(rows, key=lambda each: _rank(each.row), reverse=True)


def _of_number(side: _Side, name: str, values: Floats, compared: int) -> _Found:
    medians = (float(np.median(values[~side.second])), float(np.median(values[side.second])))
    sign = 1.0 if image_auroc(side.second, values) >= 0.5 else -1.0
    return _found(side, name, sign * values, compared, medians)


def _found(
    side: _Side, name: str, values: Floats, compared: int, medians: tuple[float | None, float | None] = NONE
) -> _Found:
    """Make a row; its interval is corrected for the number of properties compared (Bonferroni)."""
    auroc = max(0.5, image_auroc(side.second, values))
    second = int(side.second.sum())
    low, high = auroc_interval(auroc, len(values) - second, second, 1 - 0.05 / compared)
    seen = name not in HINTS
    highest = LITTLE if seen else FINE if name in NO_HINT[side.question] else LOOK
    level = min(_level(low), highest, key=LEVELS.index)
    return _Found(Separation(side.question, name, auroc, low, high, *medians, seen, level), side, values)


def _level(low: float) -> str:
    if low > WORLDS_APART:
        return LITTLE
    if low > WORTH_A_LOOK:
        return LOOK
    return FINE


def _rank(row: Separation) -> tuple[int, bool, bool, float]:
    """Sort key: by verdict, then what pixels show, then by the sure part of the AUROC; the most telling comes
    last. Where there is a doubt, one property that raises it alone ranks above all together."""
    alone = row.level != FINE and row.property != TOGETHER
    return LEVELS.index(row.level), row.seen, alone, row.low


def _why(rows: Sequence[Separation]) -> str:
    """Say what raised doubts, for each question; where nothing did, what all properties together reach."""
    firsts = [next((row for row in rows if row.question == question), None) for question in GROUPS]
    doubts = [row for row in firsts if row and row.level != FINE]
    if doubts:
        return "; ".join(f"{TELLS[row.question].format(_by(row))}{_measured(row)}" for row in doubts)
    reached = [row for row in rows if row.property == TOGETHER]
    if not reached:
        return "pixels do not differ at all"
    parts = " and ".join(
        f"{SAYS_LITTLE[row.question]} {row.auroc:.2f} ({row.low:.2f} to {row.high:.2f})" for row in reached
    )
    unsure = ", with too few images to be sure" if any(row.high > WORLDS_APART for row in reached) else ""
    return f"a light meter tells {parts}{unsure}"


def _by(row: Separation) -> str:
    if row.property == TOGETHER:
        return "all properties together tell"
    return f"{row.property} alone tells"


def _measured(row: Separation) -> str:
    """Format a row: `, AUROC 0.995 (0.940 to 1.000), median 206 against 192`."""
    way = f", median {row.first:.4g} against {row.second:.4g}" if row.first is not None else ""
    return f", AUROC {row.auroc:.3f} ({row.low:.3f} to {row.high:.3f}){way}"


def _examples(
    worst: _Found, records: Sequence[Record], kinds: NDArray[np.str_], looks: Sequence[Appearance]
) -> tuple[Example, ...]:
    """Choose the image of either group that is farthest from the other group, and a typical one of the third
    group; where that has none, the second farthest."""
    row, side = worst.row, worst.side
    order = np.argsort(worst.values, kind="stable")
    low, high = order[~side.second[order]], order[side.second[order]]
    first, second = GROUPS[row.question]
    chosen = [
        (side.records[low[0]], first, side.looks[low[0]]),
        (side.records[high[-1]], second, side.looks[high[-1]]),
    ]
    third = TRAIN if row.question == SHORTCUT else DEFECTIVE
    places = np.flatnonzero(kinds == third).tolist()
    if len(places) and row.first is not None:
        values = np.array([looks[i].numbers[row.property] for i in places])
        typical = places[int(np.argsort(values, kind="stable")[len(values) // 2])]
        chosen.append((records[typical], f"typical {third}", looks[typical]))
    else:
        chosen.append((side.records[high[-2]], second, side.looks[high[-2]]))
    return tuple(Example(record.name, _shows(kind, row.property, look)) for record, kind, look in chosen)


def _shows(kind: str, name: str, look: Appearance) -> str:
    value = f"{look.numbers[name]:.4g}" if name in look.numbers else look.words.get(name, "")
    return f"{kind} image" + (f", {name} {value}" if value else "")
