"""Measure how far features have moved: logged, but never used for the stop decision."""

import numpy as np
from numpy.typing import ArrayLike

from anomaly_ft.metrics import Floats


def linear_cka(a: ArrayLike, b: ArrayLike) -> float:
    """Measure linear centred kernel alignment of two feature sets of the same images, `(n, d)` and `(n, e)`;
    1 = the same up to rotation and scale, 0 = unrelated (Kornblith et al., ICML 2019). NaN where either does
    not vary."""
    first, second = (_gram(x) for x in (a, b))
    scale = np.linalg.norm(first) * np.linalg.norm(second)
    if scale:
        return float((first * second).sum() / scale)
    return float("nan")


def effective_rank(features: ArrayLike) -> float:
    """Measure the exponential of the entropy of the singular values of centred features `(n, d)`, from 1, all
    on a line, to min(n - 1, d); falls when features collapse (Roy and Vetterli, EUSIPCO 2007). NaN where
    features do not vary."""
    values = np.linalg.svd(_centred(features), compute_uv=False)
    if not values.any():
        return float("nan")
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _centred(features: ArrayLike) -> Floats:
    values: Floats = np.asarray(features, dtype=np.float64)
    centred: Floats = values - values.mean(0)
    return centred


def _gram(features: ArrayLike) -> Floats:
    values = _centred(features)
    gram: Floats = values @ values.T
    return gram
