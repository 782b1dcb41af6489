"""Curves, intervals and pixel numbers, against scikit-learn, scipy and plain loops."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score, roc_curve

from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.pixel_counts import (
    BINS,
    PIMO_LIMITS,
    CalledPixels,
    NormalImages,
    PixelCounts,
)
from anomaly_ft.metrics import (
    curve,
    image_numbers,
    percentile_intervals,
    resampled_numbers,
    wilson_interval,
)


def labelled(ties: bool, seed: int = 0, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3 == 0
    scores = rng.normal(0, 1, count) + labels
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
def test_image_numbers_are_those_of_scikit_learn(ties: bool) -> None:
    labels, scores = labelled(ties)
    numbers = image_numbers(curve(labels, scores))
    assert numbers["image_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert numbers["image_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    best = max(f1_score(labels, scores >= threshold) for threshold in scores)
    assert numbers["image_f1_max"] == pytest.approx(best)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    for rate, name in ((0.01, "image_tpr_at_1pct_fpr"), (0.05, "image_tpr_at_5pct_fpr")):
        assert numbers[name] == pytest.approx(true[false <= rate].max())
    for rate, name in ((0.01, "image_tnr_at_1pct_fnr"), (0.05, "image_tnr_at_5pct_fnr")):
        assert numbers[name] == pytest.approx(1 - false[1 - true <= rate + 1e-12].min())


def test_a_rate_that_is_exactly_reached_counts_as_reached() -> None:
    labels = np.r_[np.zeros(100), np.ones(2)].astype(bool)
    scores = np.r_[np.arange(100), 98.5, 0.5]
    assert curve(labels, scores).tpr_at_fpr(0.01) == 0.5
    assert curve(labels, scores).tpr_at_fpr(0.0) == 0.0


def test_presorted_good_is_what_lies_below_the_anomalies_that_must_not_be_missed() -> None:
    labels = np.r_[np.zeros(4), np.ones(100)].astype(bool)
    scores = np.r_[0, 1, 2.5, 9, 2, 3 * np.ones(99)]
    assert curve(labels, scores).tnr_at_fnr(0.0) == 0.5, "the weakest of all is found too"
    assert curve(labels, scores).tnr_at_fnr(0.01) == 0.75, "one of 100 may be missed"


def test_weights_count_an_image_as_often_as_they_say() -> None:
    labels, scores = labelled(ties=True)
    weights = np.random.default_rng(1).integers(0, 4, (5, len(labels)))
    together = image_numbers(curve(labels, scores, weights))
    for i, row in enumerate(weights):
        alone = image_numbers(curve(np.repeat(labels, row), np.repeat(scores, row)))
        for name, value in alone.items():
            assert together[name][i] == pytest.approx(value), name


def test_resampling_in_chunks_is_as_good_and_an_equal_seed_draws_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels, scores = labelled(ties=False)
    first = resampled_numbers(labels, scores, seed=3, resamples=50)
    assert all(len(values) == 50 for values in first.values())
    np.testing.assert_array_equal(
        first["image_ap"], resampled_numbers(labels, scores, seed=3, resamples=50)["image_ap"]
    )
    assert not np.array_equal(
        first["image_ap"], resampled_numbers(labels, scores, seed=4, resamples=50)["image_ap"]
    )
    monkeypatch.setattr("anomaly_ft.metrics.AT_ONCE", 7 * len(labels))
    chunked = resampled_numbers(labels, scores, seed=3, resamples=2000)
    whole = percentile_intervals(resampled_numbers(labels, scores, seed=5, resamples=2000))
    for name, (low, high) in percentile_intervals(chunked).items():
        assert low == pytest.approx(whole[name][0], abs=0.05)
        assert high == pytest.approx(whole[name][1], abs=0.05)


def test_the_interval_is_that_of_a_bootstrap_in_plain_loops() -> None:
    labels, scores = labelled(ties=False)
    rng = np.random.default_rng(11)
    normal, anomalous = np.flatnonzero(~labels), np.flatnonzero(labels)
    drawn = []
    for _ in range(1500):
        chosen = np.r_[rng.choice(normal, len(normal)), rng.choice(anomalous, len(anomalous))]
        drawn.append(roc_auc_score(labels[chosen], scores[chosen]))
    low, high = percentile_intervals(resampled_numbers(labels, scores))["image_auroc"]
    assert low == pytest.approx(np.quantile(drawn, 0.025), abs=0.02)
    assert high == pytest.approx(np.quantile(drawn, 0.975), abs=0.02)


def test_an_auroc_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, covered = 0.7602, 0  # of two normal distributions one standard deviation apart
    for seed in range(100):
        labels, scores = labelled(ties=False, seed=seed, count=120)
        resampled = resampled_numbers(labels, scores, seed=seed, resamples=300)
        low, high = percentile_intervals(resampled)["image_auroc"]
        covered += low <= truth <= high
    assert 86 <= covered <= 100


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (3, 20), (20, 20), (1, 191), (0, 1), (1, 1)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_wilson_interval_ends_where_the_score_test_just_rejects(
    hits: int, count: int, level: float
) -> None:
    """Its ends are the shares `p` with (hits / count - p)^2 = z^2 p (1 - p) / count, roots of a polynomial."""
    share, z2 = hits / count, NormalDist().inv_cdf((1 + level) / 2) ** 2
    low, high = sorted(np.roots([1 + z2 / count, -(2 * share + z2 / count), share**2]).real)
    assert wilson_interval(hits, count, level) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(0, 0), (3, 2), (-1, 4)])
def test_a_share_of_nothing_has_no_interval(hits: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"got {hits} of {count}"):
        wilson_interval(hits, count)


def some_maps(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Five maps: two without a mask, three with two regions each, of different sizes and scores."""
    rng = np.random.default_rng(seed)
    maps = [rng.normal(1, 0.6, (24, 30)).astype(np.float32) for _ in range(5)]
    masks: list[np.ndarray | None] = [None, None]
    for i in range(2, 5):
        mask = np.zeros((24, 30), bool)
        mask[2 : 5 + i, 3:7] = True
        mask[15:17, 20:22] = True
        mask[17, 22] = True  # touches at a corner only
        maps[i] = maps[i] + mask * 0.9
        masks.append(mask)
    return maps, masks


def to_bins(score: float) -> float:
    """The score with a float32's twelve last mantissa bits dropped, towards the lower bin edge."""
    bits = np.float32(score).view(np.uint32)
    return float((bits & np.uint32(0xFFFFF000)).view(np.float32))


def aupro_in_loops(maps: list[np.ndarray], masks: list[np.ndarray | None], limit: float = 0.3) -> float:
    regions, normal = [], []
    for scores, mask in zip(maps, masks, strict=True):
        flat = np.zeros(scores.shape, bool) if mask is None else mask
        normal.extend(scores[~flat])
        labels, count = ndimage.label(flat, structure=np.ones((3, 3)))
        regions.extend(scores[labels == i + 1] for i in range(count))
    points = [(0.0, 0.0)]
    normal_values = np.array(normal)
    for threshold in np.unique(np.concatenate([normal_values, *regions]))[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        points.append((float(np.mean(normal_values >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        cut = min(x1, limit)
        y_cut = y0 + (y1 - y0) * (cut - x0) / (x1 - x0) if x1 > x0 else y1
        area += (cut - x0) * (y0 + y_cut) / 2
    return area / limit


def counted(maps: list[np.ndarray], masks: list[np.ndarray | None]) -> PixelCounts:
    counts = PixelCounts()
    for scores, mask in zip(maps, masks, strict=True):
        counts.add(scores, mask)
    return counts


def test_pixel_numbers_are_those_of_scikit_learn_and_of_plain_loops() -> None:
    maps, masks = some_maps()
    maps = [np.vectorize(to_bins)(scores) for scores in maps]
    counts = counted(maps, masks)
    labels = np.concatenate(
        [(np.zeros(m.shape, bool) if k is None else k).ravel() for m, k in zip(maps, masks, strict=True)]
    )
    scores = np.concatenate([m.ravel() for m in maps])
    numbers = counts.numbers()
    assert counts.regions == 6
    assert numbers["pixel_auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
    assert numbers["pixel_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
    assert numbers["pixel_aupro"] == pytest.approx(aupro_in_loops(maps, masks), abs=1e-9)
    assert numbers["pixel_aupro_5pct"] == pytest.approx(aupro_in_loops(maps, masks, 0.05), abs=1e-9)
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert numbers["pixel_f1_max"] == pytest.approx((2 * precision * recall / (precision + recall)).max())


def aupimo_in_loops(normals: list[np.ndarray], scores: np.ndarray, mask: np.ndarray) -> float:
    """The mean over many rates, evenly spaced in their logarithm, of the share of the mask above the lowest
    threshold that lets no more of the normal pixels through."""
    low, high = PIMO_LIMITS
    thresholds = np.unique(np.concatenate([scores.ravel(), *(n.ravel() for n in normals)]))
    false = np.array([np.mean([np.mean(n >= t) for n in normals]) for t in thresholds])
    rates, covered = np.exp(np.linspace(np.log(low), np.log(high), 4001)), []
    for rate in rates:
        allowed = thresholds[false <= rate]
        covered.append(np.mean(scores[mask] >= allowed.min()) if len(allowed) else 0.0)
    return float(np.mean(covered))


def test_the_overlap_of_single_images_is_that_of_plain_loops() -> None:
    rng = np.random.default_rng(5)
    normals = [
        np.vectorize(to_bins)(np.round(rng.normal(1, 0.6, shape), 2)) for shape in ((150, 200), (90, 300))
    ]
    scores = np.vectorize(to_bins)(np.round(rng.normal(2.4, 1.2, (30, 40)), 2))
    mask = np.zeros((30, 40), bool)
    mask[5:20, 10:30] = True
    counts = NormalImages()
    for normal in normals:
        counts.add(normal)
    found = counts.overlaps(scores, mask)
    assert found is not None
    assert 0.1 < found < 0.9
    assert found == pytest.approx(aupimo_in_loops(normals, scores, mask), abs=2e-3)


def test_the_overlap_counts_a_small_normal_image_as_much_as_a_large_one_and_needs_one() -> None:
    mask = np.ones((2, 2), bool)
    assert NormalImages().overlaps(np.ones((2, 2)), mask) is None
    counts = NormalImages()
    counts.add(np.zeros((500, 500)))
    counts.add(np.zeros((2, 2)))
    assert counts.overlaps(np.ones((2, 2)), mask) == pytest.approx(1)
    assert counts.overlaps(np.zeros((2, 2)), mask) == 0.0, "all normal pixels lie as high"
    counts.add(np.array([[0.0, 2.0]]))
    assert counts.overlaps(np.ones((2, 2)), mask) == 0.0, "a sixth of the normal pixels lies above"


def test_f1_at_a_limit_is_that_of_scikit_learn_over_all_pixels() -> None:
    maps, masks = some_maps()
    called = CalledPixels(1.5)
    for scores, mask in zip(maps, masks, strict=True):
        called.add(scores, mask)
    labels = [np.zeros(m.shape, bool) if k is None else k for m, k in zip(maps, masks, strict=True)]
    expected = f1_score(np.stack(labels).ravel(), np.stack(maps).ravel() > 1.5)
    assert called.f1() == pytest.approx(expected)
    assert CalledPixels(1.5).f1() is None


def test_bins_cost_no_more_than_a_rounding() -> None:
    maps, masks = some_maps(seed=4)
    numbers = counted(maps, masks).numbers()
    assert numbers["pixel_aupro"] == pytest.approx(aupro_in_loops(maps, masks), abs=1e-3)


def test_a_perfect_map_has_perfect_pixel_numbers_and_an_inverted_one_none() -> None:
    _, masks = some_maps()
    perfect = [np.zeros((24, 30)) if mask is None else mask.astype(float) for mask in masks]
    numbers = counted(perfect, masks).numbers()
    names = ("pixel_auroc", "pixel_ap", "pixel_aupro", "pixel_aupro_5pct", "pixel_f1_max")
    assert numbers == pytest.approx(dict.fromkeys(names, 1.0))
    inverted = counted([-scores for scores in perfect], masks).numbers()
    assert inverted["pixel_auroc"] == pytest.approx(0.0)
    assert inverted["pixel_aupro"] == pytest.approx(0.0)


def test_memory_does_not_grow_with_pixels() -> None:
    counts = PixelCounts()
    for scores, mask in zip(*some_maps(), strict=True):
        counts.add(scores, mask)
    arrays = [value for value in vars(counts).values() if isinstance(value, np.ndarray)]
    assert [len(array) for array in arrays] == [BINS] * 3


def test_without_an_anomalous_pixel_there_is_no_pixel_number() -> None:
    counts = PixelCounts()
    counts.add(np.ones((4, 4)), None)
    counts.add(np.ones((4, 4)), np.zeros((4, 4), bool))
    assert set(counts.numbers().values()) == {None}


def test_a_map_and_a_mask_of_different_sizes_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"map has \(4, 4\) pixels, the mask \(4, 5\)"):
        PixelCounts().add(np.ones((4, 4)), np.zeros((4, 5), bool))


def test_a_map_that_is_not_finite_has_diverged() -> None:
    with pytest.raises(DivergedError, match="1 of 4 scores are not finite"):
        PixelCounts().add(np.array([[1.0, np.nan], [0.0, 0.0]]), None)
