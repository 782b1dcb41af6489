"""What a position on the grid means to the dense score and the dense map.

`fixed`: each position has a Gaussian of its own, for parts that are placed. `free`: one Gaussian of all
positions, for parts that lie anyhow. The same estimator and the same distance serve both; they differ in the
groups that features `(n, positions, d)` fall into, and so in the shape of mean and whitening.
"""

from functools import reduce
from operator import add

from torch import Tensor

from anomaly_ft.model.gaussian.settings import Position
from anomaly_ft.model.gaussian.statistics import GROUPS, Moments


def groups_of(position: Position, grid: tuple[int, int]) -> tuple[int, ...]:
    """Give the leading axes of a mean `(*groups, d)` on a grid of so many rows and columns."""
    return (grid[0] * grid[1],) if position == "fixed" else ()


def grouped(features: Tensor, position: Position) -> Tensor:
    """Group features `(n, positions, d)` for fitting: as they are, or as `(n * positions, d)`, one sample."""
    return features if position == "fixed" else features.flatten(0, 1)


def joined(sums: Moments) -> Moments:
    """Join the sums of all groups to those of one sample, as if its features had never been grouped; a few
    groups at a time."""
    shift = sums.shift.reshape(-1, sums.shift.shape[-1]).mean(0)
    parts = (_ungrouped(part.about(shift.expand_as(part.shift))) for part in sums.split(GROUPS))
    return reduce(add, parts)


def _ungrouped(sums: Moments) -> Moments:
    """Add up groups `(groups, d)` whose shift is the same."""
    count = sums.count * len(sums.shift)
    added = (each.sum(0) for each in (sums.first, sums.second, sums.third, sums.fourth))
    return Moments(count, sums.shift[0], *added)
