"""Choose height and width for images that keep their own proportions; only headers are read."""

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from anomaly_ft.data.images import SAME_ASPECT, refuse_empty, same_aspect, upright_size
from anomaly_ft.data.loaded import UNREADABLE
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

STEP = 16  # pixels: sides are multiples of it, so that levels up to this stride end where the image does
LEAST = 32  # pixels of a side, as for squares
FREEDOM = 0.15  # share by which there may be more or fewer pixels, so that the proportions come out well
SQUASHED = 0.04  # share by which proportions may be off; beyond, more or fewer pixels are better


def native_size(records: Sequence[Record], side: int, step: int = STEP) -> tuple[int, int]:
    """Choose height and width, multiples of `step`, in the proportions of most images: about `side`^2 pixels.

    Raises:
        DataError: images of different proportions, which no batch can hold without squashing or cutting them.
    """
    names: dict[tuple[int, int], str] = {}  # of the first image that has such a width and height
    counts: Counter[tuple[int, int]] = Counter()
    for record in records:
        with suppress(UNREADABLE):  # an unreadable file is named when it is decoded
            refuse_empty(record.path)
            with Image.open(record.path) as image:
                size = upright_size(image)
            names.setdefault(size, record.name)
            counts[size] += 1
    if not names:
        return side, side
    ordered = sorted(counts.elements(), key=lambda size: size[0] / size[1])
    usual = ordered[len(ordered) // 2]
    height, width = _near(usual[1] / usual[0], side, step)
    for other in (ordered[0], ordered[-1]):
        if not same_aspect(other, (width, height)):
            raise DataError(
                f"data.resize: native needs images of the same proportions, but {names[usual]} has {usual[0]} "
                f"x {usual[1]} pixels and {names[other]} has {other[0]} x {other[1]}; set it to letterbox, "
                f"center-crop or stretch ({width} x {height} pixels, which fit most images, would squash it by "
                f"more than {SAME_ASPECT - 1:.0%})"
            )
    return height, width


def _near(ratio: float, side: int, step: int = STEP) -> tuple[int, int]:
    """Choose multiples of `step` whose ratio, height over width, and whose product fit best.

    >>> _near(1.0, 224), _near(500 / 1258, 224), _near(1258 / 500, 224), _near(1258 / 500, 224, 14)
    ((224, 224), (144, 368), (368, 144), (350, 140))
    """
    least = step * math.ceil(LEAST / step)

    def cost(size: tuple[int, int]) -> float:
        pixels, squashed = abs(math.log(size[0] * size[1] / side**2)), abs(math.log(size[0] / size[1] / ratio))
        return squashed + 100 * max(0.0, squashed - SQUASHED) + max(0.0, pixels - FREEDOM) + 0.1 * pixels

    heights = range(least, step + max(least, math.ceil(2 * side * math.sqrt(ratio))), step)
    return min(((h, max(least, step * round(h / ratio / step))) for h in heights), key=cost)
