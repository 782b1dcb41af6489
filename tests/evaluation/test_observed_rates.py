import numpy as np
import pytest
from scipy.stats import chi2

from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.working_points import chi_square, conformal, observed
from anomaly_ft.model.outputs import NO_DISTANCES, DistanceMean
from anomaly_ft.model.threshold import WorkingPoint


def mean_of(dimensions: list[int]) -> DistanceMean:
    """Levels of these dimensions that all count alike."""
    count = len(dimensions)
    return DistanceMean(tuple("abc"[:count]), tuple(dimensions), (1 / count,) * count, "pooled")


@pytest.mark.parametrize(("images", "target"), [(19, 0.05), (199, 0.01), (31, 0.01), (50, 0.3)])
def test_the_guarantee_holds_on_average_over_calibration_sets(images: int, target: float) -> None:
    rng = np.random.default_rng(images)
    rates, point = [], None
    for _ in range(3000):
        drawn = rng.uniform(size=images)
        point = conformal(drawn, target)
        rates.append(1 - point.threshold)  # of a uniform score: the true rate of this very threshold
    assert isinstance(point, WorkingPoint)
    assert np.mean(rates) == pytest.approx(point.guaranteed_fpr, rel=0.06)
    assert np.mean(np.array(rates) <= point.likely_at_most(0.95)) == pytest.approx(0.95, abs=0.015)


def test_too_few_images_give_the_smallest_guarantee_there_is_and_say_so() -> None:
    point = conformal(np.arange(31.0), 0.01)
    assert point.threshold == 30
    assert point.guaranteed_fpr == pytest.approx(1 / 32)
    assert "the least that 31 held-out normals can guarantee; the target is 1.00%" in str(point)
    assert "least" not in str(conformal(np.arange(200.0), 0.01))


def test_a_threshold_needs_finite_scores_and_a_rate_that_is_one() -> None:
    with pytest.raises(DivergedError, match="a threshold needs finite scores"):
        conformal([1.0, np.nan], 0.1)
    with pytest.raises(ValueError, match=r"got 0 scores and 0\.1"):
        conformal([], 0.1)
    for rate in (0, 1):
        with pytest.raises(ValueError, match=f"got 1 scores and {rate}"):
            conformal([1.0], rate)
        with pytest.raises(ValueError, match=rf"rate in \(0, 1\), got {rate}"):
            chi_square(mean_of([3]), rate)


def test_the_observed_rate_counts_scores_above_the_threshold_only() -> None:
    found = observed(2.0, [1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert (found.rejected, found.images, found.rate) == (2, 4, 0.5)
    assert found.low < 0.5 < found.high
    assert str(found) == "2 of 4 (50.0%; 95 % interval 15.0% to 85.0%)"
    assert observed(2.0, []) is None


def test_chi_square_thresholds_hold_for_features_that_are_gaussian() -> None:
    rng = np.random.default_rng(0)
    dimensions = [3, 40]
    distances = np.stack([np.sqrt(rng.normal(size=(20000, d)) ** 2 @ np.ones(d)) for d in dimensions], 1)
    first, second, pooled = chi_square(mean_of(dimensions), 0.05, distances)
    for point, d in ((first, 3), (second, 40)):
        assert chi2.cdf(point.threshold**2, d) == pytest.approx(0.95)
        assert point.held_out is not None
        assert point.held_out.low < 0.05 < point.held_out.high
    assert pooled.level == "pooled"
    assert pooled.dimensions == 43
    assert pooled.held_out is not None
    assert pooled.held_out.rate < 0.05  # independent levels: cautious, as the docstring says


def test_the_pooled_chi_square_threshold_is_exact_for_levels_that_agree() -> None:
    rng = np.random.default_rng(1)
    distance = np.sqrt(rng.normal(size=(20000, 5)) ** 2 @ np.ones(5))
    pooled = chi_square(mean_of([5, 5]), 0.1, np.stack([distance, distance], 1))[-1]
    assert pooled.held_out is not None
    assert pooled.held_out.low < 0.1 < pooled.held_out.high


def test_without_held_out_images_nothing_is_said_of_them() -> None:
    assert [point.held_out for point in chi_square(mean_of([4]), 0.01)] == [None, None]


def test_a_detector_without_levels_has_no_such_thresholds() -> None:
    assert chi_square(NO_DISTANCES, 0.01, np.empty((3, 0))) == []
