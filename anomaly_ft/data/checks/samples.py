"""A few images of a set, evenly chosen and decoded without a recipe: what proposals and sheets look at."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.checks.appearance import DECODED, SIDE
from anomaly_ft.data.deep_values import Limits
from anomaly_ft.data.images import read_image, resize_image, view_image
from anomaly_ft.data.loaded import UNREADABLE
from anomaly_ft.data.pixels import Pixels, Resize, Size, sides
from anomaly_ft.data.records import Record


def evenly(records: Sequence[Record], count: int) -> list[Record]:
    """Choose at most so many, from the first to the last."""
    chosen = np.unique(np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int))
    return [records[i] for i in chosen]


def grey_thumbnails(records: Sequence[Record], limits: Limits | None = None) -> NDArray[np.uint8]:
    """Shrink to grey `(n, h, w)` with the longer side at 128 pixels; h / w is the images' median.

    Args:
        records: of the images; those that cannot be read are left out.
        limits: black and white of images with more than 8 bits.
    """
    read = [image.convert("L") for image in _read(records, limits, DECODED)]
    if not read:
        return np.zeros((0, SIDE, SIDE), np.uint8)
    ratio = float(np.median([image.width / image.height for image in read]))
    size = (max(8, round(SIDE * min(1, ratio))), max(8, round(SIDE * min(1, 1 / ratio))))
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BOX)) for image in read])


def sample_pixels(
    records: Sequence[Record], size: Size, resize: Resize = "stretch", limits: Limits | None = None
) -> Pixels:
    """Decode images as a run of this size does, `(n, h, w, 3)`; those that cannot be read are left
    out."""
    read = [np.asarray(resize_image(image, size, resize)) for image in _read(records, limits, 0)]
    return np.stack(read) if read else np.zeros((0, *sides(size), 3), np.uint8)


def _read(records: Sequence[Record], limits: Limits | None, at_least: int) -> list[Image.Image]:
    images_read = []
    for record in records:
        with suppress(UNREADABLE):
            images_read.append(_image(record.path, limits, at_least))
    return images_read


def _image(path: Path, limits: Limits | None, at_least: int) -> Image.Image:
    if limits is None:
        return view_image(path, at_least=at_least).image
    return read_image(path, (limits.low, max(limits.high, limits.low + 1)))
