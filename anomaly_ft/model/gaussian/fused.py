"""Add the pooled and the dense score, each in standard deviations of held-out normal images."""

from typing import Any


def fuse(pooled: Any, dense: Any, location: Any, spread: Any, dense_weight: float) -> Any:
    """Compute the fused score `(n,)`, higher = more anomalous, of tensors or of arrays.

    Args:
        pooled: `(n,)`.
        dense: `(n,)`.
        location: mean of the pooled and of the dense score over held-out normal images, `(2,)`.
        spread: their standard deviations, `(2,)`.
        dense_weight: what the dense score counts.
    """
    return (pooled - location[0]) / spread[0] + dense_weight * ((dense - location[1]) / spread[1])
