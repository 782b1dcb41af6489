"""Settings of a filter, and what its scores and maps are called."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from anomaly_ft.model.gaussian.settings import Position, Shrinkage
from anomaly_ft.model.outputs import Labels

SCORE = MAP = "residual"
LABELS = Labels(
    scores={
        SCORE: "mean of the map's highest values: how far the filter moves what it is given, in the places "
        "where it moves it most"
    },
    maps={MAP: "how far the filter moves what it is given, beside how far it moves normal images"},
    training="with a filter trained",
)


@dataclass(frozen=True)
class FilterSettings:
    """What a filter sees, how its net is built, how its residual is measured. The recipe has the defaults.

    Attributes:
        levels: of the encoder, by name or position; `auto`: see `place.choose_filter_levels`.
        grid: positions along each side; 0: as many as the finest of the levels has.
        dimensions: channels at most at each position; of more a random choice is kept.
        width: channels in the middle of the net.
        reach: largest dilation of its convolutions; 0: the largest that fits, at most `net.FARTHEST`.
        skips: whether encoder and decoder are mixed at every size.
        smoothing: standard deviation, in positions, with which the map is smoothed.
        top: share of the map's positions whose mean is the score.
        shrinkage: of all covariances, see `gaussian.statistics.fit`.
        variance_floor: as there.
        position: whether the residual has a Gaussian at each position or one of all.
        seed: of the net's first weights.
    """

    levels: Sequence[str | int] | Literal["auto"]
    grid: int
    dimensions: int
    width: int
    reach: int
    skips: bool
    smoothing: float
    top: float
    shrinkage: Shrinkage
    variance_floor: float
    position: Position
    seed: int


class Place(NamedTuple):
    """Levels, by position, the grid on which they are joined, and which channels of them are kept."""

    levels: tuple[int, ...]
    grid: int
    kept: Tensor
