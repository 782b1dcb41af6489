"""Relevance: sums to what it explains, lies where the score was made to look, and moves with the weights."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.covariance import LedoitWolf
from torch import Tensor

from anomaly_ft.analysis.relevance import (
    BLOCKS,
    blurred,
    carriers,
    deletion,
    feature_relevance,
    integrated_gradients,
    look,
    mean_difference,
    rank_correlation,
)
from anomaly_ft.model.gaussian.statistics import fit, moments

SIDE = 56


def images(seed: int = 0, n: int = 3) -> Tensor:
    return 255 * torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def of_a_corner(x: Tensor) -> Tensor:
    """A score that sees the upper left quarter alone, and bends."""
    return (x[:, :, : SIDE // 2, : SIDE // 2] / 255).mean((1, 2, 3)).pow(3)


def test_the_relevance_of_features_sums_to_the_squared_distance_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    known, new = rng.normal(size=(80, 30)) @ rng.normal(size=(30, 30)), 3 * rng.normal(size=(7, 30))
    gaussian = fit(moments(torch.from_numpy(known)))
    found = feature_relevance(torch.from_numpy(new), gaussian.mean, gaussian.whitening)
    assert found.shape == (7, 30)
    assert found.sum(1).numpy() == pytest.approx(LedoitWolf().fit(known).mahalanobis(new), rel=1e-6)


def test_of_independent_features_each_adds_its_own_squared_deviation() -> None:
    new, deviations = torch.tensor([[3.0, -2.0]]), torch.tensor([1.5, 0.5])
    found = feature_relevance(new, torch.zeros(2), torch.diag(1 / deviations))
    assert found[0].tolist() == pytest.approx([4.0, 16.0])


def test_carriers_are_counted_until_half_of_what_raises_the_distance_is_reached() -> None:
    relevance = np.array([[4.0, 3.0, 2.0, 1.0, -9.0], [0.0, 0.0, 8.0, 0.0, 0.0]])
    assert carriers(relevance).tolist() == [2, 1]


def test_pixel_relevance_sums_to_the_gain_over_the_baseline_and_lies_where_the_score_looks() -> None:
    x = images()
    baseline = torch.full((1, 3, SIDE, SIDE), 20.0)
    found = integrated_gradients(of_a_corner, x, baseline, steps=64)
    gained = (of_a_corner(x) - of_a_corner(baseline)).numpy()
    assert found.maps.sum((1, 2)) == pytest.approx(gained, rel=1e-3)
    assert found.error.max() < 1e-3
    assert np.abs(found.maps[:, SIDE // 2 :, SIDE // 2 :]).max() == 0


def test_of_a_linear_score_the_relevance_is_weight_times_difference_and_the_error_nothing() -> None:
    weights = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    x, baseline = images(2), images(3, 1)
    found = integrated_gradients(lambda z: (z * weights).sum((1, 2, 3)), x, baseline, steps=2)
    assert found.maps == pytest.approx(((x - baseline) * weights).sum(1).numpy(), rel=1e-4, abs=1e-2)
    assert found.error.max() < 1e-3


def test_too_few_steps_show_as_a_completeness_error() -> None:
    few, many = (
        integrated_gradients(lambda z: (z / 255).mean((1, 2, 3)).pow(9), images(), torch.zeros(1), steps=steps)
        for steps in (1, 200)
    )
    assert few.error.min() > 0.5
    assert many.error.max() < 1e-3


def test_a_look_counts_relevance_inside_the_mask_points_and_weighs_the_frame() -> None:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[20:30, 20:30] = True
    relevance = np.full((SIDE, SIDE), -0.5)
    relevance[20:30, 20:30] = 1
    relevance[50, 50] = 1
    seen = look(relevance, mask)
    assert seen.inside == pytest.approx(100 / 101)
    assert seen.area == pytest.approx(100 / SIDE**2)
    assert seen.points is True
    assert seen.touched == pytest.approx(25 / BLOCKS**2)
    assert seen.frame == 0
    assert look(-relevance, mask).points is False


@pytest.mark.parametrize("mask", [None, np.zeros((SIDE, SIDE), dtype=bool)])
def test_without_a_mask_the_frame_alone_is_told_and_even_relevance_weighs_one(mask: np.ndarray | None) -> None:
    seen = look(np.ones((SIDE, SIDE)), mask)
    assert (seen.inside, seen.area, seen.points, seen.touched) == (None, None, None, None)
    assert seen.frame == pytest.approx(1)


def test_deleting_what_is_relevant_lowers_the_score_sooner_than_deleting_at_random_or_the_rest() -> None:
    x, baseline = images(4, 1), torch.zeros(1, 3, SIDE, SIDE)
    truth = integrated_gradients(of_a_corner, x, baseline).maps[0]
    chance = np.random.default_rng(0).normal(size=truth.shape)
    areas = [deletion(of_a_corner, x, baseline, relevance) for relevance in (truth, chance, -truth)]
    assert areas == sorted(areas)
    assert areas[0] < 0.2
    assert areas[2] > 0.6


def test_deletion_of_a_score_that_the_baseline_has_too_is_no_error() -> None:
    assert deletion(lambda z: torch.ones(len(z)), images(0, 1), torch.zeros(1), np.ones((SIDE, SIDE))) == 0


def test_a_baseline_that_scores_as_the_image_does_gives_no_area_beyond_one() -> None:
    x, baseline = images(6, 1), images(7, 1)
    relevance = np.random.default_rng(0).normal(size=(SIDE, SIDE))

    def score(z: Tensor) -> Tensor:
        mixed = (z - x).abs().amax((1, 2, 3)) * (z - baseline).abs().amax((1, 2, 3))
        return mixed + 1e-3 * (z - baseline).abs().mean((1, 2, 3))

    assert 0 <= deletion(score, x, baseline, relevance) <= 1


def test_rank_correlation_is_spearmans_of_blocks_and_nothing_for_a_flat_map() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(BLOCKS, BLOCKS)), rng.normal(size=(BLOCKS, BLOCKS))
    expected = spearmanr(first.ravel(), second.ravel()).statistic
    assert rank_correlation(first, second) == pytest.approx(expected)
    assert rank_correlation(first, first**3) == pytest.approx(1)
    assert rank_correlation(first, np.zeros((SIDE, SIDE))) == 0


def test_a_blurred_image_keeps_its_light_and_loses_its_detail() -> None:
    x = images(5, 1)
    soft = blurred(x)
    assert soft.mean().item() == pytest.approx(x.mean().item(), rel=0.02)
    assert soft.std() < 0.2 * x.std()


def test_a_difference_between_pairs_has_the_error_of_pairs() -> None:
    gained, error = mean_difference([1.0, 2.0, 3.0], [1.5, 2.7, 3.6])
    assert gained == pytest.approx(0.6)
    assert error == pytest.approx(0.1 / np.sqrt(3))
