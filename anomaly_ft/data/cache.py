"""Cache decoded pixels, in memory or in a file on disk, so that they are not decoded every epoch.

A file is named after the content of the images and everything that decides how they are decoded, so a
changed image or setting means another file. It is written aside and renamed; a checksum for each
image tells a damaged file, which is built again.
"""

import hashlib
import json
import os
import shutil
import time
import warnings
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL
from numpy.typing import NDArray
from platformdirs import user_cache_path

from anomaly_ft.data.duplicates import digest
from anomaly_ft.data.images import Decoder, why_unreadable
from anomaly_ft.data.lazy_images import Rows, as_array
from anomaly_ft.data.loaded import UNREADABLE, Images, decode_all, load_images, refuse_if_none
from anomaly_ft.data.pixels import Pixels, Size, sides
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

Kind = Literal["memory", "disk", "none"]
FORMAT = 2  # of the files; a new number makes old files useless
ABANDONED = 24 * 3600  # seconds after which a half written file is nobody's
SPARE = 1.1  # times the space needed that has to be free on the disk


@dataclass(frozen=True)
class Disk:
    """The folder of caches, and how many GiB they may take together."""

    folder: Path
    gib: float = 50.0


def choose_cache(wanted: Kind | Literal["auto"], need: int, gib: float, disk: Disk) -> Kind:
    """Choose where `need` bytes of pixels go; `auto`: memory up to `gib`, else the disk if it has room, else
    nowhere.

    Raises:
        DataError: the disk is asked for and cannot take them.
    """
    if wanted in ("memory", "none"):
        return wanted
    if wanted == "auto" and need <= gib * 2**30:
        return "memory"
    folder = disk.folder
    if need > disk.gib * 2**30:
        if wanted == "disk":
            raise DataError(
                f"runtime.cache: {need / 2**30:.1f} GiB of images are more than all caches may take; raise "
                f"expert.runtime.cache_disk_gib ({disk.gib:g}), or set runtime.cache to none"
            )
        return "none"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable, free = os.access(folder, os.W_OK), shutil.disk_usage(folder).free
    except OSError:
        writable, free = False, 0
    if writable and free > SPARE * need:
        return "disk"
    if wanted == "disk":
        raise DataError(
            f"runtime.cache: {folder} cannot take {need / 2**30:.1f} GiB ({free / 2**30:.1f} GiB free, "
            f"{'' if writable else 'not '}writable); set expert.runtime.cache_dir, or runtime.cache to none"
        )
    return "none"


def default_folder() -> Path:
    """Name the folder of caches where none is asked for: the user's cache folder, as the system has it."""
    return user_cache_path("anomaly_ft")


def load_cached(
    records: Sequence[Record],
    decoder: Decoder,
    kind: Kind,
    *,
    disk: Disk,
    threads: int = 1,
    progress: Iterable[Record] | None = None,
) -> Images:
    """Load the images of all records that can be read; see `load_images`. Every file is decoded at least
    once, unless a cache on disk already holds it, so that an unreadable one is known before training."""
    if kind == "memory":
        return load_images(
            records,
            decoder.size,
            resize=decoder.resize,
            value_range=decoder.value_range,
            threads=threads,
            progress=progress,
        )
    if kind == "disk":
        rows, bad = _from_disk(records, decoder, disk, threads, progress or records)
        mapped: Pixels = rows

        def take(wanted: NDArray[np.intp]) -> Pixels:
            return np.array(mapped[wanted])

    else:
        decoded = decode_all(records, decoder, threads=threads)
        pairs = enumerate(zip(progress or records, decoded, strict=True))
        bad = {i: loaded for i, (_, loaded) in pairs if isinstance(loaded, str)}

        def take(wanted: NDArray[np.intp]) -> Pixels:
            return _decode_now([records[int(i)] for i in wanted], decoder, threads)

    good = [i for i in range(len(records)) if i not in bad]
    skipped = tuple((records[i], why) for i, why in sorted(bad.items()))
    kept = tuple(records[i] for i in good)
    refuse_if_none(records, kept, skipped)
    shape = (*sides(decoder.size), 3)
    return Images(as_array(Rows(take, np.array(good, np.intp), shape)), kept, skipped)


def _decode_now(records: Sequence[Record], decoder: Decoder, threads: int) -> Pixels:
    out = np.empty((len(records), *sides(decoder.size), 3), np.uint8)
    for i, (record, decoded) in enumerate(
        zip(records, decode_all(records, decoder, threads=threads), strict=True)
    ):
        if isinstance(decoded, str):
            raise DataError(f"{record.path}: could be read at first, cannot be read any more: {decoded}")
        out[i] = decoded
    return out


def _from_disk(
    records: Sequence[Record], decoder: Decoder, disk: Disk, threads: int, progress: Iterable[Record]
) -> tuple[Pixels, dict[int, str]]:
    """Map the pixels `(n, h, w, 3)` of all records from a file, and tell what could not be decoded."""
    path = disk.folder / f"{_key(records, decoder, threads)}.npy"
    about = path.with_suffix(".json")
    if path.is_file() and about.is_file():
        cached = _open(path, about, len(records), decoder.size)
        if cached:
            path.touch()  # used last
            return cached
        warnings.warn(f"{path}: the cache is damaged and is built again", stacklevel=2)
    make_room(disk, decoder.nbytes * len(records))
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial")
    try:
        sums, bad = _write(partial, records, decoder, threads, progress)
        partial.replace(path)
        partial.write_text(json.dumps({"sums": sums, "bad": bad}), encoding="utf-8")
        partial.replace(about)  # last: without it the rows count for nothing
        return np.load(path, mmap_mode="r"), bad
    except OSError as cause:
        raise DataError(
            f"runtime.cache: {disk.folder} cannot be written to ({cause}); make room, "
            "set expert.runtime.cache_dir, or set runtime.cache to none"
        ) from cause
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def make_room(disk: Disk, need: int) -> None:
    """Delete the caches used longest ago until `need` bytes more stay within what caches may take, and
    what interrupted runs left half written. A cache that is mapped elsewhere stays readable there."""
    with suppress(OSError):  # nothing here is worth a run's end
        for partial in disk.folder.glob(".*.partial"):
            if time.time() - partial.stat().st_mtime > ABANDONED:
                partial.unlink()
        oldest_first = sorted(disk.folder.glob("*.npy"), key=lambda path: path.stat().st_mtime)
        taken = sum(path.stat().st_size for path in oldest_first)
        for path in oldest_first:
            if taken + need <= disk.gib * 2**30:
                break
            taken -= path.stat().st_size
            path.with_suffix(".json").unlink(missing_ok=True)  # first: without it the rows count for nothing
            path.unlink()


def _write(
    path: Path, records: Sequence[Record], decoder: Decoder, threads: int, progress: Iterable[Record]
) -> tuple[list[int], dict[int, str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    sums, bad, nothing = [], {}, np.zeros((*sides(decoder.size), 3), np.uint8)
    about = {"descr": "|u1", "fortran_order": False, "shape": (len(records), *nothing.shape)}
    decoded = decode_all(records, decoder, threads=threads)
    with path.open("wb") as file:  # not mapped: a full disk would end the process without a word
        np.lib.format.write_array_header_1_0(file, about)
        for i, (_, loaded) in enumerate(zip(progress, decoded, strict=True)):
            row = nothing if isinstance(loaded, str) else np.ascontiguousarray(loaded)
            if isinstance(loaded, str):
                bad[i] = loaded
            file.write(row.data)
            sums.append(zlib.crc32(row.data))
    return sums, bad


def _open(path: Path, about: Path, count: int, size: Size) -> tuple[Pixels, dict[int, str]] | None:
    """Map a cache file; None if it does not hold what was written."""
    try:
        rows = np.load(path, mmap_mode="r")
        facts: dict[str, Any] = json.loads(about.read_text(encoding="utf-8"))
        bad = {int(i): str(why) for i, why in facts["bad"].items()}
        sound = rows.shape == (count, *sides(size), 3) and [zlib.crc32(row) for row in rows] == facts["sums"]
    except (OSError, EOFError, ValueError, KeyError, AttributeError):
        return None
    return (rows, bad) if sound else None


def _key(records: Sequence[Record], decoder: Decoder, threads: int) -> str:
    """Hash the format, Pillow's version, the settings and the content of every file in order to a cache's
    name."""

    def content(record: Record) -> str:
        try:
            return digest(record.path)
        except UNREADABLE as cause:
            return why_unreadable(cause)

    key = hashlib.blake2b(digest_size=16)
    key.update(json.dumps([FORMAT, PIL.__version__, asdict(decoder)]).encode())
    with ThreadPoolExecutor(threads) as pool:
        for digest_of_file in pool.map(content, records):
            key.update(digest_of_file.encode())
    return key.hexdigest()
