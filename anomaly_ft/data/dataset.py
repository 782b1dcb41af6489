"""Load a data root: read, decoded and split."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from anomaly_ft.data.cache import Disk, Kind, choose_cache, default_folder, load_cached
from anomaly_ft.data.deep_values import deep_values, is_deep
from anomaly_ft.data.duplicates import leaks
from anomaly_ft.data.images import Decoder, has_pages
from anomaly_ft.data.layouts.detect import Reading, read_root
from anomaly_ft.data.lazy_images import view
from anomaly_ft.data.loaded import DARK, LOST_SAYS, PAGES_SAY, UNREADABLE, Images
from anomaly_ft.data.pixels import Resize, Size
from anomaly_ft.data.records import PARTS, Part, Record
from anomaly_ft.data.splits import Shares, Split, group, hold_out, shared_groups, split_normals
from anomaly_ft.errors import DataError

Progress = Callable[[Iterable[Record], str, int], Iterable[Record]]  # items, description, total
SHOWN = 10  # files named in one message
LOOKED_AT = 16  # images, to see whether all are dark


@dataclass(frozen=True)
class Options:
    """How a root is read; each field is the setting of the same name in the recipe."""

    layout: str = "auto"
    manifest: str = ""
    group_by: str = ""
    resize: Resize = "stretch"
    value_range: tuple[float, float] | None = None
    on_error: Literal["skip", "fail"] = "skip"
    max_bad_share: float = 0.01
    allow_leak: bool = False
    cache: Kind | Literal["auto"] = "auto"
    cache_gib: float = 4.0
    cache_dir: str = ""
    cache_disk_gib: float = 50.0


@dataclass(frozen=True)
class Dataset:
    """Decoded images: normal ones to train with, divided three ways, and all kinds to test with."""

    layout: str
    undivided: Images  # all normal images outside the test split; `split` divides them
    test: Images  # empty where the root has no test split
    split: Split
    why: str = ""  # it was taken for this layout
    cache: Kind = "memory"
    notices: tuple[str, ...] = ()  # what is not used and why, and what else somebody should know of the files

    def normals(self, part: Part) -> Images:
        """Select the normal training images of one part; their pixels are fetched when asked for."""
        chosen = list(getattr(self.split, part))
        return Images(view(self.undivided.pixels, chosen), tuple(self.undivided.records[i] for i in chosen))

    @property
    def memory(self) -> int:
        """Bytes of decoded images that are held in memory."""
        held = (images.pixels for images in (self.undivided, self.test))
        return sum(pixels.nbytes for pixels in held if isinstance(pixels, np.ndarray))

    @property
    def skipped(self) -> tuple[tuple[Record, str], ...]:
        """Files that could not be read, and why."""
        return self.undivided.skipped + self.test.skipped

    def manifest(self) -> list[dict[str, Any]]:
        """List the images used, a row each: `image_path, label_index, split, mask_path`, paths as in the
        root, and the kind. Given back as `data.manifest` it makes the same split again."""
        rows: list[tuple[str, Record]] = [
            (part, self.undivided.records[i]) for part in PARTS for i in getattr(self.split, part)
        ]
        rows += [("test", record) for record in self.test.records]
        return [
            {
                "image_path": record.name,
                "label_index": int(record.anomalous),
                "split": part,
                "mask_path": record.mask_name,
                "kind": record.kind,
            }
            for part, record in rows
        ]


def _silent(items: Iterable[Record], description: str, total: int) -> Iterable[Record]:
    del description, total
    return items


def read_records(
    root: str, *, layout: str = "auto", manifest: str = "", group_by: str = "", allow_leak: bool = False
) -> Reading:
    """Read which images lie below a root, each in train or in test; no image is decoded.

    Raises:
        DataError: see `read_root`; also groups on both sides of a split that was given, unless allowed.
    """
    reading = read_root(root, layout=layout, manifest_path=manifest, group_by=group_by)
    records: Sequence[Record] = reading.records
    if group_by and not any(record.group for record in records):
        records = group(records, group_by)
    placed = hold_out(records)
    shared = [] if allow_leak else shared_groups(placed)
    if shared:
        raise DataError(
            f"data.group_by: {len(shared)} groups stand in train and in test as {root} splits them: "
            f"{', '.join(shared[:SHOWN])}; split by groups, or set expert.data.allow_leak to true"
        )
    return replace(reading, records=tuple(placed))


def load_dataset(
    root: str,
    *,
    image_size: Size,
    shares: Shares,
    threads: int = 1,
    progress: Progress = _silent,
    options: Options | None = None,
) -> Dataset:
    """Read everything below `root`; unreadable files are set aside, see `Dataset.skipped`.

    Raises:
        DataError: nothing usable, a layout that is not known, too many unreadable files, images in train
            and in test alike, or too few normal images for the shares.
    """
    reading_options = options or Options()
    reading = read_records(
        root,
        layout=reading_options.layout,
        manifest=reading_options.manifest,
        group_by=reading_options.group_by,
        allow_leak=reading_options.allow_leak,
    )
    if not reading_options.allow_leak:
        refuse_leaks(reading.records)
    decoder = Decoder(image_size, reading_options.resize, reading_options.value_range)
    kind, disk = place(decoder, len(reading.records), reading_options)

    def load(part: str) -> Images:
        wanted = [record for record in reading.records if record.split == part]
        seen = progress(wanted, f"reading {part} images", len(wanted))
        return load_cached(wanted, decoder, kind, disk=disk, threads=threads, progress=seen)

    train, test = load("train"), load("test")
    refuse_bad(
        train.skipped + test.skipped,
        len(reading.records),
        reading_options.on_error,
        reading_options.max_bad_share,
    )
    split = split_normals(train.records, shares)
    notices = (*reading.notes, *map(str, reading.unused), *_odd_files(train.records + test.records))
    return Dataset(reading.layout, train, test, split, reading.why, kind, notices)


def place(decoder: Decoder, count: int, options: Options) -> tuple[Kind, Disk]:
    """Choose where the pixels of `count` images are kept."""
    folder = Path(options.cache_dir).expanduser() if options.cache_dir else default_folder()
    disk = Disk(folder, options.cache_disk_gib)
    return choose_cache(options.cache, decoder.nbytes * count, options.cache_gib, disk), disk


def are_dark(images: Images) -> bool:
    """Check on a few images whether those of more than 8 bits are nearly black for want of `data.range`."""
    chosen = np.unique(np.linspace(0, len(images) - 1, min(LOOKED_AT, len(images))).round().astype(int))
    deep = [int(i) for i in chosen if _is_deep(images.records[i])]
    return bool(deep) and all(int(images.pixels[i].max()) < DARK for i in deep)


def _is_deep(record: Record) -> bool:
    with Image.open(record.path) as image:
        return is_deep(image)


def _odd_files(records: Sequence[Record]) -> Iterator[str]:
    """Say which of a few evenly chosen files hold something that is not used; `anomaly-ft data` looks at
    all."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(LOOKED_AT, len(records))).round().astype(int))
    pages, lost = [], []
    for record in (records[int(i)] for i in chosen):
        with suppress(UNREADABLE), Image.open(record.path) as image:
            pages += [record.name] if has_pages(image) else []
            deep = deep_values(image) if image.mode == "F" else None
            lost += [record.name] if deep and deep.limits().lost else []
    if pages:
        yield f"files hold {PAGES_SAY}, such as {pages[0]}"
    if lost:
        yield f"images hold {LOST_SAYS}, such as {lost[0]}"


def refuse_leaks(records: Sequence[Record]) -> None:
    """Raise a DataError that lists files which are in train and, byte by byte the same, in test."""
    groups = leaks(records)
    if groups:
        lines = [" = ".join(f"{r.name} ({r.split})" for r in same) for same in groups]
        raise DataError(
            f"data: {len(groups)} images are in train and in test alike, so test numbers would flatter:\n  "
            + "\n  ".join(_some(lines))
            + "\nremove one of each, or set expert.data.allow_leak to true"
        )


def refuse_bad(skipped: Sequence[tuple[Record, str]], total: int, on_error: str, max_bad_share: float) -> None:
    """Raise a DataError that lists the unreadable files, when there are more than may be skipped.

    One is always skipped, however few images there are, unless nothing may be.
    """
    allowed = 0.0 if on_error == "fail" else max_bad_share
    if len(skipped) > max(allowed * total, 1 if on_error == "skip" else 0):
        lines = [f"{record.path}: {why}" for record, why in skipped]
        advice = "set expert.data.on_error to skip" if on_error == "fail" else "raise expert.data.max_bad_share"
        raise DataError(
            f"data: {len(skipped)} of {total} images cannot be read, more than the {allowed:.1%} allowed:\n  "
            + "\n  ".join(_some(lines))
            + f"\nmend or remove them, or {advice}"
        )


def _some(lines: Sequence[str]) -> list[str]:
    return [*lines[:SHOWN], *([f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else [])]
