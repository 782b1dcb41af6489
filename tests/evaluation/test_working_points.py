import math

import numpy as np
import pytest

from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.working_points import conformal, conformal_varied


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


@pytest.mark.parametrize(("n", "rate", "guaranteed"), [(40, 0.01, 2 / 41), (99, 0.05, 0.05), (30, 0.2, 0.2)])
def test_over_many_draws_neither_images_nor_their_varied_copies_are_rejected_more_often_than_guaranteed(
    n: int, rate: float, guaranteed: float
) -> None:
    rng = np.random.default_rng(0)
    clean, varied = [], []
    for _ in range(2000):
        images = rng.normal(size=n + 1)  # the last one is new
        copies = images + rng.normal(0.5, 0.7, (4, n + 1))
        point = conformal_varied(np.vstack([images, copies])[:, :n], rate)
        clean.append(images[n] > point.threshold)
        varied.append((copies[:, n] > point.threshold).mean())
    assert point.varied_fpr == pytest.approx(guaranteed)
    assert np.mean(clean) <= point.guaranteed_fpr + 3 * math.sqrt(rate / 2000)
    allowance = 3 * np.std(varied) / math.sqrt(2000)
    assert np.mean(varied) <= guaranteed + allowance
    assert np.mean(varied) >= 0.6 * guaranteed - allowance, "and the guarantee is not far from what is kept"


def test_one_odd_image_among_few_does_not_set_the_threshold_of_varied_copies() -> None:
    scores = np.tile(np.linspace(0, 1, 40), (5, 1))
    scores[1:, 7] = 100.0  # all varied copies of one image
    assert conformal_varied(scores, 0.01).threshold == pytest.approx(1.0)


def test_without_copies_the_threshold_is_that_of_the_images_and_guarantees_nothing_of_varied_ones() -> None:
    scores = np.arange(50.0)
    assert conformal_varied(scores[None], 0.05) == conformal(scores, 0.05)
    assert conformal(scores, 0.05).varied_fpr is None


def test_copies_never_lower_the_threshold_that_the_images_need() -> None:
    scores = np.vstack([np.linspace(10, 20, 40), np.linspace(0, 1, 40)])
    assert conformal_varied(scores, 0.01).threshold == 20.0


def test_a_varied_score_that_is_not_finite_has_diverged() -> None:
    scores = np.ones((3, 40))
    scores[2, 3] = np.inf
    with pytest.raises(DivergedError, match="finite"):
        conformal_varied(scores, 0.01)


def test_a_point_says_what_it_guarantees_of_varied_images() -> None:
    point = conformal_varied(np.tile(np.arange(199.0), (2, 1)), 0.01)
    assert str(point) == (
        "threshold 197: at most 1.00% of normal images are rejected; varied as the recipe allows, at most 1.00%"
    )


def test_a_single_image_with_copies_gives_a_threshold_and_no_error() -> None:
    point = conformal_varied(np.array([[1.0], [3.0], [2.0]]), 0.01)
    assert (point.threshold, point.varied_fpr) == (2.0, 1.0)
