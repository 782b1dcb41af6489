import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import LedoitWolf, empirical_covariance, shrunk_covariance
from torch import Tensor

from anomaly_ft.errors import DivergedError, GaussianError
from anomaly_ft.model.gaussian.statistics import Gaussian, accumulate, fit, moments, squared_distance

Floats = NDArray[np.float64]


def correlated(n: int, d: int, *, seed: int = 0, offset: float = 0.0) -> Floats:
    """Heavy-tailed, correlated features with very different scales."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(d, d)) * np.logspace(-1, 1, d)
    return offset + rng.standard_t(6, size=(n, d)) @ mixing


def fit_all(features: Floats, *args: object, **kwargs: object) -> Gaussian:
    return fit(moments(torch.from_numpy(features)), *args, **kwargs)  # type: ignore[arg-type]


def covariance_of(gaussian: Gaussian) -> Floats:
    """What was inverted and factored to make the whitening."""
    return np.linalg.inv((gaussian.whitening.mT @ gaussian.whitening).numpy())


def assert_same(one: Gaussian, other: Gaussian, rtol: float = 1e-9) -> None:
    assert one.count == other.count
    for name in ("mean", "whitening", "shrinkage"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), [(200, 12), (30, 40), (3, 5), (500, 1)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_ledoit_wolf_agrees_with_scikit_learn(n: int, d: int, offset: float) -> None:
    features = correlated(n, d, offset=offset)
    expected = LedoitWolf().fit(features)
    gaussian = fit_all(features)
    np.testing.assert_allclose(gaussian.mean, expected.location_, rtol=1e-8)
    np.testing.assert_allclose(float(gaussian.shrinkage), expected.shrinkage_, rtol=1e-8, atol=1e-12)
    scale = np.abs(expected.covariance_).max()
    np.testing.assert_allclose(covariance_of(gaussian), expected.covariance_, rtol=1e-8, atol=1e-8 * scale)


def test_features_far_from_the_first_batch_still_agree_with_scikit_learn() -> None:
    features = correlated(120, 8)
    features[20:] += 1e3 * features.std(0)
    batches = [[torch.from_numpy(features[:20])], [torch.from_numpy(features[20:])]]
    expected = LedoitWolf().fit(features)
    gaussian = fit(accumulate(batches)[0])
    np.testing.assert_allclose(float(gaussian.shrinkage), expected.shrinkage_, rtol=1e-8)
    np.testing.assert_allclose(covariance_of(gaussian), expected.covariance_, rtol=1e-8)


@pytest.mark.parametrize("sizes", [[1, 2, 3, 5, 89], [99, 1], [33, 33, 34]])
def test_streaming_in_batches_is_fitting_in_one_go(sizes: list[int]) -> None:
    pooled = torch.from_numpy(correlated(100, 7, offset=50))
    dense = torch.from_numpy(correlated(100, 12, seed=1).reshape(100, 4, 3))
    batches = zip(pooled.split(sizes), dense.split(sizes), strict=True)
    streamed = accumulate([list(batch) for batch in batches])
    assert_same(fit(streamed[0]), fit(moments(pooled)))
    assert_same(fit(streamed[1]), fit(moments(dense)))


def test_groups_of_float32_features_agree_with_scikit_learn_to_float32() -> None:
    features = np.stack([correlated(90, 6, seed=seed, offset=30) for seed in range(20)], 1).astype(np.float32)
    batches = torch.from_numpy(features).split([40, 30, 20])
    gaussian = fit(accumulate([batch] for batch in batches)[0])
    for group in range(20):
        expected = LedoitWolf().fit(features[:, group].astype(np.float64))
        found = Gaussian(gaussian.mean[group], gaussian.whitening[group], gaussian.shrinkage[group], 90)
        np.testing.assert_allclose(found.mean, expected.location_, rtol=1e-6)
        np.testing.assert_allclose(float(found.shrinkage), expected.shrinkage_, rtol=1e-5)
        scale = np.abs(expected.covariance_).max()
        np.testing.assert_allclose(covariance_of(found), expected.covariance_, rtol=1e-5, atol=1e-6 * scale)


def test_merging_two_halves_is_fitting_the_whole() -> None:
    features = torch.from_numpy(correlated(90, 6))
    features[:40] += 300.0
    merged = moments(features[:40]) + moments(features[40:])
    assert_same(fit(merged), fit(moments(features)), rtol=1e-8)


def test_merging_goes_in_any_order() -> None:
    a, b, c = (moments(torch.from_numpy(correlated(20, 4, seed=s, offset=10.0 * s))) for s in range(3))
    assert_same(fit((a + b) + c), fit(c + (b + a)))


def test_groups_are_fitted_and_measured_as_in_a_loop() -> None:
    features = torch.from_numpy(correlated(50, 12).reshape(50, 2, 2, 3))
    gaussian = fit(moments(features))
    distances = squared_distance(features, gaussian.mean, gaussian.whitening)
    assert distances.shape == (50, 2, 2)
    for i in range(2):
        for j in range(2):
            alone = fit(moments(features[:, i, j]))
            part = Gaussian(gaussian.mean[i, j], gaussian.whitening[i, j], gaussian.shrinkage[i, j], 50)
            assert_same(part, alone)
            expected = squared_distance(features[:, i, j], alone.mean, alone.whitening)
            torch.testing.assert_close(distances[:, i, j], expected)


def test_shrinkage_zero_is_the_empirical_covariance() -> None:
    features = correlated(60, 9, offset=100)
    np.testing.assert_allclose(covariance_of(fit_all(features, 0.0)), empirical_covariance(features), rtol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
def test_a_number_shrinks_as_scikit_learn_does(shrinkage: float) -> None:
    features = correlated(10, 15)
    expected = shrunk_covariance(empirical_covariance(features), shrinkage)
    gaussian = fit_all(features, shrinkage)
    np.testing.assert_allclose(covariance_of(gaussian), expected, rtol=1e-7, atol=1e-7 * expected.max())
    assert float(gaussian.shrinkage) == shrinkage


def test_the_floor_is_a_share_of_the_mean_variance_over_all_groups() -> None:
    features = correlated(40, 6).reshape(40, 2, 3)
    features[:, 1] *= 1e-3
    gaussian = fit_all(features, 0.0, floor=0.1)
    least = 0.1 * features.var(0).mean()
    for group in range(2):
        expected = empirical_covariance(features[:, group]) + least * np.eye(3)
        np.testing.assert_allclose(covariance_of(gaussian)[group], expected, rtol=1e-8)


def test_with_a_floor_a_group_that_never_varies_is_fitted() -> None:
    features = correlated(40, 6).reshape(40, 2, 3)
    features[:, 1] = 7.0
    gaussian = fit_all(features, "ledoit_wolf", floor=0.01)
    np.testing.assert_allclose(gaussian.mean[1], 7.0)
    assert float(gaussian.shrinkage[1]) == 0
    assert torch.isfinite(gaussian.whitening).all()
    with pytest.raises(GaussianError, match="images are the same"):
        fit_all(features, "ledoit_wolf")


def test_squared_distance_agrees_with_scipy() -> None:
    features, others = correlated(60, 5), correlated(8, 5, seed=1)
    gaussian = fit_all(features)
    precision = np.linalg.inv(LedoitWolf().fit(features).covariance_)
    expected = [mahalanobis(x, features.mean(0), precision) ** 2 for x in others]
    measured = squared_distance(torch.from_numpy(others), gaussian.mean, gaussian.whitening)
    np.testing.assert_allclose(measured, expected, rtol=1e-8)


def test_mean_squared_distance_of_the_fitted_features_is_their_dimension() -> None:
    features = torch.from_numpy(correlated(70, 11, offset=-20))
    gaussian = fit(moments(features), 0.0)
    assert squared_distance(features, gaussian.mean, gaussian.whitening).mean().item() == pytest.approx(11)


def test_without_shrinkage_the_distance_does_not_care_about_affine_maps() -> None:
    features = correlated(50, 4)
    turned = features @ np.random.default_rng(3).normal(size=(4, 4)) + 17.0

    def distances(x: Floats) -> Tensor:
        gaussian = fit_all(x, 0.0)
        return squared_distance(torch.from_numpy(x), gaussian.mean, gaussian.whitening)

    torch.testing.assert_close(distances(turned), distances(features))


@pytest.mark.parametrize("groups", [(), (2,)])
def test_the_gradient_is_that_of_finite_differences(groups: tuple[int, ...]) -> None:
    d = 3
    fitted = torch.from_numpy(correlated(20, d * (2 if groups else 1)).reshape(20, *groups, d))
    gaussian = fit(moments(fitted))
    features = fitted[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: squared_distance(x, gaussian.mean, gaussian.whitening), features)


def test_distances_stay_float32_under_autocast() -> None:
    features = correlated(30, 6, offset=100)
    gaussian = fit_all(features)
    mean, whitening = gaussian.mean.float(), gaussian.whitening.float()
    outside = squared_distance(torch.from_numpy(features).float(), mean, whitening)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = squared_distance(torch.from_numpy(features).float(), mean, whitening)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


def test_fitting_stays_float64_under_autocast() -> None:
    features = correlated(30, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fit_all(features)
    assert inside.whitening.dtype == torch.float64
    assert_same(inside, fit_all(features))


def test_fitting_leaves_no_graph_behind() -> None:
    features = torch.from_numpy(correlated(30, 6)).requires_grad_()
    assert not fit(moments(features)).whitening.requires_grad


@pytest.mark.parametrize(
    ("n", "d", "shrinkage", "message"),
    [
        (30, 272, 0.0, "cannot fit a full Gaussian to 30 images in 272 dimensions, at least 273 are needed; "
                       "use shrinkage (expert.gaussian.shrinkage: ledoit_wolf) or more images"),
        (1, 4, "ledoit_wolf", "cannot fit a full Gaussian to 1 image in 4 dimensions, at least 2 are needed; "
                              "use more images"),
    ],
)  # fmt: skip
def test_too_few_images_are_an_error_that_names_the_way_out(
    n: int, d: int, shrinkage: float | str, message: str
) -> None:
    with pytest.raises(GaussianError, match=f"^level 3: {re.escape(message)}$"):
        fit_all(correlated(n, d), shrinkage, name="level 3")


def test_two_images_give_ledoit_and_wolf_no_reason_to_shrink() -> None:
    assert LedoitWolf().fit(correlated(2, 5)).shrinkage_ == pytest.approx(0, abs=1e-12)
    with pytest.raises(GaussianError, match="covariance of 2 images in 5 dimensions is not positive definite"):
        fit_all(correlated(2, 5))


def test_no_images_at_all_are_an_error() -> None:
    with pytest.raises(GaussianError, match="no images at all"):
        accumulate([])


def test_copies_of_one_image_are_an_error() -> None:
    with pytest.raises(
        GaussianError, match="the features of all 10 images are the same; are the images copies"
    ):
        fit_all(np.full((10, 3), 5.0))


def test_a_dimension_that_follows_from_the_others_is_an_error_without_shrinkage() -> None:
    features = correlated(50, 3)
    features[:, 2] = 0.0
    with pytest.raises(
        GaussianError, match=r"50 images in 3 dimensions is not positive definite .* raise expert.gaussian"
    ):
        fit_all(features, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_have_diverged(bad: float) -> None:
    features = correlated(20, 3)
    features[7, 1] = bad
    with pytest.raises(DivergedError, match="level 3: the features of 20 images are not finite"):
        fit_all(features, name="level 3")


@pytest.mark.parametrize("groups", [(40,), (5, 9)])
def test_more_groups_than_are_fitted_at_a_time_are_fitted_alike(groups: tuple[int, ...]) -> None:
    features = np.stack([correlated(30, 4, seed=i) for i in range(int(np.prod(groups)))], 1)
    whole = fit_all(features.reshape(30, *groups, 4), floor=0.1, dtype=torch.float32)
    assert whole.whitening.dtype == torch.float32
    floor = 0.1 * features.var(0).mean()
    for i, index in enumerate(np.ndindex(*groups)):
        alone = LedoitWolf().fit(features[:, i])
        covariance = np.linalg.inv((whole.whitening[index].mT @ whole.whitening[index]).double().numpy())
        np.testing.assert_allclose(covariance, alone.covariance_ + floor * np.eye(4), rtol=1e-3, atol=1e-4)
        assert float(whole.shrinkage[index]) == pytest.approx(alone.shrinkage_, rel=1e-6)
