"""Settings of a Gaussian detector."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from anomaly_ft.model.outputs import Labels

Shrinkage = Literal["ledoit_wolf"] | float
Position = Literal["fixed", "free"]  # what a position on a grid means, see `positions`
POSITIONS: tuple[Position, ...] = ("fixed", "free")
ScoreName = Literal["pooled", "dense", "fused"]
SCORES: tuple[ScoreName, ...] = ("pooled", "dense", "fused")
LEVEL_MEAN = "pooled"  # what the weighted mean of the levels' distances is called
LABELS = Labels(
    scores={
        "pooled": "distance of averaged features from those of normal images",
        "dense": "the highest distance at any position of the map",
        "fused": "distance of averaged features and highest distance on the map, each in standard deviations "
        "of held-out normal images, added, the second counted expert.gaussian.dense_weight times",
    },
    maps={
        "dense": "where it differs from normal images",
        "contribution": "what makes up its pooled score",
    },
)
# how the dense map is made: no setting, since no set gained by another
MAP_LEVELS: Literal["auto"] = "auto"
MAP_GRID = 14
MAP_SMOOTHING = 0.0


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector is fitted and which score decides. The recipe has the defaults, this has none."""

    score: ScoreName
    shrinkage: Shrinkage
    dense_levels: Sequence[str | int] | Literal["auto"]
    grid: int
    smoothing: float
    variance_floor: float
    dense_dimensions: int
    dense_weight: float
    level_weights: Sequence[float]  # of each level in the pooled score; none: all alike
    position: Position = "fixed"  # as in runs that are older than this setting
    map_levels: Sequence[str | int] | Literal["auto"] = MAP_LEVELS
    map_grid: int = MAP_GRID
    map_smoothing: float = MAP_SMOOTHING
