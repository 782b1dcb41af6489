"""What a position on the grid means to the dense score and the dense map.

`fixed`: each position has a Gaussian of its own, for parts that are placed. `free`: one Gaussian of all
positions, for parts that lie anyhow. The same estimator and the same distance serve both; they differ in the
groups that features `(n, positions, d)` fall into, and so in the shape of mean and whitening.
"""

from typing import Literal

from torch import Tensor

from anomaly_ft.model.gaussian.statistics import GROUPS, Moments, squared_distance

Position = Literal["fixed", "free"]
POSITIONS: tuple[Position, ...] = ("fixed", "free")


def groups_of(position: Position, grid: int) -> tuple[int, ...]:
    """Give the leading axes of a mean `(*groups, d)` on a grid of `grid` x `grid` positions."""
    return (grid**2,) if position == "fixed" else ()


def grouped(features: Tensor, position: Position) -> Tensor:
    """Group features `(n, positions, d)` for fitting: as they are, or as `(n * positions, d)`, one sample."""
    return features if position == "fixed" else features.flatten(0, 1)


def squared_distances(features: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Compute the squared Mahalanobis distance of features `(n, positions, d)` at each position `(n,
    positions)`, to its own Gaussian, mean `(positions, d)`, or to the one of all, mean `(d,)`."""
    distances = squared_distance(features.reshape(-1, *mean.shape), mean, whitening)
    return distances.view(features.shape[:2])


def joined(sums: Moments) -> Moments:
    """Join the sums of all groups to those of one sample, as if its features had never been grouped; a few
    groups at a time."""
    shift = sums.shift.reshape(-1, sums.shift.shape[-1]).mean(0)
    whole: Moments | None = None
    for part in sums.split(GROUPS):
        moved = part.about(shift.expand_as(part.shift))
        some = Moments(
            count=part.count * len(part.shift),
            shift=shift,
            first=moved.first.sum(0),
            second=moved.second.sum(0),
            third=moved.third.sum(0),
            fourth=moved.fourth.sum(0),
        )
        whole = some if whole is None else whole + some
    assert whole is not None  # a grid has positions
    return whole
