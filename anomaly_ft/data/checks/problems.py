"""Find everything that can be wrong with a dataset in what a scan has read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.checks.appearance import Appearance, Header
from anomaly_ft.data.checks.marks import find_mark
from anomaly_ft.data.deep_values import Limits
from anomaly_ft.data.duplicates import case_clashes, identical, near_duplicates
from anomaly_ft.data.images import why_unreadable
from anomaly_ft.data.layouts.detect import Reading
from anomaly_ft.data.layouts.unused import EXPECTED, NO_IMAGE
from anomaly_ft.data.loaded import DARK, DARK_SAYS, LOST_SAYS, PAGES_SAY, UNREADABLE
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import shared_groups

MARK_SAYS = "differ from the others at one place (a sticker, a counter, a frame?), at the"
NEARLY_ALL = 0.95  # of an image, from which on a mask looks like one that is inverted
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Trouble:
    """Something wrong with the data. `refused`: `train` stops because of it."""

    kind: str
    says: str
    files: tuple[str, ...]
    refused: bool = False


@dataclass(frozen=True)
class Scan:
    """What was found in the files, by the name of the image."""

    headers: dict[str, Header]
    unreadable: dict[str, str]
    thumbnails: dict[str, NDArray[np.uint8]]
    appearances: dict[str, Appearance]
    limits: dict[str, Limits]  # of values of more than 8 bits


def find_troubles(reading: Reading, scan: Scan, threads: int) -> Iterator[Trouble]:
    """Find all there are, the worst first."""
    records = reading.records
    same = identical(records)
    if scan.unreadable:
        files = tuple(f"{name}: {why}" for name, why in scan.unreadable.items())
        yield Trouble("unreadable", f"{len(files)} of {len(records)} images cannot be read", files)
    yield from _dark(records, scan)
    yield from _odd_files(scan)
    yield from _copies(same)
    yield from _mask_troubles(reading, scan, threads)
    yield from _not_used(reading)
    clashes = tuple(", ".join(names) for names in case_clashes(records))
    if clashes:
        yield Trouble("case", f"{len(clashes)} names differ only by upper and lower case", clashes)
    shared = shared_groups(records)
    if shared:
        yield Trouble("group", f"{len(shared)} groups are in train and in test", tuple(shared), refused=True)
    yield from _marks(records, scan)
    yield from _lookalikes(records, scan, same)


def _dark(records: Sequence[Record], scan: Scan) -> Iterator[Trouble]:
    """Find images of more than 8 bits from a camera that uses fewer than all 16: nearly black without
    data.range."""
    deep = [r.name for r in records if r.name in scan.thumbnails and scan.headers[r.name].deep]
    if deep and max(int(scan.thumbnails[name].max()) for name in deep) < DARK:
        yield Trouble("dark", f"{len(deep)} images of more than 8 bits {DARK_SAYS}", tuple(deep))


def _odd_files(scan: Scan) -> Iterator[Trouble]:
    """Find files of which not all is used."""
    pages = tuple(name for name, header in scan.headers.items() if header.pages)
    if pages:
        yield Trouble("pages", f"{len(pages)} files hold {PAGES_SAY}", pages)
    lost = {name: limits.lost for name, limits in scan.limits.items() if limits.lost}
    if lost:
        files = tuple(f"{name}: {count} values" for name, count in lost.items())
        yield Trouble("not a number", f"{len(files)} images hold {LOST_SAYS}", files)


def _copies(same: Sequence[tuple[Record, ...]]) -> Iterator[Trouble]:
    """Find byte-identical files: across train and test they are leaks, elsewhere just odd."""
    leaking = [group for group in same if len({record.split for record in group}) > 1]
    others = [group for group in same if group not in leaking]
    if leaking:
        files = tuple(" = ".join(f"{r.name} ({r.split})" for r in group) for group in leaking)
        yield Trouble("leak", f"{len(leaking)} images are in train and in test alike", files, refused=True)
    if others:
        files = tuple(" = ".join(record.name for record in group) for group in others)
        yield Trouble("copies", f"{len(others)} images are there more than once", files)


def _mask_troubles(reading: Reading, scan: Scan, threads: int) -> Iterator[Trouble]:
    masked = [record for record in reading.records if record.mask]
    empty, full, other, broken = [], [], [], []
    for record, mask in zip(masked, in_parallel(_mask, masked, threads), strict=True):
        if isinstance(mask, str):
            broken.append(f"{record.mask_name}: {mask}")
            continue
        size, share = mask
        header = scan.headers.get(record.name)
        if record.anomalous and share == 0:
            empty.append(record.mask_name)
        if record.anomalous and share >= NEARLY_ALL:
            full.append(record.mask_name)
        if header and header.size != size:
            other.append(
                f"{record.mask_name}: {size[0]}x{size[1]}, {record.name}: {'{}x{}'.format(*header.size)}"
            )
    if empty:
        yield Trouble("empty mask", f"{len(empty)} anomalous images have a mask without a defect", tuple(empty))
    if full:
        says = f"{len(full)} masks mark nearly all of their image: is background what is marked?"
        yield Trouble("full mask", says, tuple(full))
    if other:
        yield Trouble("mask size", f"{len(other)} masks are not of the size of their image", tuple(other))
    if broken:
        yield Trouble("mask", f"{len(broken)} masks cannot be read", tuple(broken))
    alone = tuple(record.name for record in reading.records if record.anomalous and not record.mask)
    if masked and alone:
        yield Trouble("no mask", f"{len(alone)} anomalous images have no mask, others have", alone)


def _not_used(reading: Reading) -> Iterator[Trouble]:
    """List image files that are not used, but for those that nobody expects to be."""
    for unused in reading.unused:
        if unused.why == NO_IMAGE:
            yield Trouble("mask without image", f"{len(unused.names)} masks belong to no image", unused.names)
        elif unused.why not in EXPECTED:
            says = f"{len(unused.names)} image files: {unused.why}"
            yield Trouble("not used", says, unused.names)


def _mask(record: Record) -> tuple[tuple[int, int], float]:
    """Read width and height of a mask, and the share that is marked."""
    if record.mask is None:
        raise ValueError("no mask")
    marked = read_mask(record.mask)
    return (marked.shape[1], marked.shape[0]), float(marked.mean())


def _marks(records: Sequence[Record], scan: Scan) -> Iterator[Trouble]:
    """Find a place where only some good training images have something."""
    good = [r for r in records if r.name in scan.thumbnails and r.split == "train" and not r.anomalous]
    if mark := find_mark(np.stack([scan.thumbnails[record.name] for record in good])) if good else None:
        files = tuple(good[i].name for i in mark.images)
        says = f"{len(files)} of {len(good)} good training images {MARK_SAYS} {mark.place}"
        yield Trouble("mark", says, files)


def _lookalikes(records: Sequence[Record], scan: Scan, same: Sequence[tuple[Record, ...]]) -> Iterator[Trouble]:
    """Find near-duplicates that are no exact copies; those on both sides of the split first."""
    seen = [record for record in records if record.name in scan.thumbnails]
    if len(seen) < 2:
        return
    pairs = near_duplicates(np.stack([scan.thumbnails[record.name] for record in seen]))
    exact = {frozenset((a.name, b.name)) for group in same for a in group for b in group}
    pairs_of_records = [
        (seen[i], seen[j]) for i, j in pairs if frozenset((seen[i].name, seen[j].name)) not in exact
    ]
    for across in (True, False):
        chosen = [f"{a.name} ~ {b.name}" for a, b in pairs_of_records if (a.split != b.split) is across]
        where = "across train and test" if across else "on one side of the split"
        if chosen:
            yield Trouble("lookalikes", f"{len(chosen)} pairs {where} look the same", tuple(chosen))


def in_parallel(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R | str]:
    """Map `work` over the records in several threads, in order; where a file cannot be read, the reason takes
    its place."""

    def safely(item: T) -> R | str:
        try:
            return work(item)
        except UNREADABLE as cause:
            return why_unreadable(cause)

    Image.init()
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(safely, items)
