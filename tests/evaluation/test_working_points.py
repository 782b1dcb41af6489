import math
import re

import numpy as np
import pytest
from scipy.stats import binomtest

from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.working_points import (
    by_group,
    conformal,
    conformal_varied,
    from_defects,
    tolerance,
)
from anomaly_ft.model.threshold import WorkingPoint, images_needed


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
        "threshold 5: at most 25.00% of normal images are rejected on average over thresholds, less than "
        f"{1 - 0.05 ** (1 / 3):.2%} by this one with 95% confidence "
        "(the least that 3 held-out normals can guarantee; the target is 1.00%, 96 more are needed for it)"
    )


def test_a_guarantee_that_is_kept_needs_no_excuse() -> None:
    most = np.quantile(np.random.default_rng(0).beta(5, 95, 400_000), 0.95)  # the fifth highest of 99
    said = re.fullmatch(
        r"threshold 94: at most 5.00% of normal images are rejected on average over thresholds, less than "
        r"(.+)% by this one with 95% confidence",
        str(conformal(np.arange(99.0), 0.05)),
    )
    assert said
    assert float(said[1]) == pytest.approx(100 * most, abs=0.05)


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
    assert str(point).startswith(
        "threshold 197: at most 1.00% of normal images are rejected on average over thresholds, "
    )
    assert str(point).endswith("; varied as the recipe allows, at most 1.00%")


def test_a_single_image_with_copies_gives_a_threshold_and_no_error() -> None:
    point = conformal_varied(np.array([[1.0], [3.0], [2.0]]), 0.01)
    assert (point.threshold, point.varied_fpr) == (2.0, 1.0)


@pytest.mark.parametrize(
    ("n", "rate"), [(59, 0.05), (58, 0.05), (29, 0.1), (200, 0.1), (299, 0.01), (12, 0.05)]
)
def test_in_95_of_100_draws_the_very_threshold_keeps_the_rate_that_it_guarantees(n: int, rate: float) -> None:
    rng = np.random.default_rng(n)
    points = [tolerance(draw, rate) for draw in rng.uniform(size=(2000, n))]
    kept = np.mean([1 - point.threshold <= point.guaranteed_fpr for point in points])
    assert kept == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / 2000))
    assert (points[0].guaranteed_fpr <= rate) == (n >= images_needed(rate, 0.95)), "or it says what it can keep"


@pytest.mark.parametrize(("n", "rate"), [(59, 0.05), (100, 0.05), (30, 0.3), (5, 0.05)])
def test_no_lower_score_would_keep_the_rate_by_the_exact_binomial(n: int, rate: float) -> None:
    point = tolerance(np.arange(n), rate)
    above = n - 1 - int(point.threshold)
    chance = [sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k + 1)) for k in range(n)]
    assert chance[above + 1] > 0.05
    assert above == 0 or chance[above] <= 0.05


def test_the_numbers_of_images_that_people_quote() -> None:
    assert [images_needed(rate, 0.95) for rate in (0.1, 0.05, 0.02, 0.01)] == [29, 59, 149, 299]
    assert [images_needed(rate) for rate in (0.1, 0.05, 0.01)] == [9, 19, 99]
    assert tolerance(np.arange(40), 0.05).missing == 19
    assert tolerance(np.arange(59), 0.05).missing == 0
    assert str(tolerance(np.arange(40), 0.05)) == (
        "threshold 39: at most 7.22% of normal images are rejected with 95% confidence (the least that 40 "
        "held-out normals can guarantee; the target is 5.00%, 19 more are needed for it)"
    )
    assert tolerance(np.arange(59), 0.05).likely_at_most() == tolerance(np.arange(59), 0.05).guaranteed_fpr


def test_confidence_is_asked_for_by_name_and_varied_copies_keep_their_average() -> None:
    scores = np.tile(np.arange(100.0), (3, 1))
    average, sure = (conformal_varied(scores, 0.05, how) for how in ("average", "confidence"))
    assert (average.threshold, sure.threshold) == (95, 98)
    assert (average.confidence, sure.confidence) == (None, 0.95)
    assert average.varied_fpr == sure.varied_fpr == 0.05


def test_images_of_one_group_count_once_and_by_their_highest_score() -> None:
    scores = np.array([[1.0, 5.0, 3.0, 2.0], [0.0, 1.0, 9.0, 0.0]])
    np.testing.assert_array_equal(np.sort(by_group(scores, ["a", "a", "b", ""])[0]), [2, 3, 5])
    np.testing.assert_array_equal(np.sort(by_group(scores, ["a", "a", "b", ""])[1]), [0, 1, 9])
    np.testing.assert_array_equal(np.sort(by_group(scores, [""] * 4)), np.sort(scores))
    assert conformal_varied(by_group(scores, ["a"] * 4), 0.1).images == 1


@pytest.mark.parametrize(("missed", "threshold", "hits"), [(0.0, 1, 20), (0.1, 3, 18), (0.14, 3, 18)])
def test_a_threshold_from_defects_finds_what_clopper_and_pearson_say(
    missed: float, threshold: int, hits: int
) -> None:
    point = from_defects(np.arange(1, 21), missed)
    assert threshold - 1 < point.threshold < threshold
    bound = binomtest(hits, 20, alternative="greater").proportion_ci(0.95, method="exact").low
    assert point.found_share == pytest.approx(bound)
    assert (point.guaranteed_fpr, point.images, point.missing) == (1.0, 0, 0)
    assert "nothing is guaranteed of normal images; at least" in str(point)


def test_in_95_of_100_draws_so_many_defects_are_found() -> None:
    rng = np.random.default_rng(3)
    points = [from_defects(draw, 0.1) for draw in rng.uniform(size=(2000, 30))]
    kept = np.mean([1 - point.threshold >= (point.found_share or 0) for point in points])
    assert kept == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(("scores", "missed"), [([], 0.0), ([1.0], 1.0), ([1.0], -0.1)])
def test_no_defects_and_impossible_shares_are_errors(scores: list[float], missed: float) -> None:
    with pytest.raises(ValueError, match=f"got {len(scores)} scores and {missed}"):
        from_defects(scores, missed)


def test_defects_whose_scores_are_not_finite_give_no_threshold() -> None:
    with pytest.raises(DivergedError, match="finite"):
        from_defects([1.0, math.nan])


def test_a_threshold_by_hand_says_that_nothing_is_guaranteed() -> None:
    point = WorkingPoint(3.0, 1.0, 1.0, 0)
    assert str(point) == "threshold 3: nothing is guaranteed of normal images"
    assert point.likely_at_most() == 1.0
