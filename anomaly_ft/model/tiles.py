"""Predict a large image in overlapping tiles: scores are those of the worst tile, maps are stitched.

For detectors to which a position means nothing. The encoder sees a batch of tiles at a time, whatever the size
of the image; beside the image itself only the stitched maps grow with it, by a few hundred numbers a tile.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.images import resize_image
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.outputs import Predictions

OVERLAP = 2  # tiles are at most 1 / OVERLAP of their side apart

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """Where tiles lie along one side of an image: in pixels, and on the stitched map in positions.

    Attributes:
        starts: of each tile, first pixel and first position.
        pixels: of a tile.
        positions: of a tile's map.
        length: positions of the stitched map.
    """

    starts: tuple[tuple[int, int], ...]
    pixels: int
    positions: int
    length: int


def plan(side: int, tile: int, positions: int) -> Plan:
    """Lay tiles of `tile` pixels over a side; the first and the last end where the image does.

    Args:
        side: of the image, at least a tile.
        tile: pixels of a tile.
        positions: of a tile's map.

    >>> plan(128, 64, 14).starts, plan(64, 64, 14).starts, plan(65, 64, 14).starts
    (((0, 0), (32, 7), (64, 14)), ((0, 0),), ((0, 0), (1, 1)))
    """
    length = max(positions + (side > tile), round(side / tile * positions))
    free = length - positions  # positions that a tile may be moved by
    count = 1 + -(-free * OVERLAP // positions)
    firsts = [round(free * i / max(1, count - 1)) for i in range(count)]
    return Plan(
        tuple((round(first * (side - tile) / max(1, free)), first) for first in firsts), tile, positions, length
    )


def predict_tiles(
    detector: GaussianDetector,
    image: Pixels,
    tile: tuple[int, int],
    compute: Compute,
    *,
    explain: bool = False,
    look: Callable[[Pixels], None] = lambda pixels: None,
) -> Predictions:
    """Predict one image `(h, w, 3)`, for which the outputs have n = 1: the highest of each score over all
    tiles, the stitched maps, and the distances of the tile whose score that decides is highest.

    Args:
        detector: with free positions.
        image: at its own size, at least that of a tile.
        tile: height and width in pixels of what the encoder sees at a time.
        compute: device, precision, batch size.
        explain: see `Detector.outputs`.
        look: is shown each tile as the encoder sees it.

    Raises:
        ValueError: an image smaller than a tile along one side.
        DivergedError: a score that is not finite.
    """
    if image.shape[0] < tile[0] or image.shape[1] < tile[1]:
        raise ValueError(
            f"{image.shape[1]} x {image.shape[0]} pixels are less than a tile of {tile[1]} x {tile[0]} along "
            "one side; take smaller tiles"
        )
    down, across = (plan(image.shape[axis], tile[axis], detector.map_grid[axis]) for axis in (0, 1))
    stitched = Stitched(down, across)
    everywhere = list(product(down.starts, across.starts))
    for start in range(0, len(everywhere), compute.batch_size):
        places = everywhere[start : start + compute.batch_size]
        pixels = np.stack([_cut(image, top[0], left[0], tile, detector) for top, left in places])
        for each in pixels:
            look(each)
        outputs = predict_batch(detector, compute.batch(pixels), compute, explain=explain)
        stitched.add([(top[1], left[1]) for top, left in places], outputs)
    return stitched.outputs()


class Stitched:
    """Collects the outputs of tiles; where they overlap a map is their mean, most of it from the tile in whose
    middle a place lies."""

    def __init__(self, down: Plan, across: Plan) -> None:
        self.shape = (down.length, across.length)
        self.window = np.outer(_hat(down.positions), _hat(across.positions))
        self.weight: Floats = np.zeros(self.shape)
        self.sums: dict[str, Floats] = {}
        self.best: Predictions | None = None

    def add(self, places: Sequence[tuple[int, int]], outputs: Predictions) -> None:
        """Add tiles whose maps begin at these rows and columns of the stitched map."""
        rows, columns = self.window.shape
        for i, (top, left) in enumerate(places):
            here = slice(top, top + rows), slice(left, left + columns)
            self.weight[here] += self.window
            for name, maps in outputs.maps.items():
                self.sums.setdefault(name, np.zeros(self.shape))[here] += self.window * maps[i]
        worst = int(np.argmax(outputs.score))
        here_best = outputs.convert(lambda values: values[worst : worst + 1])
        highest = {name: values.max(keepdims=True) for name, values in outputs.scores.items()}
        before = self.best
        if before is None:
            self.best = replace(here_best, scores=highest)
            return
        kept = here_best if highest[outputs.decides] > before.score else before
        both = {name: np.maximum(values, before.scores[name]) for name, values in highest.items()}
        self.best = replace(kept, scores=both)

    def outputs(self) -> Predictions:
        """Give the outputs of the whole image."""
        if self.best is None:
            raise ValueError("no tile was added")
        maps: Mapping[str, NDArray[Any]] = {
            name: (sums / self.weight)[None].astype(np.float32) for name, sums in self.sums.items()
        }
        return replace(self.best, maps=maps)


def stack(parts: Sequence[Predictions]) -> Predictions:
    """Join outputs of single images; maps smaller than the largest are enlarged to its rows and columns."""
    shapes = [part.localises.shape[1:] for part in parts]
    rows, columns = max(shape[0] for shape in shapes), max(shape[1] for shape in shapes)

    def enlarged(maps: NDArray[Any]) -> NDArray[Any]:
        small = Image.fromarray(maps[0].astype(np.float32))
        return np.asarray(small.resize((columns, rows), Image.Resampling.BILINEAR))

    first = parts[0]
    return replace(
        first,
        scores={name: np.concatenate([part.scores[name] for part in parts]) for name in first.scores},
        maps={name: np.stack([enlarged(part.maps[name]) for part in parts]) for name in first.maps},
        distances=np.concatenate([part.distances for part in parts]),
    )


def _cut(image: Pixels, top: int, left: int, tile: tuple[int, int], detector: GaussianDetector) -> Pixels:
    part = Image.fromarray(image[top : top + tile[0], left : left + tile[1]])
    return np.asarray(resize_image(part, detector.encoder.image_size, "stretch"))


def _hat(positions: int) -> Floats:
    """Weigh positions by how far from the border of their tile they are."""
    index = np.arange(positions)
    return np.minimum(index + 1, positions - index).astype(np.float64)
