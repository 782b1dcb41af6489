"""Records that every layout reader yields: one frozen value for each image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NORMAL = "good"
ANOMALOUS = "anomalous"  # the kind where a layout knows that something is wrong but not what
Part = Literal["train", "val", "calibration"]  # what the normal training images are divided into
PARTS: tuple[Part, ...] = ("train", "val", "calibration")


@dataclass(frozen=True, slots=True)
class Record:
    """One image file and what is known of it.

    Of a set there are as many as images, so paths are put together when they are asked for.
    """

    root: Path  # one object for all records of a set
    name: str  # path below the root with forward slashes; what stays the same on another machine
    split: Literal["train", "test", "undecided"]  # undecided: a normal image that `hold_out` will place
    kind: str = NORMAL  # `good`, or the defect type
    mask_name: str = ""  # as `name`; empty: no mask
    part: Part | None = None  # which part of the training images it is in, where a manifest divides them
    group: str = ""  # images of one group never stand on both sides of a split

    @property
    def path(self) -> Path:
        """The image's file."""
        return self.root / self.name

    @property
    def mask(self) -> Path | None:
        """The file of its mask, where there is one."""
        return self.root / self.mask_name if self.mask_name else None

    @property
    def anomalous(self) -> bool:
        """Whether it shows something that is not normal."""
        return self.kind != NORMAL


def counts(records: Sequence[Record]) -> dict[str, int]:
    """Count images by kind, `good` first.

    >>> from pathlib import Path
    >>> counts([Record(Path(), n, "test", k) for n, k in [("a", "scratch"), ("b", "good")]])
    {'good': 1, 'scratch': 1}
    """
    by_kind = Counter(record.kind for record in records)
    return dict(sorted(by_kind.items(), key=lambda item: (item[0] != NORMAL, item[0])))
