"""Describe an image as a light meter would: by its header and a thumbnail, without looking at any part.

Nothing here knows labels. Thumbnails have their longer side at 128 pixels, whatever the file has, so that
sharpness and noise can be compared between images of different sizes.
"""

import math
import re
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.deep_values import is_deep
from anomaly_ft.data.images import has_pages, refuse_empty, upright_size
from anomaly_ft.data.pixels import Pixels

SIDE = 128  # of a thumbnail's longer side
DECODED = 2 * SIDE  # a JPEG is decoded at the fraction of its size that still has so many pixels a side
MAKE, MODEL, CHANGED, EXIF, TAKEN = 0x010F, 0x0110, 0x0132, 0x8769, 0x9003
NOISE = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)  # blind to edges (Immerkaer, CVIU 64, 1996)
UNKNOWN = "none"
TILES = 3


@dataclass(frozen=True)
class Header:
    """What is known of a file before its pixels are decoded."""

    size: tuple[int, int]  # width, height, upright
    mode: str
    deep: bool  # more than 8 bits a value
    pages: bool  # more of them, or frames, than the first
    file_bytes: int
    file_format: str  # as Pillow calls it
    jpeg_step: float  # mean of the first quantisation table: the higher, the coarser; 0: no JPEG
    camera: str  # EXIF make and model, or `none`
    taken: float  # EXIF time in seconds; not a number where there is none


@dataclass(frozen=True)
class Appearance:
    """Numbers and words about one image, by name; each image of a set has the same names."""

    numbers: dict[str, float]
    words: dict[str, str]


def read_header(path: Path) -> Header:
    """Read a file's header; no pixel is decoded.

    Raises:
        ValueError, OSError and more: an empty file, and whatever the decoder raises for a damaged one.
    """
    refuse_empty(path)
    with Image.open(path) as image:
        known = image.format != "PNG" or "exif" in image.info  # else Pillow decodes the whole PNG to look
        exif = image.getexif() if known else Image.Exif()
        table = (getattr(image, "quantization", None) or {}).get(0)
        return Header(
            size=upright_size(image),
            mode=image.mode,
            deep=is_deep(image),
            pages=has_pages(image),
            file_bytes=path.stat().st_size,
            file_format=image.format or UNKNOWN,
            jpeg_step=float(np.mean(table)) if table else 0.0,
            camera=" ".join(str(exif[tag]).strip("\0 ") for tag in (MAKE, MODEL) if exif.get(tag)) or UNKNOWN,
            taken=_seconds(exif.get_ifd(EXIF).get(TAKEN) or exif.get(CHANGED)),
        )


def appearance(name: str, header: Header, image: Pixels) -> Appearance:
    """Describe one image.

    Args:
        name: of the file, below its root.
        header: of the file.
        image: `(h, w, 3)` RGB of any size; see `meter`.
    """
    width, height = header.size
    numbers = {
        "size": float(width * height),
        "aspect ratio": width / height,
        "bytes a pixel": header.file_bytes / (width * height),
        "JPEG quantisation": header.jpeg_step,
        **meter(image),
        "time taken": header.taken,
    }
    words = {
        "file format": header.file_format,
        "colour mode": header.mode,
        "camera": header.camera,
        "name pattern": name_pattern(name),
    }
    return Appearance(numbers, words)


def meter(image: Pixels) -> dict[str, float]:
    """Measure an image `(h, w, 3)` RGB as a light meter would, on its thumbnail; levels are 0 to 255.

    Each number is the median over the thumbnail's 3 x 3 tiles: other light changes all of them, a defect in
    one place does not change the median. `sharpness` is the deviation of the Laplacian as a multiple of the
    contrast, `noise` the standard deviation of what no edge explains, `saturation` the mean distance of the
    highest from the lowest channel, the casts the mean of red and of blue above green.
    """
    small = thumbnail_of(image)
    luma = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    edges, residue = cv2.Laplacian(luma, cv2.CV_32F), np.abs(cv2.filter2D(luma, cv2.CV_32F, NOISE))
    levels = _tiles(luma)
    low, high = (round(share * (levels.shape[1] - 1)) for share in (0.05, 0.95))
    ordered = np.partition(levels, (low, high), axis=1)
    channels = [small[..., i] for i in range(3)]
    red, green, blue = (_tiles(channel).mean(1) for channel in channels)
    highest, lowest = reduce(np.maximum, channels), reduce(np.minimum, channels)  # ten times as fast as max(2)
    contrast = levels.std(1)
    measured = {
        "brightness": levels.mean(1),
        "darkest 5 %": ordered[:, low],
        "brightest 5 %": ordered[:, high],
        "contrast": contrast,
        "sharpness": _tiles(edges).std(1) / np.maximum(contrast, 1.0),
        "noise": _tiles(residue).mean(1) * (math.sqrt(math.pi / 2) / 6),
        "saturation": _tiles(highest - lowest).mean(1),
        "red cast": red - green,
        "blue cast": blue - green,
    }
    medians = np.median(np.stack(list(measured.values())), axis=1)  # one call costs as much as one of nine
    return dict(zip(measured, medians.tolist(), strict=True))


def _tiles(layer: NDArray[Any]) -> NDArray[Any]:
    """Cut `(h, w)` into nine tiles, three along each side: `(9, pixels)`; up to two rows and columns at the
    far ends are left out. An image too small for tiles is kept whole, `(1, pixels)`."""
    high, wide = (side // TILES for side in layer.shape)
    if min(high, wide) < TILES:
        return layer.reshape(1, -1)
    whole = layer[: TILES * high, : TILES * wide].reshape(TILES, high, TILES, wide)
    return whole.swapaxes(1, 2).reshape(TILES * TILES, -1)


def thumbnail_of(image: Pixels) -> Pixels:
    """Shrink the image `(h, w, 3)` to 128 pixels on its longer side, averaged over boxes; a smaller one
    stays."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def name_pattern(name: str) -> str:
    """Strip the folder and all numbers from a file's name.

    >>> name_pattern("train/good/cam2_0017.png")
    'cam#_#.png'
    """
    return re.sub(r"\d+", "#", name.rpartition("/")[2])


def _seconds(text: object) -> float:
    """Parse an EXIF time; cameras write anything there."""
    try:
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S").timestamp()
    except (ValueError, OverflowError, OSError):
        return math.nan
