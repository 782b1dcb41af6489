"""Results of a shortcut audit, as plain values that data report, recipe, report and terminal show alike.

It is worked out in `analysis.shortcuts`; here it is only put into words.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

FINE, LOOK, LITTLE = "fine", "look at this", "numbers on this split say little"
CANNOT_SAY = "cannot say"
Question = Literal["good test against good training", "defective against good test"]
SHIFT: Question = "good test against good training"
SHORTCUT: Question = "defective against good test"
TOGETHER = "all together"


@dataclass(frozen=True)
class Separation:
    """How well two groups of images are told apart by one property, or by all together.

    Attributes:
        question: which two groups.
        property: its name, or `all together`.
        auroc: 0.5 chance, 1 always; direction does not count.
        low, high: 95 % interval, for single properties corrected for their number.
        first, second: the groups' medians, the second that of the test side or the defective one; nothing
            for words and for all together.
        seen: whether pixels show it; what they do not show is a hint about where images come from.
        level: `fine`, `look at this` or `numbers on this split say little`, of this row alone.
    """

    question: Question
    property: str
    auroc: float
    low: float
    high: float
    first: float | None
    second: float | None
    seen: bool
    level: str

    def words(self) -> str:
        """Format the row: `brightness alone: AUROC 1.000 (0.977 to 1.000)`."""
        by = self.property if self.property == TOGETHER else f"{self.property} alone"
        return f"{by}: AUROC {self.auroc:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Example:
    """An image that shows what was found: its name below the root, and what it is."""

    name: str
    shows: str


@dataclass(frozen=True)
class ShortcutAudit:
    """What numbers on a split are worth.

    Attributes:
        verdict: `fine`, `look at this`, `numbers on this split say little`, or `cannot say`.
        says: why, in a sentence or two.
        counts: images in each group.
        rows: every comparison, the most telling of each question first.
        missing: questions that could not be asked, and why.
        examples: three images that show it best; none where there is nothing to show.
    """

    verdict: str
    says: str
    counts: dict[str, int]
    rows: tuple[Separation, ...]
    missing: tuple[str, ...]
    examples: tuple[Example, ...]

    @property
    def sentence(self) -> str:
        """The verdict and why, on one line."""
        return f"{self.verdict}: {self.says}"

    def lines(self, shown: int = 3) -> Iterator[str]:
        """Print everything for people, of each question the `shown` most telling rows; 0: all."""
        yield f"worth     {self.sentence}"
        for question in (SHIFT, SHORTCUT):
            rows = [row for row in self.rows if row.question == question]
            if rows:
                yield f"  {question}"
            for row in rows[: shown or None]:
                medians = f", median {row.first:.4g} and {row.second:.4g}" if row.first is not None else ""
                mark = "" if row.level == FINE else f"  <- {row.level}"
                yield f"    {row.words()}{medians}{mark}"
        yield from (f"  {why}" for why in self.missing)
        yield from (f"  see {example.name}: {example.shows}" for example in self.examples)

    def summary_lines(self) -> Iterator[str]:
        """Print the verdict, and what it rests on where something is to be seen."""
        yield from (f"worth     {self.sentence}",) if self.verdict == FINE else self.lines()

    def to_json(self) -> dict[str, Any]:
        """Give plain values, for programs and for `summary.json`."""
        return asdict(self)
