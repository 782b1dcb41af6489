"""Metrics of scores: arrays in, numbers out. Higher scores mean more anomalous throughout.

Images and pixels (`evaluation.pixel_counts`) share one core: a `Curve` counts what stands at or above each
threshold, and every measure reads it. Leading axes of a curve are resamples, so that a bootstrap is one call.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_ft.errors import DivergedError

Floats = NDArray[np.float64]
Interval = tuple[float, float]
RESAMPLES = 2000  # the ends of a 95 % interval then rest on 50 resamples each
AT_ONCE = 4_000_000  # numbers of a curve held at a time while resampling


@dataclass(frozen=True)
class Curve:
    """How many anomalous (`caught`) and normal (`rejected`) members score at or above each threshold.

    Both `(..., k)`, thresholds falling, the first above every score, equal scores taken together.
    Counts may be weighted; the last of each is all there is.
    """

    caught: Floats
    rejected: Floats

    @property
    def true_positive_rate(self) -> Floats:
        """Share of anomalous images above each threshold, `(thresholds,)`."""
        return _share(self.caught)

    @property
    def false_positive_rate(self) -> Floats:
        """Share of normal images above each threshold, `(thresholds,)`."""
        return _share(self.rejected)

    def auroc(self) -> Floats:
        """Compute the area under the ROC curve, ties half."""
        return np.asarray(np.trapezoid(self.true_positive_rate, self.false_positive_rate, axis=-1))

    def average_precision(self) -> Floats:
        """Sum of precisions weighted by the recall that each threshold adds; no interpolation."""
        steps = np.diff(self.true_positive_rate, axis=-1)
        return np.asarray((steps * self._precision()[..., 1:]).sum(-1))

    def f1_max(self) -> Floats:
        """Find the best harmonic mean of precision and recall that any threshold reaches."""
        everything = self.caught[..., -1:]
        return np.asarray((2 * self.caught / (self.caught + self.rejected + everything)).max(-1))

    def tpr_at_fpr(self, rate: float) -> Floats:
        """Share of anomalous members above the lowest threshold that rejects at most `rate` of the
        normal ones; a threshold that some score reaches, nothing is interpolated."""
        allowed = self.false_positive_rate <= rate + 1e-12
        return np.asarray(np.where(allowed, self.true_positive_rate, 0.0).max(-1))

    def tnr_at_fnr(self, rate: float) -> Floats:
        """Share of normal members below the highest threshold that misses at most `rate` of the anomalous
        ones; nothing is interpolated. Presorted good (PGn) where `rate` is n percent."""
        allowed = 1 - self.true_positive_rate <= rate + 1e-12
        return np.asarray(np.where(allowed, 1 - self.false_positive_rate, 0.0).max(-1))

    def area_up_to(self, limit: float) -> Floats:
        """Compute the area under the ROC curve left of the false positive rate `limit`, divided by it; in [0,
        1].

        Linear between thresholds, also where the limit cuts the curve. Without leading axes.
        """
        rate, caught = self.false_positive_rate, self.true_positive_rate
        inside = rate < limit
        rates = np.append(rate[inside], limit)
        return np.asarray(
            np.trapezoid(np.append(caught[inside], np.interp(limit, rate, caught)), rates) / limit
        )

    def _precision(self) -> Floats:
        called = self.caught + self.rejected
        return np.divide(self.caught, called, out=np.zeros_like(called), where=called > 0)


def curve(anomalous: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> Curve:
    """Compute the curve of scores `(n,)`; with `weights (..., n)` one for each row of weights.

    Raises:
        DivergedError: scores that are not finite.
        ValueError: only one of the two kinds is present.
    """
    labels, values = _two_kinds(anomalous), finite(scores)
    order = np.argsort(-values, kind="stable")
    last_of_equals = np.append(np.diff(values[order]) != 0, True)
    counted = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    counted, sorted_labels = counted[..., order], labels[order]

    def above(members: NDArray[np.bool_]) -> Floats:
        totals = np.cumsum(counted * members, axis=-1)[..., last_of_equals]
        return np.concatenate([np.zeros((*totals.shape[:-1], 1)), totals], axis=-1)

    return Curve(above(sorted_labels), above(~sorted_labels))


def image_auroc(anomalous: ArrayLike, scores: ArrayLike) -> float:
    """Compute the area under the ROC curve: how often an anomalous image scores above a normal one, ties
    half.

    Raises:
        DivergedError: scores that are not finite.
        ValueError: only one of the two kinds is present.
    """
    return float(roc_auc_score(_two_kinds(anomalous), finite(scores)))


def image_ap(anomalous: ArrayLike, scores: ArrayLike) -> float:
    """Average precision with anomalous as the positive kind; raises as `image_auroc` does."""
    return float(average_precision_score(_two_kinds(anomalous), finite(scores)))


def image_numbers(points: Curve) -> dict[str, Floats]:
    """Compute every number about a split of images, by name, each with the curve's leading axes."""
    return {
        "image_auroc": points.auroc(),
        "image_ap": points.average_precision(),
        "image_f1_max": points.f1_max(),
        "image_tpr_at_1pct_fpr": points.tpr_at_fpr(0.01),
        "image_tpr_at_5pct_fpr": points.tpr_at_fpr(0.05),
        "image_tnr_at_1pct_fnr": points.tnr_at_fnr(0.01),
        "image_tnr_at_5pct_fnr": points.tnr_at_fnr(0.05),
    }


def resampled_numbers(
    anomalous: ArrayLike, scores: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Floats]:
    """Compute `image_numbers` of bootstrap resamples, each `(resamples,)`.

    Stratified: as many normal and as many anomalous images are drawn, with replacement, as there are.
    Equal labels and an equal seed draw the same images, so that two detectors can be compared in pairs.

    Raises:
        DivergedError, ValueError: as `curve` does.
    """
    labels, values = _two_kinds(anomalous), finite(scores)
    rng = np.random.default_rng(seed)
    chunk = max(1, min(resamples, AT_ONCE // len(labels)))
    parts: list[dict[str, Floats]] = []
    for start in range(0, resamples, chunk):
        weights = np.empty((min(chunk, resamples - start), len(labels)))
        for members in (labels, ~labels):
            count = int(members.sum())
            weights[:, members] = rng.multinomial(count, np.full(count, 1 / count), size=len(weights))
        parts.append(image_numbers(curve(labels, values, weights)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def percentile_intervals(resampled: Mapping[str, Floats], level: float = 0.95) -> dict[str, Interval]:
    """Find the middle `level` of each row of resamples (Efron's percentile interval)."""
    tail = (1 - level) / 2
    return {
        name: (float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail)))
        for name, values in resampled.items()
    }


def wilson_interval(hits: int, count: int, level: float = 0.95) -> Interval:
    """Compute the interval of a share of which `hits` of `count` were seen; Wilson, JASA 22 (1927).

    Raises:
        ValueError: nothing was counted, or more hits than that.
    """
    if count < 1 or not 0 <= hits <= count:
        raise ValueError(f"expected 0 <= hits <= count and count > 0, got {hits} of {count}")
    ends = binomtest(hits, count).proportion_ci(level, method="wilson")
    return float(ends.low), float(ends.high)


def placements(normal: ArrayLike, anomalous: ArrayLike) -> tuple[Floats, Floats]:
    """Compute for each normal score the share of anomalous ones above it, and for each anomalous score the
    share of normal ones below it, ties half: `(n,)` and `(m,)`. The mean of either is the AUROC.

    DeLong et al., Biometrics 44 (1988), with the mid-ranks of Sun and Xu, IEEE SPL 21 (2014).
    """
    low, high = finite(normal), finite(anomalous)
    ranks = rankdata(np.concatenate([low, high]))
    n, m = len(low), len(high)
    return 1 - (ranks[:n] - rankdata(low)) / m, (ranks[n:] - rankdata(high)) / n


def _share(counts: Floats) -> Floats:
    return counts / counts[..., -1:]


def finite(scores: ArrayLike) -> Floats:
    """Convert scores to float64.

    Raises:
        DivergedError: scores that are not finite.
    """
    values = np.asarray(scores, dtype=np.float64)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise DivergedError(f"{bad} of {values.size} scores are not finite")
    return values


def _two_kinds(anomalous: ArrayLike) -> NDArray[np.bool_]:
    labels = np.asarray(anomalous, dtype=bool)
    if labels.all() or not labels.any():
        raise ValueError("normal and anomalous images are both needed to measure how they are told apart")
    return labels
