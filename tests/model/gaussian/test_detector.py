from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from settings import detector_settings
from sklearn.covariance import LedoitWolf

from anomaly_ft.errors import DivergedError, EncoderError, GaussianError
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_detector, fit_gaussians
from anomaly_ft.model.gaussian.levels import choose_dense_levels, choose_map_levels, kept_channels
from anomaly_ft.model.gaussian.settings import ScoreName
from anomaly_ft.model.inference import pooled_features, predict, score_images
from anomaly_ft.model.maps import on_grid
from anomaly_ft.model.threshold import Thresholds, WorkingPoint

SETTINGS = detector_settings(grid=4, smoothing=0.5, map_grid=5, dense_weight=2.0)
Textures = Callable[[int, int, int], np.ndarray]


@pytest.fixture(scope="module")
def normal(make_textures: Textures) -> np.ndarray:
    return make_textures(30, 64, 1)


@pytest.fixture(scope="module")
def others(make_textures: Textures) -> np.ndarray:
    return make_textures(9, 64, 2)


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32", batch_size=8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return load_encoder("test_efficientnet", "random", image_size=64)


@pytest.fixture(scope="module")
def detector(encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute) -> GaussianDetector:
    return fit_detector(encoder, normal, others, compute, SETTINGS)


@torch.no_grad()
def maps_of(encoder: Encoder, pixels: np.ndarray) -> list[np.ndarray]:
    """Feature maps, computed one image at a time."""
    images = [encoder(torch.from_numpy(image).permute(2, 0, 1)[None]) for image in pixels]
    return [torch.cat(levels).double().numpy() for levels in zip(*images, strict=True)]


def distances(fitted: np.ndarray, measured: np.ndarray, *, floor: float = 0.0) -> np.ndarray:
    """Mahalanobis distance to scikit-learn's Ledoit-Wolf Gaussian, in a plain loop."""
    gaussian = LedoitWolf().fit(fitted)
    precision = np.linalg.inv(gaussian.covariance_ + floor * np.eye(fitted.shape[1]))
    return np.array(
        [np.sqrt((x - gaussian.location_) @ precision @ (x - gaussian.location_)) for x in measured]
    )


def test_the_pooled_score_is_the_mean_distance_over_levels(
    detector: GaussianDetector, encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    fitted, measured = maps_of(encoder, normal), maps_of(encoder, others)
    by_level = [distances(f.mean((2, 3)), m.mean((2, 3))) for f, m in zip(fitted, measured, strict=True)]
    assert len(by_level) == 7
    np.testing.assert_allclose(
        score_images(detector, others, compute)["pooled"], np.mean(by_level, 0), rtol=1e-3
    )


def gridded(encoder: Encoder, pixels: np.ndarray, levels: list[int], grid: int) -> np.ndarray:
    return on_grid([torch.from_numpy(maps_of(encoder, pixels)[i]) for i in levels], grid).double().numpy()


def by_position(fitted: np.ndarray, measured: np.ndarray, grid: int) -> np.ndarray:
    """Maps of distances, position by position."""
    floor = 0.01 * fitted.var(0).mean()
    found = [distances(fitted[:, p], measured[:, p], floor=floor) for p in range(grid**2)]
    return np.stack(found, 1).reshape(-1, grid, grid)


def test_the_dense_score_is_the_largest_smoothed_distance_on_its_grid(
    detector: GaussianDetector, encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    assert choose_dense_levels(encoder, "auto") == [4, 5]
    assert [encoder.strides[i] for i in (3, 4, 5, 6)] == [8, 16, 32, 32], "all at 16, the first at 32"
    maps = by_position(*(gridded(encoder, pixels, [4, 5], 4) for pixels in (normal, others)), 4)
    smooth = np.stack([gaussian_filter(m, 0.5, mode="mirror", radius=2) for m in maps])
    found = score_images(detector, others, compute)["dense"]
    np.testing.assert_allclose(found, smooth.max((1, 2)), rtol=1e-3)


def test_the_map_has_levels_and_a_grid_of_its_own(
    detector: GaussianDetector, encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    assert choose_map_levels(encoder, "auto") == [2, 3, 4], "the last at stride 4 and 8, the first at 16"
    maps = by_position(*(gridded(encoder, pixels, [2, 3, 4], 5) for pixels in (normal, others)), 5)
    np.testing.assert_allclose(predict(detector, others, compute).maps["dense"], maps, rtol=1e-3)


def test_the_map_is_smoothed_by_its_own_setting(
    encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    settings = [detector_settings(grid=4, map_grid=5, map_smoothing=smoothing) for smoothing in (0.0, 0.6)]
    plain, smooth = (
        predict(fit_detector(encoder, normal, others, compute, how), others, compute) for how in settings
    )
    expected = [gaussian_filter(m, 0.6, mode="mirror", radius=2) for m in plain.maps["dense"]]
    np.testing.assert_allclose(smooth.maps["dense"], expected, rtol=1e-3)
    np.testing.assert_allclose(smooth.scores["dense"], plain.scores["dense"], rtol=1e-6)


def test_of_more_channels_than_allowed_a_random_choice_is_kept(
    encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    how = detector_settings(grid=2, smoothing=0, map_grid=3, dense_dimensions=40)
    few = fit_detector(encoder, normal, others, compute, how)
    kept = kept_channels(encoder, [4, 5], 40)
    assert len(set(kept.tolist())) == 40 < sum(encoder.widths[i] for i in (4, 5))
    assert torch.equal(kept, kept_channels(encoder, [4, 5], 40)), "always the same choice"
    assert few.dense_whitening.shape == (4, 40, 40)
    assert few.map_whitening.shape == (9, 40, 40)
    fitted, measured = (gridded(encoder, pixels, [4, 5], 2)[..., kept.numpy()] for pixels in (normal, others))
    found = score_images(few, others, compute)["dense"]
    np.testing.assert_allclose(found, by_position(fitted, measured, 2).max((1, 2)), rtol=1e-3)
    assert kept_channels(encoder, [0], 40).tolist() == list(range(encoder.widths[0]))


def test_the_fused_score_adds_what_is_measured_in_standard_deviations_of_held_out_images(
    detector: GaussianDetector, others: np.ndarray, compute: Compute, make_textures: Textures
) -> None:
    held_out, new = (
        score_images(detector, others, compute),
        score_images(detector, make_textures(5, 64, 7), compute),
    )
    expected = sum(
        weight * (new[name] - held_out[name].mean()) / held_out[name].std(ddof=1)
        for name, weight in (("pooled", 1), ("dense", 2))
    )
    np.testing.assert_allclose(new["fused"], expected, rtol=1e-3)
    assert held_out["fused"].mean() == pytest.approx(0, abs=1e-3)


def test_the_scores_are_anomaly_scores(
    detector: GaussianDetector, others: np.ndarray, compute: Compute
) -> None:
    wrong = others.copy()
    wrong[:, 10:40, 10:40] = 255 - wrong[:, 10:40, 10:40]
    for name, scores in score_images(detector, wrong, compute).items():
        assert (scores > score_images(detector, others, compute)[name]).all(), name


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_batch_size_and_memory_format_do_not_change_scores(
    batch_size: int, channels_last: bool, detector: GaussianDetector, others: np.ndarray, compute: Compute
) -> None:
    other = make_compute(device="cpu", precision="fp32", batch_size=batch_size, channels_last=channels_last)
    expected = score_images(detector, others, compute)
    for name, scores in score_images(detector, others, other).items():
        np.testing.assert_allclose(scores, expected[name], rtol=1e-3, atol=1e-3)


def test_the_order_of_images_does_not_change_scores(
    detector: GaussianDetector, others: np.ndarray, compute: Compute
) -> None:
    backwards = score_images(detector, others[::-1].copy(), compute)
    for name, scores in score_images(detector, others, compute).items():
        np.testing.assert_allclose(backwards[name][::-1], scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("score", ["pooled", "dense", "fused"])
def test_the_module_gives_the_score_that_decides_and_a_map_of_the_images_size(
    score: ScoreName,
    detector: GaussianDetector,
    others: np.ndarray,
    compute: Compute,
) -> None:
    detector = GaussianDetector(detector.encoder, replace(SETTINGS, score=score), detector.statistics)
    found = predict(detector, others, compute)
    with torch.no_grad():
        scores, maps = detector(compute.batch(others))
    assert scores.shape == (9,)
    assert maps.shape == (9, 64, 64)
    np.testing.assert_allclose(scores, found.scores[score], rtol=1e-4, atol=1e-4)
    assert found.map is found.maps["contribution" if score == "pooled" else "dense"]
    small = found.map
    by_pillow = Image.fromarray(small[4]).resize((64, 64), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(maps[4], np.asarray(by_pillow), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_neither_batch_nor_order_changes_what_the_module_gives(
    precision: str, detector: GaussianDetector, others: np.ndarray
) -> None:
    half = make_compute(device="cpu")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        together = detector(half.batch(others))
        alone = [detector(half.batch(others[i : i + 1])) for i in reversed(range(9))]
    for i, value in enumerate(together):
        one_by_one = torch.cat([detection[i] for detection in alone[::-1]])
        torch.testing.assert_close(one_by_one, value, rtol=1e-3, atol=1e-3)


def test_a_detector_never_leaves_evaluation_mode(detector: GaussianDetector) -> None:
    assert not any(module.training for module in detector.train().modules())


def test_thresholds_are_part_of_a_view_and_not_of_the_detector_it_was_made_of(
    encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    fresh = fit_detector(encoder, normal, others, compute, SETTINGS)
    assert torch.isinf(fresh.threshold), "until one is set nothing is anomalous"
    thresholds = Thresholds(WorkingPoint(2.5, 0.01, 0.1, 9), tuple(range(8)), 3.5)
    view = fresh.with_thresholds(thresholds)
    assert view.state_dict()["threshold"] == 2.5
    assert view.state_dict()["chi_square"].tolist() == list(range(8))
    assert view.map_threshold() == 3.5
    assert torch.isinf(fresh.threshold)
    assert view.encoder is fresh.encoder
    assert view.dense_whitening.data_ptr() == fresh.dense_whitening.data_ptr(), "a view copies no statistics"


def test_scores_are_float32_or_better_in_bf16(
    detector: GaussianDetector, others: np.ndarray, compute: Compute
) -> None:
    bf16 = make_compute(device="cpu", precision="bf16")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = detector.outputs(detector.encoder(bf16.batch(others)), explain=True)
        whole = detector(bf16.batch(others))
    values = (*output.scores.values(), *output.maps.values(), output.distances, *whole)
    assert {value.dtype for value in values} == {torch.float32}
    np.testing.assert_allclose(
        output.scores["pooled"], score_images(detector, others, compute)["pooled"], rtol=0.1
    )


def test_without_smoothing_the_score_is_the_largest_distance(
    encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    plain = fit_detector(
        encoder, normal, others, compute, detector_settings(grid=4, smoothing=0, dense_levels=["bn1"])
    )
    assert plain.dense_mean.shape == (16, 24)
    maps = by_position(*(gridded(encoder, pixels, [0], 4) for pixels in (normal, others)), 4)
    np.testing.assert_allclose(score_images(plain, others, compute)["dense"], maps.max((1, 2)), rtol=1e-3)


def test_feature_maps_are_averaged_down_and_interpolated_up() -> None:
    fine, coarse = torch.rand(2, 3, 8, 8), torch.rand(2, 1, 2, 2)
    grid = on_grid([fine, coarse], 4)
    assert grid.shape == (2, 16, 4)
    torch.testing.assert_close(grid[:, 4 * 1 + 2, :3], fine[:, :, 2:4, 4:6].mean((2, 3)))
    torch.testing.assert_close(grid[:, [0, 3, 12, 15], 3], coarse[:, 0].flatten(1))
    weights = torch.tensor([0.75, 0.25])  # position 1 of 4 lies at a quarter of the way from cell 0 to 1
    torch.testing.assert_close(
        grid[:, 4 * 1 + 1, 3], torch.einsum("nij,i,j->n", coarse[:, 0], weights, weights)
    )


def test_vision_transformers_are_dense_at_quarters_of_their_depth() -> None:
    vit = load_encoder("vit_tiny_patch16_224", "random", image_size=32)
    assert choose_dense_levels(vit, "auto") == choose_map_levels(vit, "auto") == [2, 5, 8]


def test_dense_levels_are_chosen_by_name_or_index(encoder: Encoder) -> None:
    assert choose_dense_levels(encoder, ["blocks.2", 0]) == [3, 0]
    with pytest.raises(
        EncoderError, match=r"gaussian\.dense_levels: 'blocks\.9' is none of the levels: bn1, blocks\.0"
    ):
        choose_dense_levels(encoder, ["blocks.9"])
    with pytest.raises(EncoderError, match=r"gaussian\.dense_levels: 7 is none of the levels"):
        choose_dense_levels(encoder, [7])
    with pytest.raises(EncoderError, match=r"map_levels: expected one or more levels, got none"):
        choose_map_levels(encoder, [])


def test_an_error_names_the_level_that_cannot_be_fitted(
    encoder: Encoder, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    settings = detector_settings(grid=4, shrinkage=0.0)
    with pytest.raises(
        GaussianError, match=r"level blocks\.2: cannot fit a full Gaussian to 30 images in 32 dim"
    ):
        fit_detector(encoder, normal, others, compute, settings)


def test_scores_that_are_not_finite_have_diverged(
    detector: GaussianDetector, others: np.ndarray, compute: Compute
) -> None:
    spoilt = replace(detector.statistics, location=torch.full((2,), torch.nan))
    wrong = GaussianDetector(detector.encoder, detector.settings, spoilt)
    with pytest.raises(DivergedError, match="9 of 9 fused scores are not finite"):
        score_images(wrong, others, compute)


def test_the_pass_that_fits_leaves_the_features_of_the_first_images(
    encoder: Encoder, normal: np.ndarray, compute: Compute
) -> None:
    _, seen = fit_gaussians(encoder, normal, compute, SETTINGS, keep=11)
    expected = pooled_features(encoder, normal[:11], compute)
    assert compute.batch_size < 11, "of more than one batch"
    assert len(seen) == len(expected) == len(encoder.levels)
    for level, features in zip(seen, expected, strict=True):
        assert level == pytest.approx(features, rel=1e-4, abs=1e-6)
    assert fit_gaussians(encoder, normal, compute, SETTINGS)[1] == []


def test_the_scale_follows_the_images_it_is_set_by(
    detector: GaussianDetector, normal: np.ndarray, others: np.ndarray, compute: Compute
) -> None:
    first = detector.standardised(score_images(detector, normal, compute))
    assert score_images(first, normal, compute)["fused"].mean() == pytest.approx(0, abs=1e-3)
    second = first.standardised(score_images(detector, others, compute))
    assert score_images(second, normal, compute)["fused"].mean() < -0.5
    assert score_images(first, normal, compute)["fused"].mean() == pytest.approx(0, abs=1e-3), "not rescaled"
