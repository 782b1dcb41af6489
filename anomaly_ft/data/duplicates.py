"""Images that are the same, or nearly: byte by byte, by perceptual hash, by name but for its letters' case."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.records import Record

SIDE = 32
# Measured on MVTec bottle and screw, MTD, ELPV: JPEG of quality 60 or two thirds of the size leave nearly
# all copies within these, and of different shots only a few repeated ones of MTD and a pair of screws
BITS = 8  # of 256
ALIKE = 0.995  # correlation
SMALL_SET = 10
CHUNK = 512  # rows of the table of distances at a time


def digest(path: Path) -> str:
    """Hash a file's bytes (BLAKE2b)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def identical(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Group records, two or more, whose files are the same byte by byte.

    Only files of equal length are read. Files that cannot be read are like no other.
    """
    by_length: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.path.is_file():
            by_length[record.path.stat().st_size].append(record)
    groups: list[tuple[Record, ...]] = []
    for length in [length for length, same in by_length.items() if length and len(same) > 1]:
        by_content: dict[str, list[Record]] = defaultdict(list)
        for record in by_length.pop(length):
            with suppress(OSError):
                by_content[digest(record.path)].append(record)
        groups += [tuple(group) for group in by_content.values() if len(group) > 1]
    return groups


def leaks(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Find groups of identical files with at least one in train and one in test."""
    sides = [(group, {record.split for record in group}) for group in identical(records)]
    return [group for group, splits in sides if {"train", "test"} <= splits]


def near_duplicates(thumbnails: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Find pairs `(i, j)`, i < j, of images that look the same: compressed, scaled or brightened copies.

    A perceptual hash finds candidates, the correlation of the thumbnails confirms them. Both look at
    what sets an image apart from the mean image: photographs of one kind of part all look alike.

    Args:
        thumbnails: grey, `(n, 32, 32)`, so small that noise and compression hardly show.
    """
    apart = _apart(thumbnails)
    hashes = perceptual_hashes(apart)
    pairs = [(i, j) for i, j in _close_pairs(hashes) if float(apart[i] @ apart[j]) >= ALIKE]
    return [(i, j) for i, j in pairs if apart[i].any()]


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """Shrink an image to a grey picture `(32, 32)`, as `near_duplicates` compares them."""
    return np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


def perceptual_hashes(apart: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hash vectors `(n, 32 * 32)` to 256 bits `(n, 4)`: whether each of 16 x 16 cells is above zero."""
    half = SIDE // 2
    cells = apart.reshape(-1, half, 2, half, 2).mean((2, 4)).reshape(-1, half * half)
    return np.packbits(cells > 0, axis=1).view(np.uint64)


def _apart(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Subtract the mean image and normalise, `(n, 32 * 32)` of length 1; flat images give zeros.

    In small sets the mean is mostly the images themselves, hence it is taken back towards zero there.
    """
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat = _unit(flat - flat.mean(1, keepdims=True))
    return _unit(flat - flat.mean(0) * (len(flat) / (len(flat) + SMALL_SET)))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.where(lengths > 1e-6, vectors / np.maximum(lengths, 1e-6), 0)
    return unit


def _close_pairs(hashes: NDArray[np.uint64]) -> Iterator[tuple[int, int]]:
    """Find pairs whose hashes `(n, 4)` differ in at most `BITS` bits."""
    for start in range(0, len(hashes), CHUNK):
        rows = hashes[start : start + CHUNK]
        distances = np.zeros((len(rows), len(hashes) - start), np.uint16)
        for word in range(hashes.shape[1]):
            distances += np.bitwise_count(rows[:, None, word] ^ hashes[None, start:, word])
        yield from ((start + int(i), start + int(j)) for i, j in np.argwhere(distances <= BITS) if i < j)


def case_clashes(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Find names that some file systems take for one."""
    names: dict[str, list[str]] = defaultdict(list)
    for record in records:
        names[record.name.casefold()].append(record.name)
    return [tuple(group) for group in names.values() if len(group) > 1]
