"""Choose height and width for images that keep their own proportions; only headers are read."""

import math
from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from anomaly_ft.data.images import refuse_empty, same_aspect, upright_size
from anomaly_ft.data.loaded import UNREADABLE
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

STEP = 16  # pixels: sides are multiples of it, so that levels up to this stride end where the image does
LEAST = 32  # pixels of a side, as for squares
FREEDOM = 0.15  # share by which there may be more or fewer pixels, so that the proportions come out well
SQUASHED = 0.04  # share by which proportions may be off; beyond, more or fewer pixels are better


def native_size(records: Sequence[Record], side: int) -> tuple[int, int]:
    """Choose height and width in the images' own proportions, with about `side`^2 pixels.

    Raises:
        DataError: images of different proportions, which no batch can hold without squashing or cutting them.
    """
    sizes: dict[tuple[int, int], str] = {}  # with the name of the first such image
    for record in records:
        with suppress(UNREADABLE):  # an unreadable file is named when it is decoded
            refuse_empty(record.path)
            with Image.open(record.path) as image:
                sizes.setdefault(upright_size(image), record.name)
    if not sizes:
        return side, side
    ordered = sorted(sizes, key=lambda size: size[0] / size[1])
    usual = ordered[len(ordered) // 2]
    for other in (ordered[0], ordered[-1]):
        if not same_aspect(usual, other):
            raise DataError(
                f"data.resize: native needs images of the same proportions, but {sizes[usual]} has {usual[0]} "
                f"x {usual[1]} pixels and {sizes[other]} has {other[0]} x {other[1]}; set it to letterbox, "
                "center-crop or stretch"
            )
    return _near(usual[1] / usual[0], side)


def _near(ratio: float, side: int) -> tuple[int, int]:
    """Choose multiples of `STEP` whose ratio, height over width, and whose product fit best.

    >>> _near(1.0, 224), _near(500 / 1258, 224), _near(1258 / 500, 224)
    ((224, 224), (144, 368), (368, 144))
    """

    def cost(size: tuple[int, int]) -> float:
        pixels, squashed = abs(math.log(size[0] * size[1] / side**2)), abs(math.log(size[0] / size[1] / ratio))
        return squashed + 100 * max(0.0, squashed - SQUASHED) + max(0.0, pixels - FREEDOM) + 0.1 * pixels

    heights = range(LEAST, STEP + max(LEAST, math.ceil(2 * side * math.sqrt(ratio))), STEP)
    return min(((h, max(LEAST, STEP * round(h / ratio / STEP))) for h in heights), key=cost)
