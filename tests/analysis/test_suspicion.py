"""Suspicious training images: found where they were planted, scored by what did not see them."""

import numpy as np
import pytest
from scipy.stats import median_abs_deviation
from sklearn.covariance import LedoitWolf
from sklearn.metrics import average_precision_score, roc_auc_score

from anomaly_ft.analysis.suspicion import (
    CUTOFF,
    cross_fitted,
    distances_to,
    found_again,
    held,
    modified_z,
    robust_distances,
    usual_by_mcd,
    usual_by_trimming,
)

PLANTED = np.arange(100) >= 92


def made(seed: int = 0, apart: float = 4.0) -> list[np.ndarray]:
    """Two levels of 100 images; the last eight lie apart, all on one side."""
    rng = np.random.default_rng(seed)
    levels = [rng.normal(size=(100, d)).astype(np.float32) @ rng.normal(size=(d, d)) for d in (6, 15)]
    for features in levels:
        features[PLANTED] += apart * features.std(0)
    return [features.astype(np.float32) for features in levels]


def test_distances_are_those_of_scikit_learns_ledoit_wolf_in_the_mean_over_levels() -> None:
    levels = made()
    known = np.arange(100) < 60
    expected = np.mean(
        [np.sqrt(LedoitWolf().fit(x[known]).mahalanobis(x[~known])) for x in map(np.float64, levels)], axis=0
    )
    assert distances_to(levels, known, ~known) == pytest.approx(expected, rel=1e-8)


def test_each_image_is_scored_without_having_been_seen() -> None:
    levels = made(1)
    before = cross_fitted(held(levels), 100)
    for features in levels:
        features[17] *= 1000
    after = cross_fitted(held(levels), 100)
    assert after[17] > 500 * before[17], "an image that is seen bends its own Gaussian"
    seen = distances_to(levels, np.ones(100, dtype=bool), np.ones(100, dtype=bool))
    assert seen[17] < after[17] / 10


def test_folds_leave_out_what_they_score_as_scikit_learn_would() -> None:
    """A plain loop over the images: each by the covariance of all others that are not in its fold."""
    levels = made(5)
    fold = np.random.default_rng(3).permutation(100) % 5
    expected = np.empty(100)
    for i in range(100):
        fitted = [LedoitWolf().fit(np.float64(level[fold != fold[i]])) for level in levels]
        each = [f.mahalanobis(np.float64(x[i : i + 1]))[0] ** 0.5 for f, x in zip(fitted, levels, strict=True)]
        expected[i] = np.mean(each)
    assert cross_fitted(held(levels), 100, seed=3) == pytest.approx(expected, rel=1e-8)


def test_in_how_many_batches_images_come_makes_no_difference() -> None:
    levels, kept = made(6), np.arange(100) % 7 != 0
    chunks = [[level[start : start + 13] for level in levels] for start in range(0, 100, 13)]
    whole = cross_fitted(held(levels), 100, kept=kept)
    assert cross_fitted(lambda: iter(chunks), 100, kept=kept) == pytest.approx(whole, rel=1e-9)
    assert (usual_by_trimming(lambda: iter(chunks), 100) == usual_by_trimming(held(levels), 100)).all()


def test_images_that_are_not_kept_are_scored_and_bend_nothing() -> None:
    levels, kept = made(7), np.arange(100) != 17
    before = cross_fitted(held(levels), 100, kept=kept)
    for features in levels:
        features[17] *= 1000
    after = cross_fitted(held(levels), 100, kept=kept)
    assert after[kept] == pytest.approx(before[kept], rel=1e-12)
    assert after[17] > 500 * before[17]


def test_planted_images_are_the_most_suspicious_ones() -> None:
    for suspicion in (cross_fitted(held(made()), 100), robust_distances(made())):
        assert roc_auc_score(PLANTED, suspicion) > 0.99


def test_trimming_and_mcd_drop_what_stands_out_and_keep_nearly_all_others() -> None:
    for usual in (usual_by_trimming(held(made(2)), 100), usual_by_mcd(made(2, apart=8))):
        assert not usual[PLANTED].any()
        assert usual[~PLANTED].mean() > 0.9


def test_where_nothing_was_planted_hardly_anything_is_dropped() -> None:
    assert usual_by_trimming(held(made(3, apart=0)), 100).mean() > 0.95
    assert usual_by_mcd(made(3, apart=0)).mean() > 0.9


def test_trimming_leaves_enough_to_go_on_with() -> None:
    few = [np.random.default_rng(0).standard_cauchy(size=(12, 2)).astype(np.float32)]
    assert usual_by_trimming(held(few), 12).sum() >= 10


def test_fewer_than_ten_images_cannot_be_held_out_in_turn() -> None:
    with pytest.raises(ValueError, match="need at least 10 images, got 9"):
        cross_fitted(held([np.ones((9, 2), np.float32)]), 9)


def test_the_modified_z_score_counts_robust_deviations_from_the_median() -> None:
    values = np.random.default_rng(0).normal(5, 2, size=501)
    expected = (values - np.median(values)) / median_abs_deviation(values, scale="normal")
    assert modified_z(values) == pytest.approx(expected, rel=1e-4)
    assert (modified_z(np.random.default_rng(1).normal(size=5000)) > CUTOFF).mean() < 0.001
    assert modified_z(np.array([1.0, 1.0, 1.0, 9.0])).tolist() == [0, 0, 0, 0]


def test_found_again_counts_as_scikit_learn_does() -> None:
    suspicion = np.random.default_rng(4).normal(size=100) + 2 * PLANTED
    found = found_again(PLANTED, suspicion)
    assert found["found_auroc"] == pytest.approx(roc_auc_score(PLANTED, suspicion))
    assert found["found_ap"] == pytest.approx(average_precision_score(PLANTED, suspicion))
    first = sorted(range(100), key=lambda i: -suspicion[i])[:8]
    assert found["found_first"] == sum(i >= 92 for i in first) / 8


def test_with_nothing_planted_there_is_nothing_to_find() -> None:
    with pytest.raises(ValueError, match="both needed"):
        found_again(np.zeros(5, dtype=bool), np.arange(5.0))


def test_mcd_of_a_wide_level_takes_fewer_dimensions_than_images() -> None:
    wide = [np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)]
    assert np.isfinite(robust_distances(wide)).all()


def test_directions_that_no_image_varies_in_are_no_trouble_to_mcd() -> None:
    flat = np.random.default_rng(0).normal(size=(60, 10)).astype(np.float32)
    flat[:, 6:] = flat[:, :4]
    assert np.isfinite(robust_distances([flat])).all()
