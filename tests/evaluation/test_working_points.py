import math

import numpy as np
import pytest

from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.working_points import conformal


@pytest.mark.parametrize(("n", "rate"), [(20, 0.1), (50, 0.05), (199, 0.01), (30, 0.2)])
def test_over_many_draws_no_more_normal_images_are_rejected_than_guaranteed(n: int, rate: float) -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(3000):
        point = conformal(rng.lognormal(0, 1, n), rate)
        below = 0.5 * (1 + math.erf(math.log(point.threshold) / math.sqrt(2)))
        rates.append(1 - below)  # the true rate of this threshold
    allowance = 3 * np.std(rates) / math.sqrt(len(rates))
    assert np.mean(rates) <= point.guaranteed_fpr + allowance
    assert np.mean(rates) >= point.guaranteed_fpr - allowance, "and without ties the guarantee is exact"
    assert point.guaranteed_fpr <= rate < point.guaranteed_fpr + 1 / (n + 1)


def test_ties_reject_fewer_never_more() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(3000):
        scores = rng.integers(0, 5, 41)
        rates.append(scores[0] > conformal(scores[1:], 0.1).threshold)
    assert np.mean(rates) <= 0.1


def test_the_threshold_is_the_smallest_that_keeps_the_guarantee() -> None:
    scores = np.arange(1.0, 100.0)  # 99 scores, so that each is worth a hundredth
    assert conformal(scores[::-1], 0.01).threshold == 99
    assert conformal(scores, 0.05).threshold == 95
    assert conformal(scores, 0.05).guaranteed_fpr == pytest.approx(0.05)
    assert conformal(scores, 0.3).threshold == 70


def test_too_few_images_give_the_highest_score_and_say_what_it_is_worth() -> None:
    point = conformal([1.0, 5.0, 3.0], 0.01)
    assert (point.threshold, point.images, point.target_fpr) == (5.0, 3, 0.01)
    assert point.guaranteed_fpr == pytest.approx(1 / 4)
    assert str(point) == (
        "threshold 5: at most 25.00% of normal images are rejected "
        "(the least that 3 held-out normals can guarantee; the target is 1.00%)"
    )


def test_a_guarantee_that_is_kept_needs_no_excuse() -> None:
    assert str(conformal(np.arange(99.0), 0.05)) == "threshold 94: at most 5.00% of normal images are rejected"


@pytest.mark.parametrize(("scores", "rate"), [([], 0.1), ([1.0], 0.0), ([1.0], 1.0), ([1.0], math.nan)])
def test_no_scores_and_impossible_rates_are_errors(scores: list[float], rate: float) -> None:
    with pytest.raises(
        ValueError, match=f"expected scores and a rate in .0, 1., got {len(scores)} scores and {rate}"
    ):
        conformal(scores, rate)


def test_scores_that_are_not_finite_have_diverged() -> None:
    with pytest.raises(DivergedError, match="a threshold needs finite scores"):
        conformal([1.0, math.inf], 0.1)
