"""Report what a data root holds, how it will be split, and everything that is wrong with it.

Headers are read first, so that sizes and unreadable files are known within seconds; then every image
is decoded once, for a truncated file looks sound from its header. Nothing is written.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.data.checks.appearance import DECODED, Appearance, Header, appearance, read_header
from anomaly_ft.data.checks.audit import ShortcutAudit
from anomaly_ft.data.checks.problems import Scan, Trouble, find_troubles, in_parallel
from anomaly_ft.data.checks.proposal import Proposal
from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.deep_values import Limits
from anomaly_ft.data.duplicates import thumbnail
from anomaly_ft.data.images import view_image
from anomaly_ft.data.layouts.unused import EXPECTED
from anomaly_ft.data.records import PARTS, Record, counts
from anomaly_ft.data.splits import Shares, split_normals
from anomaly_ft.errors import DataError

R = TypeVar("R")
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]  # items, description, total
SHOWN = 10  # files named for each trouble; the JSON names all
FEW_SIZES = 6
MODES = {  # what Pillow's names stand for
    "1": "black and white (1)", "L": "grey (L)",
    "I;16": "grey, 16 bits (I;16)", "I;16B": "grey, 16 bits (I;16B)", "I": "grey, 32 bits (I)",
    "F": "grey, floating point (F)", "RGB": "colour (RGB)",
    "RGBA": "colour with transparency (RGBA)", "P": "palette (P)", "CMYK": "printing inks (CMYK)",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What `anomaly-ft data` prints."""

    root: str
    layout: str
    why: str
    counts: dict[str, dict[str, int]]  # by split, then by kind
    sizes: dict[str, int]  # "width x height", upright
    modes: dict[str, int]  # as Pillow calls them
    split: dict[str, int]  # images in each part; empty where they cannot be divided
    split_trouble: str
    troubles: tuple[Trouble, ...]
    limits: Limits | None  # of all values of more than 8 bits, or of floating point
    notes: tuple[str, ...]  # what nobody has to do anything about
    records: tuple[Record, ...] = field(repr=False)
    readable: tuple[Record, ...] = field(repr=False)
    appearances: tuple[Appearance, ...] = field(repr=False)  # of each readable record
    audit: ShortcutAudit | None = None
    proposal: Proposal | None = None  # of what may differ between good parts

    @property
    def promise(self) -> str:
        """Say what a threshold set on the images of the split that are held back for it can guarantee."""
        images = self.split["calibration"]
        least = f"{1 / (images + 1):.1%}"
        return (
            f"{images} images set the threshold; the lowest rate of false alarms they can guarantee is {least}"
        )

    def divided(self, shares: Shares) -> "Report":
        """Divide the normal training images in other shares; everything else stays."""
        split, why_not = _split(self.readable, shares)
        return replace(self, split=split, split_trouble=why_not)

    def to_json(self) -> dict[str, Any]:
        """Give everything but the records, for programs."""
        others = ("records", "readable", "appearances", "troubles", "limits", "audit", "proposal")
        fields = {key: value for key, value in vars(self).items() if key not in others}
        limits = asdict(self.limits) if self.limits else None
        audit = self.audit.to_json() if self.audit else None
        troubles = [asdict(trouble) for trouble in self.troubles]
        proposal = self.proposal.to_json() if self.proposal else None
        return {**fields, "limits": limits, "troubles": troubles, "audit": audit, "variation": proposal}

    def lines(self) -> Iterator[str]:
        """Print everything for people."""
        yield f"root      {self.root}"
        yield f"layout    {self.layout}: {self.why}"
        for split, kinds in self.counts.items():
            yield f"{split:<9} {sum(kinds.values())} images: {_listed(kinds)}"
        yield f"sizes     {_sizes(self.sizes)}"
        yield f"modes     {_listed({MODES.get(mode, mode): n for mode, n in self.modes.items()})}"
        yield "split     " + (", ".join(f"{n} {part}" for part, n in self.split.items()) or self.split_trouble)
        if self.split:
            yield f"promise   {self.promise}"
        yield from (f"note      {note}" for note in self.notes)
        if "test" not in self.counts:
            yield "          there are no test images, so a run can give no test number"
        elif self.audit:
            yield from self.audit.summary_lines()
        if self.proposal:
            yield from self.proposal.lines()
        for trouble in self.troubles:
            refused = " (train refuses this)" if trouble.refused else ""
            yield f"\n{trouble.kind}: {trouble.says}{refused}"
            yield from (f"  {name}" for name in trouble.files[:SHOWN])
            if len(trouble.files) > SHOWN:
                yield f"  and {len(trouble.files) - SHOWN} more"
        if not self.troubles:
            yield "\nno troubles found"


def inspect(
    root: str,
    *,
    layout: str = "auto",
    group_by: str = "",
    shares: Shares,
    threads: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Read a root as `train` would and look at every file.

    Raises:
        DataError: the root is no data set at all, see `read_root`.
    """
    reading = read_records(root, layout=layout, group_by=group_by, allow_leak=True)
    scan = _scan(reading.records, threads, progress or (lambda items, *_: items))
    readable = tuple(record for record in reading.records if record.name not in scan.unreadable)
    by_split = {s: counts([r for r in reading.records if r.split == s]) for s in ("train", "test")}
    report = Report(
        root=root,
        layout=reading.layout,
        why=reading.why,
        counts={name: kinds for name, kinds in by_split.items() if kinds},
        sizes=_counted(f"{h.size[0]}x{h.size[1]}" for h in scan.headers.values()),
        modes=_counted(h.mode for h in scan.headers.values()),
        split={},
        split_trouble="",
        troubles=tuple(find_troubles(reading, scan, threads)),
        limits=reduce(Limits.widened, scan.limits.values()) if scan.limits else None,
        notes=(*reading.notes, *(str(unused) for unused in reading.unused if unused.why in EXPECTED)),
        records=reading.records,
        readable=readable,
        appearances=tuple(scan.appearances[record.name] for record in readable),
    )
    return report.divided(shares)


def _scan(records: Sequence[Record], threads: int, progress: Progress) -> Scan:
    unreadable: dict[str, str] = {}

    def readable(work: Callable[[Record], R], looked_at: Sequence[Record], doing: str) -> dict[str, R]:
        results_by_name: dict[str, R] = {}
        results = in_parallel(work, looked_at, threads)
        for record, result in zip(progress(looked_at, doing, len(looked_at)), results, strict=True):
            if isinstance(result, str):
                unreadable[record.name] = result
            else:
                results_by_name[record.name] = result
        return results_by_name

    def look(record: Record) -> tuple[NDArray[np.uint8], Limits | None, Appearance]:
        view = view_image(record.path, at_least=DECODED)
        looks = appearance(record.name, headers[record.name], np.asarray(view.image))
        return thumbnail(view.image), view.limits, looks

    headers: dict[str, Header] = readable(lambda record: read_header(record.path), records, "reading headers")
    sound = [record for record in records if record.name in headers]
    looked = readable(look, sound, "looking at images")
    return Scan(
        headers,
        unreadable,
        thumbnails={name: small for name, (small, _, _) in looked.items()},
        limits={name: limits for name, (_, limits, _) in looked.items() if limits},
        appearances={name: looks for name, (_, _, looks) in looked.items()},
    )


def _split(records: Sequence[Record], shares: Shares) -> tuple[dict[str, int], str]:
    """Count the images of each part, or say why they cannot be divided."""
    try:
        split = split_normals([record for record in records if record.split == "train"], shares)
    except DataError as cause:
        return {}, str(cause)
    tested = sum(record.split == "test" for record in records)
    return {part: len(getattr(split, part)) for part in PARTS} | ({"test": tested} if tested else {}), ""


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _sizes(counted: dict[str, int]) -> str:
    """List all sizes, or the range of widths and heights where there are many."""
    if len(counted) <= FEW_SIZES:
        return _listed(counted, " of ")
    wide, high = zip(*([int(side) for side in size.split("x")] for size in counted), strict=True)
    return f"{len(counted)} different, {min(wide)} to {max(wide)} wide, {min(high)} to {max(high)} high"


def _listed(counted: dict[str, int], between: str = " ") -> str:
    return ", ".join(f"{count}{between}{name}" for name, count in counted.items())
