"""Measure how well two groups of images are told apart, with an interval that holds for small groups too."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer

from anomaly_ft.metrics import Floats, Interval

FOLDS = 5
QUANTILES = 100
EDGE = 1e-9
RARE = 0.02  # words of fewer images than this share count as one


def auroc_interval(auroc: float, first: int, second: int, level: float = 0.95) -> Interval:
    """Score interval of an AUROC in [0.5, 1] measured on groups of `first` and `second` members.

    All values that a test with the variance of Hanley and McNeil (Radiology 143, 1982) does not reject, the
    group sizes in it replaced by their mean: method 5 of Newcombe (Statistics in Medicine 25, 2006). A
    perfect separation of small groups has a lower end well below 1, where a bootstrap gives 1.

    Raises:
        ValueError: an AUROC outside of [0, 1], or an empty group.
    """
    if not 0 <= auroc <= 1 or min(first, second) < 1:
        raise ValueError(
            f"expected an AUROC in [0, 1] and groups of at least 1, got {auroc}, {first}, {second}"
        )
    z, half = float(norm.ppf((1 + level) / 2)), (first + second) / 2 - 1

    def deviation(value: float) -> float:
        """Give the standard deviation of the estimate if the true AUROC is `value`."""
        spread = 1 + half * ((1 - value) / (2 - value) + value / (1 + value))
        return float(np.sqrt(value * (1 - value) * spread / (first * second)))

    inside = min(max(auroc, EDGE), 1 - EDGE)  # at 0 and 1 the deviation is 0, and either would be a root
    low = 0.0 if auroc == 0 else brentq(lambda value: auroc - value - z * deviation(value), 0.0, inside)
    high = 1.0 if auroc == 1 else brentq(lambda value: value - auroc - z * deviation(value), inside, 1.0)
    return float(low), float(high)


def held_out_scores(
    second: NDArray[np.bool_], numbers: Floats, words: NDArray[np.str_], groups: NDArray[np.int64]
) -> Floats:
    """Log odds `(n,)` that an image is of the second group, each by a model that did not see it.

    Logistic regression on the ranks of numbers `(n, k)` (as normal scores, so that an outlier counts no more
    than its rank) and on words `(n, m)`, both kinds of images weighing the same; 5 folds, images of one
    group in one fold.

    Raises:
        ValueError: fewer than two images of a kind.
    """
    if min(second.sum(), (~second).sum()) < 2:
        raise ValueError("at least two images of each of the two kinds are needed")
    if min(len(set(groups[second])), len(set(groups[~second]))) < 2:
        groups = np.arange(len(second))  # of one group alone nothing can be held out
    table = np.hstack([numbers.astype(object), words.astype(object)])
    count = min(FOLDS, len(set(groups[second])), len(set(groups[~second])))
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    scores = np.zeros(len(second))
    for seen, held_out in folds.split(table, second, groups):
        if not 0 < second[seen].sum() < len(seen):
            continue  # uneven groups can leave a fold nothing to learn; its images stay at even odds
        model = _model(numbers.shape[1], words.shape[1], len(seen)).fit(table[seen], second[seen])
        scores[held_out] = model.decision_function(table[held_out])
    return scores


def _model(numbers: int, words: int, images: int) -> Pipeline:
    ranks = QuantileTransformer(n_quantiles=min(QUANTILES, images), output_distribution="normal")
    coded = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=RARE)
    columns = make_column_transformer(
        (ranks, list(range(numbers))), (coded, list(range(numbers, numbers + words))), sparse_threshold=0
    )
    return make_pipeline(columns, LogisticRegression(class_weight="balanced", max_iter=1000))
