"""How a Gaussian detector is fitted, and which score decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from anomaly_ft.model.gaussian.statistics import Shrinkage

ScoreName = Literal["pooled", "dense", "fused"]
SCORES: tuple[ScoreName, ...] = ("pooled", "dense", "fused")
LEVEL_MEAN = "pooled"  # what the weighted mean of the levels' distances is called
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
    map_levels: Sequence[str | int] | Literal["auto"] = MAP_LEVELS
    map_grid: int = MAP_GRID
    map_smoothing: float = MAP_SMOOTHING
