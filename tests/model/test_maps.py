"""Maps of a small encoder with random weights, against plain loops and their own laws."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from settings import detector_settings

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.pixels import Resize
from anomaly_ft.errors import DivergedError
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import load_encoder, pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.model.gaussian.settings import SCORES, ScoreName
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.model.maps import split_distance, upsample
from anomaly_ft.model.threshold import Thresholds, WorkingPoint


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32", batch_size=4)


@pytest.fixture(scope="module", params=[4, 7])
def detector(request: pytest.FixtureRequest, compute: Compute, make_textures: Callable) -> GaussianDetector:
    torch.manual_seed(0)
    encoder = load_encoder("resnet10t", "random", image_size=64, levels=["layer1", "layer2", "layer3"])
    settings = detector_settings(grid=3, smoothing=0, map_grid=request.param)
    return fit_detector(encoder, make_textures(20, 64, 1), make_textures(6, 64, 2), compute, settings)


@pytest.fixture
def pixels(make_textures: Callable) -> np.ndarray:
    wrong = make_textures(5, 64, 3)
    wrong[2:, 10:30, 10:30] = 255
    return wrong


def feature_maps(detector: GaussianDetector, pixels: np.ndarray) -> list[torch.Tensor]:
    with torch.inference_mode():
        return detector.encoder(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def test_contributions_average_to_each_levels_squared_distance(
    detector: GaussianDetector, pixels: np.ndarray
) -> None:
    maps = feature_maps(detector, pixels)
    squared = detector.level_distances(pool(maps)) ** 2
    for i, level in enumerate(maps):
        split = split_distance(level, *detector.level_gaussian(i))
        assert split.shape == (5, *level.shape[2:])
        torch.testing.assert_close(split.mean((1, 2)), squared[:, i], rtol=1e-5, atol=0)


def test_a_contribution_is_the_formula_at_one_position(detector: GaussianDetector, pixels: np.ndarray) -> None:
    maps = feature_maps(detector, pixels)
    split = split_distance(maps[1], *detector.level_gaussian(1))[3].numpy()
    level = maps[1][3].double().numpy()
    mean, whitening = (detector.get_buffer(f"{n}_1").double().numpy() for n in ("mean", "whitening"))
    precision = whitening.T @ whitening
    away = level.reshape(len(mean), -1).mean(1) - mean
    for i, j in ((0, 0), (2, 5), (7, 7)):
        assert split[i, j] == pytest.approx((level[:, i, j] - mean) @ precision @ away, rel=1e-3, abs=1e-3)


def test_the_contribution_map_averages_to_the_pooled_score(
    detector: GaussianDetector, pixels: np.ndarray
) -> None:
    maps = feature_maps(detector, pixels)
    whole = detector.contribution_map(maps)
    assert whole.shape == (5, detector.settings.map_grid, detector.settings.map_grid)
    torch.testing.assert_close(whole.mean((1, 2)), detector.scores(maps)["pooled"], rtol=1e-5, atol=0)


def test_examining_gives_the_scores_of_the_detector_whatever_the_batch(
    detector: GaussianDetector, compute: Compute, pixels: np.ndarray
) -> None:
    found, plain = predict(detector, pixels, compute), score_images(detector, pixels, compute)
    for name in SCORES:
        np.testing.assert_allclose(found.scores[name], plain[name], rtol=1e-6)
    np.testing.assert_allclose(found.distances.mean(1), found.scores["pooled"], rtol=1e-5)
    alone = [predict(detector, pixels[i : i + 1], compute) for i in reversed(range(5))]
    np.testing.assert_allclose(
        np.concatenate([part.maps["contribution"] for part in alone[::-1]]),
        found.maps["contribution"],
        rtol=1e-3,
        atol=1e-3,
    )


def test_the_wrong_place_is_where_the_dense_map_is_high(
    detector: GaussianDetector, compute: Compute, pixels: np.ndarray
) -> None:
    large = upsample(predict(detector, pixels, compute).maps["dense"][3], 64, 64, Decoder(64))
    assert large[10:30, 10:30].mean() > 1.5 * large[40:, 40:].mean()


def test_a_score_that_is_not_finite_has_diverged(
    detector: GaussianDetector, compute: Compute, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(detector._buffers, "location", torch.full((2,), torch.nan))
    with pytest.raises(DivergedError, match="4 of 4 fused scores are not finite"):
        predict(detector, pixels, compute)


def test_upsampling_keeps_score_units_and_takes_any_size() -> None:
    small = np.arange(9, dtype=np.float32).reshape(3, 3)
    large = upsample(small, 30, 60, Decoder(64))
    assert large.shape == (30, 60)
    assert large.dtype == np.float32
    assert (large.min(), large.max()) == (0, 8)
    assert large.mean() == pytest.approx(small.mean(), abs=1e-4)
    np.testing.assert_array_equal(upsample(small, 3, 3, Decoder(64)), small)


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center-crop"])
@pytest.mark.parametrize("shape", [(90, 150), (150, 90), (64, 64)])
def test_a_place_of_the_map_comes_back_to_its_place_in_the_image(
    resize: Resize, shape: tuple[int, int], tmp_path: Path
) -> None:
    height, width = shape
    image = np.zeros((height, width, 3), np.uint8)
    image[height // 2 - 12 : height // 2 + 4, width // 2 - 4 : width // 2 + 12] = 255  # a mark, off the middle
    Image.fromarray(image).save(tmp_path / "marked.png")
    decoder = Decoder(64, resize)
    grid = decoder(tmp_path / "marked.png")[..., 0].reshape(32, 2, 32, 2).mean((1, 3)).astype(np.float32)
    large = upsample(grid, height, width, decoder)
    assert large.shape == (height, width)
    marked = image[..., 0] > 0
    for axis in (0, 1):
        at = np.average(np.indices(shape)[axis], weights=large)
        assert at == pytest.approx(np.average(np.indices(shape)[axis], weights=marked), abs=1.5)


def test_what_was_cut_off_is_lowest() -> None:
    large = upsample(
        np.full((4, 4), 3, np.float32) + np.eye(4, dtype=np.float32), 64, 128, Decoder(64, "center-crop")
    )
    np.testing.assert_array_equal(large[:, :32], 3)
    np.testing.assert_array_equal(large[:, 96:], 3)
    assert large.max() == 4


@pytest.mark.parametrize(("score", "expected"), [("dense", 4.5), ("fused", 4.5), ("pooled", None)])
def test_the_map_has_a_limit_of_its_own_and_the_pooled_score_has_none(
    score: ScoreName, expected: float | None, detector: GaussianDetector
) -> None:
    other = GaussianDetector(detector.encoder, replace(detector.settings, score=score), detector.statistics)
    assert (
        other.with_thresholds(Thresholds(WorkingPoint(3.5, 0.01, 0.01, 99), map_limit=4.5)).map_threshold()
        == expected
    )


def test_training_precision_changes_no_score(detector: GaussianDetector, pixels: np.ndarray) -> None:
    half, full = (make_compute(device="cpu", precision=name, batch_size=5) for name in ("bf16", "fp32"))
    ours, theirs = predict(detector, pixels, half), predict(detector, pixels, full)
    assert [*ours.scores, *ours.maps] == [*theirs.scores, *theirs.maps]
    for values, expected in zip(
        (*ours.scores.values(), *ours.maps.values()),
        (*theirs.scores.values(), *theirs.maps.values()),
        strict=True,
    ):
        np.testing.assert_array_equal(values, expected)
