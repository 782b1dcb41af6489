"""Images that are the same, or nearly: byte by byte, by perceptual hash, by name but for its letters' case."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.records import Record

HASH_SIDE = 16
CHUNK = 512  # rows of the table of distances at a time


def digest(path: Path) -> str:
    """BLAKE2b of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def identical(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Groups of two or more records whose files are the same byte by byte.

    Only files of equal length are read. Files that cannot be read are like no other.
    """
    by_length: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        if record.path.is_file():
            by_length[record.path.stat().st_size].append(record)
    by_content: dict[str, list[Record]] = defaultdict(list)
    for length, same in by_length.items():
        for record in same if len(same) > 1 and length else ():
            try:
                by_content[digest(record.path)].append(record)
            except OSError:
                continue
    return [tuple(group) for group in by_content.values() if len(group) > 1]


def leaks(records: Sequence[Record]) -> list[tuple[Record, ...]]:
    """Groups of identical files with at least one in train and one in test."""
    sides = [(group, {record.split for record in group}) for group in identical(records)]
    return [group for group, splits in sides if {"train", "test"} <= splits]


def perceptual_hash(image: Image.Image) -> NDArray[np.uint64]:
    """256 bits `(4,)`: whether each of 16 x 16 grey cells is brighter than its left neighbour (dHash).

    Survives compression, scaling and changes of brightness or contrast.
    """
    cells = np.asarray(image.convert("L").resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX), np.int16)
    return np.packbits(cells[:, 1:] > cells[:, :-1]).view(np.uint64)


def near_pairs(hashes: NDArray[np.uint64], most: int) -> Iterator[tuple[int, int, int]]:
    """Pairs `(i, j, distance)` with i < j of hashes `(n, 4)` that differ in at most so many bits."""
    for start in range(0, len(hashes), CHUNK):
        rows = hashes[start : start + CHUNK]
        distances = np.zeros((len(rows), len(hashes) - start), np.uint16)
        for word in range(hashes.shape[1]):
            distances += np.bitwise_count(rows[:, None, word] ^ hashes[None, start:, word])
        for i, j in np.argwhere(distances <= most):
            if i < j:
                yield start + int(i), start + int(j), int(distances[i, j])


def case_clashes(records: Sequence[Record]) -> list[tuple[str, ...]]:
    """Names that some file systems take for one."""
    names: dict[str, list[str]] = defaultdict(list)
    for record in records:
        names[record.name.casefold()].append(record.name)
    return [tuple(group) for group in names.values() if len(group) > 1]
