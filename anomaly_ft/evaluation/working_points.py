"""Decision thresholds from normal images alone, with a guarantee that holds for any distribution.

Split conformal prediction (Vovk et al., 2005): among n + 1 exchangeable normal images the new one is
equally likely to take each rank, so a threshold at the k-th smallest of n held-out scores is exceeded
with probability at most 1 - k / (n + 1). Beside it stands the threshold that holds if features are
Gaussian, and what either did to normal images that had no part in it.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from anomaly_ft.errors import DivergedError
from anomaly_ft.metrics import Floats, wilson_interval
from anomaly_ft.model.outputs import DistanceMean
from anomaly_ft.model.threshold import WorkingPoint


def conformal(scores: ArrayLike, false_positive_rate: float) -> WorkingPoint:
    """Find the lowest threshold that guarantees `false_positive_rate`, from held-out normal scores `(n,)`.

    Where n is too small for that, the highest score is the threshold and 1 / (n + 1) is guaranteed.

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


def conformal_varied(scores: Floats, false_positive_rate: float) -> WorkingPoint:
    """Set the lowest threshold that gives two guarantees, from scores of held-out normals `(1 + k, n)`: of
    the n images in the first row, and of k varied copies of each in the others.

    Of the images themselves it is `conformal`. Of the copies it bounds the expected share of an image's varied
    copies that are rejected (conformal risk control, Angelopoulos et al., 2022): images are exchangeable, their
    copies are not independent, and an image counts once however many copies it has. Where n is too small for
    the rate, the copies' guarantee is 2 / (n + 1), twice that of the images: the single highest of all copies
    would let one odd image decide.

    Raises:
        DivergedError, ValueError: as `conformal`.
    """
    clean = conformal(scores[0], false_positive_rate)
    if len(scores) == 1:
        return clean
    n = clean.images
    guarantee = max(false_positive_rate, 2 / (n + 1))
    copies = np.sort(np.asarray(scores[1:], dtype=np.float64).ravel())
    if not np.isfinite(copies).all():
        raise DivergedError("a threshold needs finite scores")
    allowed = math.floor((len(scores) - 1) * (guarantee * (n + 1) - 1) + 1e-9)  # copies that may be rejected
    highest = float(copies[max(0, len(copies) - 1 - allowed)])  # of one image all copies may be rejected
    return replace(clean, threshold=max(clean.threshold, highest), varied_fpr=guarantee)


@dataclass(frozen=True)
class Observed:
    """How many of `images` normal images a threshold rejected, and the 95 % Wilson interval of the rate."""

    rejected: int
    images: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        interval = f"95 % interval {self.low:.1%} to {self.high:.1%}"
        return f"{self.rejected} of {self.images} ({self.rate:.1%}; {interval})"


@dataclass(frozen=True)
class ChiSquarePoint:
    """A distance that a Gaussian of `dimensions` dimensions exceeds with probability `target_fpr`.

    `held_out` is what became of that among held-out normal images: features are not Gaussian, and a
    covariance estimated from few images is not the true one.
    """

    level: str
    dimensions: int
    threshold: float
    target_fpr: float
    held_out: Observed | None = None


def observed(threshold: float, scores: ArrayLike) -> Observed | None:
    """Measure what a threshold does to normal images with these scores `(n,)`; None where there are none."""
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        return None
    rejected = int((values > threshold).sum())
    low, high = wilson_interval(rejected, len(values))
    return Observed(rejected, len(values), rejected / len(values), low, high)


def chi_square(
    mean: DistanceMean, false_positive_rate: float, held_out: ArrayLike | None = None
) -> list[ChiSquarePoint]:
    """Compute thresholds on each level's distance (not squared), and last one on their weighted mean.

    Squared Mahalanobis distances of a Gaussian follow a chi-square distribution (Rippel et al., IEEE TIM
    70, 2021). A mean of distances has no such law; the same mean of the thresholds is its
    quantile if all levels rise and fall together, and too high, that is cautious, otherwise.

    Args:
        mean: levels, dimensions and weights of the distances; without levels there are no thresholds.
        false_positive_rate: the target, in (0, 1).
        held_out: distances `(n, levels)` of normal images not used for fitting.

    Raises:
        ValueError: a rate outside (0, 1).
    """
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"expected a rate in (0, 1), got {false_positive_rate}")
    if not mean.levels:
        return []
    quantiles = np.sqrt(chi2.ppf(1 - false_positive_rate, np.asarray(mean.dimensions)))
    distances = np.empty((0, len(mean.levels))) if held_out is None else np.asarray(held_out, dtype=np.float64)
    shares = np.asarray(mean.weights)
    columns = [*distances.T, distances @ shares]
    return [
        ChiSquarePoint(name, size, float(quantile), false_positive_rate, observed(quantile, column))
        for name, size, quantile, column in zip(
            [*mean.levels, mean.name],
            [*mean.dimensions, sum(mean.dimensions)],
            [*quantiles, quantiles @ shares],
            columns,
            strict=True,
        )
    ]
