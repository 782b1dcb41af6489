"""One Gaussian of all positions, for parts that lie anyhow, beside one at each."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from settings import detector_settings
from sklearn.covariance import LedoitWolf

from anomaly_ft.errors import RunError
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import Heads, fit_detector, fit_heads
from anomaly_ft.model.gaussian.positions import grouped, joined
from anomaly_ft.model.gaussian.statistics import accumulate, fit, squared_distances
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.model.loading import load_detector

FREE = detector_settings(grid=3, smoothing=0, map_grid=5, position="free")


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32", batch_size=8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return load_encoder("test_efficientnet", "random", levels=[1, 3, 4], image_size=32)


@pytest.fixture(scope="module")
def images(make_textures: Callable[[int, int, int], np.ndarray]) -> list[np.ndarray]:
    """Training images, held-out ones, and some to score."""
    return [make_textures(count, 32, seed) for seed, count in enumerate((20, 6, 5))]


@pytest.fixture(scope="module")
def heads(encoder: Encoder, images: list[np.ndarray], compute: Compute) -> Heads:
    return fit_heads(encoder, *images[:2], compute, FREE)


def stacked_distances(fitted: np.ndarray, measured: np.ndarray, floor: float) -> np.ndarray:
    """Distances of `(n, positions, d)` to scikit-learn's Ledoit-Wolf Gaussian of all positions, in a loop."""
    stacked = np.concatenate([fitted[:, p] for p in range(fitted.shape[1])])
    gaussian = LedoitWolf().fit(stacked)
    least = floor * stacked.var(0).mean() * np.eye(stacked.shape[1])
    precision = np.linalg.inv(gaussian.covariance_ + least)
    mean = gaussian.location_
    return np.array([[np.sqrt((x - mean) @ precision @ (x - mean)) for x in image] for image in measured])


@pytest.mark.parametrize("way", ["grouped as they stream", "joined afterwards"])
def test_one_gaussian_of_all_positions_is_scikit_learns_of_the_stacked_ones(way: str) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 40, 6)) @ rng.normal(size=(6, 6)) + 30 * rng.normal(size=(40, 6))
    batches = torch.from_numpy(features).split([20, 1, 29])
    if way == "joined afterwards":
        gaussian = fit(joined(accumulate([batch] for batch in batches)[0]), floor=0.1)
    else:
        gaussian = fit(accumulate([grouped(batch, "free")] for batch in batches)[0], floor=0.1)
    assert gaussian.count == 50 * 40
    expected = LedoitWolf().fit(features.reshape(-1, 6))
    assert float(gaussian.shrinkage) == pytest.approx(expected.shrinkage_, rel=1e-8)
    found = squared_distances(torch.from_numpy(features[:3]), gaussian.mean, gaussian.whitening).sqrt()
    np.testing.assert_allclose(found, stacked_distances(features, features[:3], 0.1), rtol=1e-8)


def test_the_dense_score_and_map_are_distances_to_the_gaussian_of_all_positions(
    encoder: Encoder, images: list[np.ndarray], compute: Compute
) -> None:
    detector = fit_detector(encoder, *images[:2], compute, FREE)
    assert detector.dense_mean.dim() == detector.map_mean.dim() == 1
    assert detector.dense_whitening.dim() == detector.map_whitening.dim() == 2, "no matrix for each position"
    with torch.no_grad():
        levels = [encoder(torch.from_numpy(some).permute(0, 3, 1, 2)) for some in (images[0], images[2])]
        dense = [detector.dense_features(each).double().numpy() for each in levels]
    found = predict(detector, images[2], compute)
    expected = stacked_distances(*dense, FREE.variance_floor)
    np.testing.assert_allclose(found.scores["dense"], expected.max(1), rtol=1e-3)
    assert found.maps["dense"].shape == (5, 5, 5)
    moved = images[2][:, :, ::-1]  # mirrored: the same features elsewhere, but for the border
    there = predict(detector, moved, compute).scores["dense"]
    assert np.corrcoef(there, found.scores["dense"])[0, 1] > 0.5


def test_both_heads_of_one_pass_score_as_those_of_two(
    heads: Heads, encoder: Encoder, images: list[np.ndarray], compute: Compute
) -> None:
    for position, detector in heads.detectors.items():
        alone = fit_detector(encoder, *images[:2], compute, replace(FREE, position=position))
        assert detector.settings == alone.settings
        for name, scores in score_images(alone, images[2], compute).items():
            assert score_images(detector, images[2], compute)[name] == pytest.approx(scores, rel=1e-3), name
    both = score_images(heads, images[2], compute)
    for position, detector in heads.detectors.items():
        expected = score_images(detector, images[2], compute)["dense"]
        assert both[position] == pytest.approx(expected, rel=1e-5)
    assert not np.allclose(both["fixed"], both["free"], rtol=0.01)


@pytest.fixture
def folder(heads: Heads, tmp_path: Path) -> Path:
    heads.detectors["free"].save(tmp_path, about={})
    return tmp_path


def test_a_detector_without_positions_read_back_gives_identical_scores(
    heads: Heads, folder: Path, images: list[np.ndarray], compute: Compute
) -> None:
    detector = load_detector(folder)
    compute.prepare(detector.encoder)
    assert detector.settings.position == "free"
    for name, scores in score_images(heads.detectors["free"], images[2], compute).items():
        assert np.array_equal(score_images(detector, images[2], compute)[name], scores), name
    tensors = load_file(folder / "detector.safetensors")
    assert tensors["dense_whitening"].shape == (len(tensors["dense_kept"]),) * 2


def change_settings(folder: Path, **changes: object) -> None:
    path = folder / "detector.json"
    description = json.loads(path.read_text())
    description["settings"] |= changes
    path.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ("auto", r"detector\.json has position 'auto', expected fixed, free"),
        ("fixed", "the dense score does not fit a grid of 3"),
    ],
)
def test_positions_that_do_not_fit_the_tensors_are_refused(position: str, message: str, folder: Path) -> None:
    change_settings(folder, position=position)
    with pytest.raises(RunError, match=message):
        load_detector(folder)


def test_a_detector_that_is_older_than_the_setting_has_fixed_positions(
    heads: Heads, images: list[np.ndarray], compute: Compute, tmp_path: Path
) -> None:
    heads.detectors["fixed"].save(tmp_path, about={})
    path = tmp_path / "detector.json"
    description = json.loads(path.read_text())
    del description["settings"]["position"]
    path.write_text(json.dumps(description))
    older = load_detector(tmp_path)
    compute.prepare(older.encoder)
    assert isinstance(older, GaussianDetector)
    scores = score_images(heads.detectors["fixed"], images[2], compute)["dense"]
    assert np.array_equal(score_images(older, images[2], compute)["dense"], scores)
