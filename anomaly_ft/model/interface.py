"""What every detector gives."""

from typing import NamedTuple

from torch import Tensor


class Detection(NamedTuple):
    """The score that decides `(n,)` and where it comes from `(n, h, w)`, a pixel for each of the image;
    in units of distance, higher = more anomalous."""

    scores: Tensor
    maps: Tensor


class Scores(NamedTuple):
    """All scores `(n,)` of a batch and its dense maps `(n, map_grid, map_grid)`; higher = more anomalous."""

    pooled: Tensor
    dense: Tensor
    fused: Tensor
    map: Tensor
