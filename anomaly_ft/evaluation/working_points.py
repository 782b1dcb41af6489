"""Decision thresholds from normal images alone, with a promise that holds for any distribution.

Split conformal prediction (Vovk et al., 2005): among n + 1 exchangeable normal images the new one is
equally likely to take each rank, so a threshold at the k-th smallest of n held-out scores is exceeded
with probability at most 1 - k / (n + 1).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from anomaly_ft.errors import DivergedError


@dataclass(frozen=True)
class WorkingPoint:
    """A score above `threshold` is called anomalous; at most `promised_fpr` of normal images are,
    averaged over calibration sets of `images` held-out normals. `wanted_fpr` is what was asked for."""

    threshold: float
    wanted_fpr: float
    promised_fpr: float
    images: int

    def __str__(self) -> str:
        said = f"threshold {self.threshold:.4g}: at most {self.promised_fpr:.2%} of normal images are rejected"
        if self.promised_fpr > self.wanted_fpr:
            said += (
                f" (the least that {self.images} held-out normals can promise; wanted {self.wanted_fpr:.2%})"
            )
        return said


def conformal(scores: ArrayLike, false_positive_rate: float) -> WorkingPoint:
    """The lowest threshold whose promise is `false_positive_rate`, from held-out normal scores `(n,)`.

    Where n is too small for that, the highest score is the threshold and 1 / (n + 1) the promise.

    Raises:
        DivergedError: scores that are not finite.
        ValueError: no scores, or a rate outside (0, 1).
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(values)
    if n == 0 or not 0 < false_positive_rate < 1:
        raise ValueError(f"expected scores and a rate in (0, 1), got {n} scores and {false_positive_rate}")
    if not np.isfinite(values).all():
        raise DivergedError("a threshold needs finite scores")
    rank = min(n, math.ceil((1 - false_positive_rate) * (n + 1) - 1e-9))
    return WorkingPoint(float(values[rank - 1]), false_positive_rate, (n + 1 - rank) / (n + 1), n)
