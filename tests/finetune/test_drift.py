import numpy as np
import pytest
from scipy.stats import ortho_group

from anomaly_ft.finetune.drift import effective_rank, linear_cka

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(40, 6)) * [5, 4, 3, 2, 1, 1] + 7


def test_features_turned_scaled_and_moved_are_still_the_same() -> None:
    turned = 3 * FEATURES @ ortho_group.rvs(6, random_state=0) - 11
    assert linear_cka(FEATURES, turned) == pytest.approx(1, abs=1e-9)


def test_cka_is_the_cosine_of_the_centred_kernels() -> None:
    other = FEATURES[:, :4] ** 2
    n = len(FEATURES)
    centre = np.eye(n) - 1 / n
    first, second = (centre @ x @ x.T @ centre for x in (FEATURES, other))
    expected = np.trace(first @ second) / np.sqrt(np.trace(first @ first) * np.trace(second @ second))
    assert linear_cka(FEATURES, other) == pytest.approx(expected, rel=1e-9)
    assert 0 < expected < 0.9


def test_features_on_a_line_have_rank_one_and_a_ball_has_its_dimension() -> None:
    assert effective_rank(np.outer(RNG.normal(size=30), [1, 2, 3])) == pytest.approx(1, abs=1e-6)
    corners = np.vstack([np.eye(5), -np.eye(5)])
    assert effective_rank(corners) == pytest.approx(5)


def test_collapsing_features_lose_rank() -> None:
    ranks = [effective_rank(FEATURES * [1, 1, *[squeeze] * 4]) for squeeze in (1, 0.3, 0.01)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[2] < 2.2


def test_features_that_do_not_vary_have_neither() -> None:
    flat = np.ones((5, 3))
    assert np.isnan(effective_rank(flat))
    assert np.isnan(linear_cka(flat, FEATURES[:5]))
