"""Numbers about scores: pure, arrays in, numbers out. Higher scores mean more anomalous throughout."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_ft.errors import DivergedError

Floats = NDArray[np.float64]


def image_auroc(anomalous: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: how often an anomalous image scores above a normal one, ties half.

    Raises:
        DivergedError: scores that are not finite.
        ValueError: only one of the two kinds is present.
    """
    return float(roc_auc_score(_two_kinds(anomalous), _finite(scores)))


def image_ap(anomalous: ArrayLike, scores: ArrayLike) -> float:
    """Average precision with anomalous as the positive kind; raises as `image_auroc` does."""
    return float(average_precision_score(_two_kinds(anomalous), _finite(scores)))


def placements(normal: ArrayLike, anomalous: ArrayLike) -> tuple[Floats, Floats]:
    """For each normal score the share of anomalous ones above it, and for each anomalous score the
    share of normal ones below it, ties half: `(n,)` and `(m,)`. The mean of either is the AUROC.

    DeLong et al., Biometrics 44 (1988), with the mid-ranks of Sun and Xu, IEEE SPL 21 (2014).
    """
    low, high = _finite(normal), _finite(anomalous)
    ranks = rankdata(np.concatenate([low, high]))
    n, m = len(low), len(high)
    return 1 - (ranks[:n] - rankdata(low)) / m, (ranks[n:] - rankdata(high)) / n


def _finite(scores: ArrayLike) -> Floats:
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
