"""The tree of all connected regions of a map above a level (max-tree), and choosing disjoint ones. Pure.

Maps have hundreds of positions, so union-find in plain Python takes a millisecond or two and needs no library.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
ROOT = -1


@dataclass(frozen=True)
class RegionTree:
    """Regions, each the connected positions at or above the value of one position, its last one.

    Attributes:
        order: `(n,)`, positions from the highest value down, as indices of the flattened map; region i is the
            one that position `order[i]` completes.
        parent: `(n,)`, the smallest region that holds more, later in the order; ROOT: there is none.
        sizes: `(n,)`, positions of each region.
    """

    order: Ints
    parent: Ints
    sizes: Ints

    def members(self, region: int) -> Ints:
        """List the positions of a region, as indices of the flattened map."""
        inside = np.zeros(len(self.order), dtype=bool)
        inside[region] = True
        for i in range(region - 1, -1, -1):
            inside[i] = self.parent[i] != ROOT and inside[self.parent[i]]
        return self.order[inside]

    def disjoint(self, significance: NDArray[np.float64]) -> Iterator[int]:
        """Choose the most significant region, then the most significant one that is neither part of a chosen
        one nor holds one, and so on."""
        blocked = np.zeros(len(self.order), dtype=bool)
        for region in np.argsort(-significance, kind="stable"):
            if blocked[region]:
                continue
            yield int(region)
            blocked[np.isin(self.order, self.members(region))] = True
            above = region
            while above != ROOT:
                blocked[above] = True
                above = self.parent[above]


def region_tree(values: NDArray[np.float64], lowest: float) -> RegionTree:
    """Make the tree of the regions of a map `(rows, columns)` at or above `lowest`; positions touch at their
    sides."""
    rows, columns = values.shape
    flat = values.ravel()
    order = np.argsort(-flat, kind="stable")[: int((flat >= lowest).sum())]
    rank = {int(position): i for i, position in enumerate(order)}
    root = list(range(len(order)))
    parent, sizes = np.full(len(order), ROOT), np.ones(len(order), dtype=np.int64)

    def root_of(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for position, region in rank.items():
        for neighbour in _neighbours(position, rows, columns):
            if rank.get(neighbour, region) >= region:
                continue
            below = root_of(rank[neighbour])
            if below != region:
                root[below] = parent[below] = region
                sizes[region] += sizes[below]
    return RegionTree(order, parent, sizes)


def _neighbours(position: int, rows: int, columns: int) -> Iterator[int]:
    row, column = divmod(position, columns)
    if row > 0:
        yield position - columns
    if row < rows - 1:
        yield position + columns
    if column > 0:
        yield position - 1
    if column < columns - 1:
        yield position + 1
