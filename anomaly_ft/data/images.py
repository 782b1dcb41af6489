"""Image files to arrays: `(height, width, 3)` uint8 RGB, whatever the file holds."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Images:
    """Decoded images of one size in memory, the records they came from, and what could not be read."""

    pixels: NDArray[np.uint8]  # (n, size, size, 3)
    records: tuple[Record, ...]
    skipped: tuple[tuple[Record, str], ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def read_image(path: Path) -> Image.Image:
    """The image as 8-bit RGB, upright. 16-bit values are scaled by 1/257, never clipped.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: what Pillow raises for a damaged file.
    """
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # I;16 and the 32-bit mode into which Pillow reads 16-bit PNGs
        values = np.asarray(upright).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8)).convert("RGB")
    return upright.convert("RGB")


def load_images(
    records: Sequence[Record],
    size: int,
    *,
    threads: int = 1,
    progress: Iterable[Record] | None = None,
) -> Images:
    """Decode all records, each resized ("squashed") to `size` x `size`; unreadable files are set aside.

    Args:
        records: what to read.
        size: height and width in pixels.
        threads: so many files are decoded at a time.
        progress: the records once more, drawn from as each one is done.

    Raises:
        DataError: not a single file could be read.
    """

    def load(record: Record) -> NDArray[np.uint8] | str:
        try:
            image = read_image(record.path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as cause:
            return f"{type(cause).__name__}: {cause}".splitlines()[0]
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))

    pixels = np.empty((len(records), size, size, 3), np.uint8)
    good: list[Record] = []
    skipped: list[tuple[Record, str]] = []
    with ThreadPoolExecutor(threads) as pool:
        for record, loaded in zip(progress or records, pool.map(load, records), strict=True):
            if isinstance(loaded, str):
                skipped.append((record, loaded))
            else:
                pixels[len(good)] = loaded
                good.append(record)
    if records and not good:
        raise DataError(
            f"none of {len(records)} images could be read; first: {skipped[0][0].path}: {skipped[0][1]}"
        )
    return Images(pixels[: len(good)], tuple(good), tuple(skipped))
