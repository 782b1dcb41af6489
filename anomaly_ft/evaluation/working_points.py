"""Decision thresholds from normal images alone, with a guarantee that holds for any distribution.

Split conformal prediction (Vovk et al., 2005): among n + 1 exchangeable normal images the new one is
equally likely to take each rank, so a threshold at the k-th smallest of n held-out scores is exceeded
with probability at most 1 - k / (n + 1), averaged over sets of held-out scores. For the set at hand it is
exceeded with a probability that follows a beta distribution, whence a bound with confidence (Wilks, 1941).
Beside them stands the threshold that holds if features are Gaussian, and what each did to normal images that
had no part in it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import beta, binom, chi2

from anomaly_ft.errors import DivergedError
from anomaly_ft.metrics import Floats, wilson_interval
from anomaly_ft.model.outputs import DistanceMean
from anomaly_ft.model.threshold import CONFIDENCE, WorkingPoint

Guarantee = Literal["average", "confidence"]


def conformal(scores: ArrayLike, false_positive_rate: float) -> WorkingPoint:
    """Find the lowest threshold that guarantees `false_positive_rate`, from held-out normal scores `(n,)`.

    Where n is too small for that, the highest score is the threshold and 1 / (n + 1) is guaranteed.

    Raises:
        DivergedError: scores that are not finite.
        ValueError: no scores, or a rate outside (0, 1).
    """
    values = _sorted(scores, false_positive_rate)
    n = len(values)
    rank = min(n, math.ceil((1 - false_positive_rate) * (n + 1) - 1e-9))
    return WorkingPoint(float(values[rank - 1]), false_positive_rate, (n + 1 - rank) / (n + 1), n)


def tolerance(scores: ArrayLike, false_positive_rate: float, confidence: float = CONFIDENCE) -> WorkingPoint:
    """Find the lowest of held-out normal scores `(n,)` that at most `false_positive_rate` of normal images
    exceed, with the given confidence that this holds for these very scores (Wilks, 1941).

    The share above the k-th smallest of n follows Beta(n + 1 - k, k), so the confidence is an exact binomial
    sum. Where n is too small for the rate, the highest score is the threshold, and the rate that it keeps with
    this confidence is guaranteed. The scores are of images that do not depend on one another.

    Raises:
        DivergedError, ValueError: as `conformal`.
    """
    values = _sorted(scores, false_positive_rate)
    n = len(values)
    above = int(np.searchsorted(binom.cdf(np.arange(n), n, false_positive_rate), 1 - confidence, "right")) - 1
    above = max(0, above)  # so many of the n may lie above the threshold
    guaranteed = float(beta.ppf(confidence, above + 1, n - above))
    threshold = float(values[n - 1 - above])
    return WorkingPoint(threshold, false_positive_rate, guaranteed, n, confidence=confidence)


GUARANTEES = {"average": conformal, "confidence": tolerance}


def from_defects(scores: ArrayLike, missed: float = 0.0) -> WorkingPoint:
    """Find the highest threshold that misses at most the share `missed` of labelled defective images, from
    their scores `(n,)`, and bound the share of others that it finds (Clopper and Pearson, 1934; 95 %).

    The bound is exact, for the threshold is an order statistic; the images are to be as those that will come.
    Nothing is guaranteed of normal images.

    Raises:
        DivergedError: scores that are not finite.
        ValueError: no scores, or a share outside [0, 1).
    """
    values = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(values)
    if n == 0 or not 0 <= missed < 1:
        raise ValueError(f"expected scores and a share in [0, 1), got {n} scores and {missed}")
    if not np.isfinite(values).all():
        raise DivergedError("a threshold needs finite scores")
    below = math.floor(missed * n + 1e-9)
    lowest = float(values[below])
    threshold = lowest - 1e-5 * max(
        1.0, abs(lowest)
    )  # below it, though scores round otherwise in other batches
    found = float(beta.ppf(1 - CONFIDENCE, n - below, below + 1))
    return WorkingPoint(threshold, 1.0, 1.0, 0, found_share=found)


def by_group(scores: Floats, groups: Sequence[str]) -> Floats:
    """Reduce scores `(rows, n)` to the highest of each group `(rows, groups)`; images without a group, an empty
    name, count by themselves. Images of one part depend on one another, parts do not."""
    names = [name or f" {i}" for i, name in enumerate(groups)]
    _, places = np.unique(names, return_inverse=True)
    highest = np.full((len(scores), int(places.max()) + 1), -np.inf)
    np.maximum.at(highest.T, places, scores.T)
    return highest


def conformal_varied(
    scores: Floats, false_positive_rate: float, guarantee: Guarantee = "average"
) -> WorkingPoint:
    """Set the lowest threshold that gives two guarantees, from scores of held-out normals `(1 + k, n)`: of
    the n images in the first row, and of k varied copies of each in the others.

    Of the images themselves it is `conformal` or, with confidence, `tolerance`. Of the copies it bounds the
    expected share of an image's varied copies that are rejected, always on average (conformal risk control,
    Angelopoulos et al., 2022): images are exchangeable, their copies are not independent, and an image counts
    once however many copies it has. Where n is too small for
    the rate, the copies' guarantee is 2 / (n + 1), twice that of the images: the single highest of all copies
    would let one odd image decide.

    Raises:
        DivergedError, ValueError: as `conformal`.
    """
    clean = GUARANTEES[guarantee](scores[0], false_positive_rate)
    if len(scores) == 1:
        return clean
    n = clean.images
    kept = max(false_positive_rate, 2 / (n + 1))
    copies = np.sort(np.asarray(scores[1:], dtype=np.float64).ravel())
    if not np.isfinite(copies).all():
        raise DivergedError("a threshold needs finite scores")
    allowed = math.floor((len(scores) - 1) * (kept * (n + 1) - 1) + 1e-9)  # copies that may be rejected
    highest = float(copies[max(0, len(copies) - 1 - allowed)])  # of one image all copies may be rejected
    return replace(clean, threshold=max(clean.threshold, highest), varied_fpr=kept)


def _sorted(scores: ArrayLike, rate: float) -> Floats:
    values = np.sort(np.asarray(scores, dtype=np.float64))
    if len(values) == 0 or not 0 < rate < 1:
        raise ValueError(f"expected scores and a rate in (0, 1), got {len(values)} scores and {rate}")
    if not np.isfinite(values).all():
        raise DivergedError("a threshold needs finite scores")
    return values


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
