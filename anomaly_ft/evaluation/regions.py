"""A contrario alarms: the regions of a map that chance makes less often than so many times an image. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.data.images import Decoder
from anomaly_ft.evaluation.chance import Chance
from anomaly_ft.model.maps import Map, upsample

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Region:
    """Connected positions of a map.

    Attributes:
        inside: `(rows, columns)` of the map.
        lowest: distance inside.
        highest: distance inside.
        nfa: number of false alarms, of regions like it that a good image has on average; lower = more
            anomalous.
    """

    inside: Mask
    lowest: float
    highest: float
    nfa: float


@dataclass(frozen=True)
class Placed:
    """A region in the image's own pixels: `inside (height, width)`, and the box around it, whose right and
    bottom ends are outside."""

    inside: Mask
    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """Count the pixels inside."""
        return int(self.inside.sum())


def find_regions(map_: Map, chance: Chance, epsilon: float) -> list[Region]:
    """Find the disjoint regions of a map of distances `(rows, columns)` of which good images have at most
    `epsilon` on average; the most significant one first."""
    regions = []
    for members, significance in chance.positions.regions(chance.positions.compensated(map_)):
        nfa = chance.nfa(significance, map_.size)
        if nfa > epsilon:
            break  # the others are less significant
        inside = np.zeros(map_.size, dtype=bool)
        inside[members] = True
        values = map_.ravel()[members]
        regions.append(Region(inside.reshape(map_.shape), float(values.min()), float(values.max()), nfa))
    return regions


def place(region: Region, height: int, width: int, decoder: Decoder) -> Placed | None:
    """Bring a region to an image's own size: pixels that are nearer to it than to other positions, mostly.

    None for a region beside the image, in a border that the decoder added.
    """
    large = upsample(region.inside.astype(np.float32), height, width, decoder)
    highest = float(large.max())
    if highest <= 0:
        return None
    inside = np.asarray(large >= min(0.5, highest))  # an image may have fewer pixels than the map
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    ends = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
    return Placed(inside, *ends)
