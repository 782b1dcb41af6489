"""AUROCs with intervals: by hand, against published ends, by simulation, and where they cannot be had."""

import numpy as np
import pytest
from scipy.stats import norm

from anomaly_ft.analysis.separation import auroc_interval, held_out_scores
from anomaly_ft.metrics import image_auroc

NO_WORDS = np.empty((60, 0), dtype=np.str_)
LABELS = np.arange(60) % 2 == 0
ALONE = np.arange(60)


def by_hand(second: np.ndarray, scores: np.ndarray) -> float:
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[second] for b in scores[~second]]
    return float(np.mean(pairs))


@pytest.mark.parametrize(("auroc", "first", "second"), [(0.75, 20, 20), (0.9, 30, 80), (0.5, 12, 300)])
def test_the_ends_are_where_a_test_with_the_variance_of_hanley_and_mcneil_begins_to_reject(
    auroc: float, first: int, second: int
) -> None:
    for end in auroc_interval(auroc, first, second):
        mean = (first + second) / 2
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        variance = (end * (1 - end) + (mean - 1) * (q1 - end**2 + q2 - end**2)) / (first * second)
        assert abs(auroc - end) == pytest.approx(norm.ppf(0.975) * np.sqrt(variance), rel=1e-6)


def test_a_perfect_separation_of_few_images_is_not_a_certainty() -> None:
    few, many = auroc_interval(1.0, 10, 10), auroc_interval(1.0, 1000, 1000)
    assert 0.7 < few[0] < 0.9
    assert 0.99 < many[0] < 1
    assert few[1] == many[1] == 1.0


@pytest.mark.parametrize("apart", [0.0, 1.0, 2.0])
def test_intervals_hold_the_true_value_in_about_95_of_100_draws(apart: float) -> None:
    rng = np.random.default_rng(7)
    truth, labels, inside = float(norm.cdf(apart / np.sqrt(2))), np.arange(70) >= 40, 0
    for _ in range(400):
        low, high = auroc_interval(image_auroc(labels, rng.normal(size=70) + apart * labels), 40, 30)
        inside += low <= truth <= high
    assert 0.92 <= inside / 400 <= 0.995


@pytest.mark.parametrize(("auroc", "first", "second"), [(1.2, 5, 5), (-0.1, 5, 5), (0.5, 0, 5)])
def test_what_is_no_auroc_or_an_empty_group_has_no_interval(auroc: float, first: int, second: int) -> None:
    with pytest.raises(ValueError, match="expected an AUROC in"):
        auroc_interval(auroc, first, second)


def test_held_out_scores_find_a_shift_and_their_auroc_is_that_of_a_count_of_pairs() -> None:
    numbers = np.random.default_rng(0).normal(size=(60, 3))
    numbers[:, 1] += 3 * LABELS
    scores = held_out_scores(LABELS, numbers, NO_WORDS, ALONE)
    assert by_hand(LABELS, scores) > 0.95
    assert image_auroc(LABELS, scores) == pytest.approx(by_hand(LABELS, scores))


def test_held_out_scores_find_nothing_where_there_is_nothing() -> None:
    found = []
    for seed in range(10):
        numbers = np.random.default_rng(seed).normal(size=(60, 8))
        found.append(by_hand(LABELS, held_out_scores(LABELS, numbers, NO_WORDS, ALONE)))
    assert abs(np.mean(found) - 0.5) < 0.08, "a model that saw what it scores would be far above"


def test_words_tell_apart_as_numbers_do_and_an_outlier_counts_for_no_more_than_its_rank() -> None:
    words = np.where(LABELS, "Canon", "Nikon")[:, None]
    assert by_hand(LABELS, held_out_scores(LABELS, np.empty((60, 0)), words, ALONE)) == 1.0
    numbers = (np.random.default_rng(1).normal(size=60) + 4 * LABELS)[:, None]
    numbers[0] = 1e12
    assert by_hand(LABELS, held_out_scores(LABELS, numbers, NO_WORDS, ALONE)) > 0.9


def test_images_of_one_group_are_held_out_together() -> None:
    """Each pair of images has a number of its own; who saw one of a pair would know the other by it."""
    part = np.repeat(np.arange(30), 2)
    labels = np.repeat(np.random.default_rng(3).permutation(30) < 15, 2)
    words = part.astype(np.str_)[:, None]
    alone = by_hand(labels, held_out_scores(labels, np.empty((60, 0)), words, ALONE))
    together = by_hand(labels, held_out_scores(labels, np.empty((60, 0)), words, part))
    assert alone > 0.8
    assert together < 0.6


def test_a_side_that_is_one_group_is_compared_image_by_image() -> None:
    numbers = (np.random.default_rng(0).normal(size=60) + 3 * LABELS)[:, None]
    groups = np.where(LABELS, 0, ALONE + 1)
    assert by_hand(LABELS, held_out_scores(LABELS, numbers, NO_WORDS, groups)) > 0.9


def test_one_image_of_a_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two images"):
        held_out_scores(np.arange(60) == 3, np.zeros((60, 1)), NO_WORDS, ALONE)
