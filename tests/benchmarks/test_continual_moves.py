"""How Gaussians follow an encoder that moved, against plain numpy."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from anomaly_ft.model.gaussian.statistics import Gaussian, fit, moments, squared_distance

D = 5


@pytest.fixture(scope="module")
def moves() -> Iterator[ModuleType]:
    """The module of the benchmark."""
    folder = str(Path(__file__).parents[2] / "benchmarks")
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(folder)
        import continual_moves

        yield continual_moves
    del sys.modules["continual_moves"]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def covariance_of(gaussian: Gaussian) -> np.ndarray:
    whitening = gaussian.whitening.numpy()
    return np.linalg.inv(np.swapaxes(whitening, -1, -2) @ whitening)


def test_a_part_whose_features_moved_as_the_newest_ones_has_the_gaussian_of_its_moved_features(
    moves: ModuleType, rng: np.random.Generator
) -> None:
    matrix, offset = np.eye(D) + rng.normal(0, 0.3, (D, D)), rng.normal(0, 2, D)
    newest, held_out, earlier = (rng.normal(mean, 1.0, (60, D)) for mean in (0, 0, 4))
    after = [features @ matrix.T + offset for features in (newest, held_out, earlier)]
    seen, then, held, held_then = tensors(newest, after[0], held_out, after[1])
    found = moves.moved(
        fit(moments(torch.from_numpy(earlier)), 0.0), moves.affine_drift(seen, then, (held, held_then))
    )
    np.testing.assert_allclose(found.mean.numpy(), after[2].mean(0), rtol=1e-5)
    np.testing.assert_allclose(covariance_of(found), np.cov(after[2].T, bias=True), rtol=1e-5, atol=1e-6)
    assert bool((found.whitening.triu(1) == 0).all()), "still the inverse of a lower Cholesky factor"
    assert bool((found.whitening.diagonal() > 0).all())


def test_gaussians_of_all_positions_move_alike_and_keep_the_distances_of_features_that_moved(
    moves: ModuleType, rng: np.random.Generator
) -> None:
    features = torch.from_numpy(rng.normal(0, 1, (40, 7, D)) + rng.normal(0, 3, (7, D)))
    matrix, offset = tensors(np.eye(D) + rng.normal(0, 0.3, (D, D)), rng.normal(0, 2, D))
    before = fit(moments(features))  # shrunk: moved with it
    by = moves.Affine(matrix, offset)
    after = moves.moved(before, by)
    expected = squared_distance(features, before.mean, before.whitening)
    torch.testing.assert_close(squared_distance(by(features), after.mean, after.whitening), expected)


def test_an_infinite_ridge_leaves_the_mean_shift(moves: ModuleType, rng: np.random.Generator) -> None:
    before, after = rng.normal(0, 1, (20, D)), rng.normal(1, 2, (20, D))
    by = moves.ridge(*tensors(before, after), math.inf)
    np.testing.assert_array_equal(by.matrix.numpy(), np.eye(D))
    np.testing.assert_allclose(by.offset.numpy(), after.mean(0) - before.mean(0))
    near = moves.ridge(*tensors(before, after), 1e12)
    np.testing.assert_allclose(near.offset.numpy(), by.offset.numpy(), rtol=1e-6)


def test_a_ridge_is_that_of_the_normal_equations(moves: ModuleType, rng: np.random.Generator) -> None:
    before, after = rng.normal(0, 1, (20, D)) * np.arange(1, D + 1), rng.normal(1, 2, (20, D))
    by = moves.ridge(*tensors(before, after), 0.3)
    z, change = before - before.mean(0), after - before - (after - before).mean(0)
    least = math.sqrt(0.3 * np.square(z).sum() / D)  # as rows that say: no more than a shift
    stacked = np.concatenate([z, least * np.eye(D)]), np.concatenate([change, np.zeros((D, D))])
    expected = np.eye(D) + np.linalg.lstsq(*stacked, rcond=None)[0].T
    np.testing.assert_allclose(by.matrix.numpy(), expected)


def test_the_ridge_is_the_one_that_errs_least_on_other_images(
    moves: ModuleType, rng: np.random.Generator
) -> None:
    before = rng.normal(0, 1, (8, D))
    noise, held = before + rng.normal(0, 1, (8, D)), rng.normal(0, 1, (50, D))
    by = moves.affine_drift(*tensors(before, noise), tuple(tensors(held, held + (noise - before).mean(0))))
    np.testing.assert_array_equal(by.matrix.numpy(), np.eye(D))


def test_features_of_other_images_and_none_at_all_are_refused(moves: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\) before and \(5, 3\) after, expected \(n, d\) of the same"):
        moves.ridge(torch.zeros(4, 3), torch.zeros(5, 3), 1.0)
    with pytest.raises(ValueError, match=r"\(0, 3\) before"):
        moves.ridge(torch.zeros(0, 3), torch.zeros(0, 3), 1.0)


def test_a_map_that_flattens_features_is_refused(moves: ModuleType, rng: np.random.Generator) -> None:
    flat = moves.Affine(torch.diag(torch.tensor([1.0, 1, 1, 1, 0]).double()), torch.zeros(D).double())
    with pytest.raises(ValueError, match="the map flattens features"):
        moves.moved(fit(moments(torch.from_numpy(rng.normal(0, 1, (20, D))))), flat)


def test_a_guess_that_is_right_misses_nothing_and_none_misses_all(
    moves: ModuleType, rng: np.random.Generator
) -> None:
    before = torch.from_numpy(rng.normal(0, 1, (9, D)))
    identity, none = torch.eye(D).double(), torch.zeros(D).double()
    right, no_guess = moves.Affine(2 * identity, none), moves.Affine(identity, none)
    assert moves.missed([right] * 3, [before] * 3, [2 * before] * 3) == 0
    assert moves.missed([no_guess], [before], [2 * before]) == 1
    assert moves.missed([right, right, no_guess], [before] * 3, [2 * before] * 3) == 0, "the median"
    assert moves.missed([no_guess, right], [before] * 2, [before, 2 * before]) == 0, "one level stays"
    assert math.isnan(moves.missed([no_guess], [before], [before]))


def test_what_was_forgotten_is_the_best_less_the_last(moves: ModuleType) -> None:
    history = [{"a": 0.9}, {"a": 0.95, "b": 0.8}, {"a": 0.7, "b": 0.85, "c": 0.6}]
    assert moves.forgetting(history) == pytest.approx({"a": 0.25, "b": 0.0})
    assert moves.average_last(history) == pytest.approx((0.7 + 0.85 + 0.6) / 3)
    assert moves.forgetting(history[:1]) == {}
    with pytest.raises(ValueError, match="a was not measured after the last part"):
        moves.forgetting([{"a": 0.9}, {"b": 0.8}])
    for nothing in ([], [{}]):
        with pytest.raises(ValueError, match="nothing was measured"):
            moves.average_last(nothing)
