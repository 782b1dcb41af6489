"""What a trained filter does, on a made set of grey stripes whose phase and brightness differ."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly_ft.data.corruption import Corrupted, Corruption
from anomaly_ft.finetune.methods.filter import FilterMethod
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.filter.detector import FilterDetector
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.inference import predict

SIDE, STEPS, BATCH = 32, 200, 8
SETTINGS = FilterSettings(
    "auto", 0, 128, width=32, reach=0, skips=True, smoothing=1.0, top=0.02, shrinkage="ledoit_wolf",
    variance_floor=0.01, position="free", seed=0,
)  # fmt: skip
CORRUPTION = Corruption(
    ("curve", "ellipse"), ("colour", "noise"), clean_share=0.25, noise=3.0, seed=0,
    textures=np.empty((0, SIDE, SIDE, 3), np.uint8),
)  # fmt: skip


def stripes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    columns = np.arange(SIDE)
    rows = [
        rng.uniform(110, 140) + rng.uniform(40, 60) * np.sin(columns * 2 * np.pi / 8 + rng.uniform(0, 6.3))
        for _ in range(count)
    ]
    images = np.repeat(np.array(rows)[:, None, :, None], SIDE, axis=1)
    noisy = images + rng.normal(0, 2, (count, SIDE, SIDE, 1))
    return np.repeat(np.clip(noisy, 0, 255), 3, axis=-1).astype(np.uint8)


class Trained(NamedTuple):
    detector: FilterDetector
    compute: Compute
    clean: np.ndarray
    done: Corrupted


@pytest.fixture(scope="module")
def trained() -> Trained:
    compute = make_compute(device="cpu", precision="fp32", channels_last=False)
    images = {"train": stripes(64, 1), "val": stripes(16, 2), "calibration": stripes(4, 3)}
    encoder = load_encoder("pixels", image_size=SIDE)
    method = FilterMethod(encoder, compute, SETTINGS, images.__getitem__, CORRUPTION, clean_weight=0.5)
    method.fit()
    loss = method.objective()
    optimizer = torch.optim.Adam(method.parameter_groups(3e-3, layer_decay=1.0))
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        chosen = rng.choice(64, BATCH, replace=False)
        names = [str(i) for i in chosen]
        optimizer.zero_grad()
        loss(method.batch(images["train"][chosen], names, step, images["train"])).backward()
        optimizer.step()
    detector = method.refit("refit").detector
    assert isinstance(detector, FilterDetector)
    clean = stripes(24, 9)
    always = replace(CORRUPTION, clean_share=0.0, noise=0.0, seed=7)
    return Trained(detector, compute, clean, always.batch(clean, [str(i) for i in range(24)], 0, clean))


def given(trained: Trained, pixels: np.ndarray) -> torch.Tensor:
    """Pixels as the net is given them."""
    detector = trained.detector
    return detector.space(detector.encoder(trained.compute.batch(pixels)))


def corrupted(trained: Trained, x: torch.Tensor) -> torch.Tensor:
    """Which values of x are of places that were corrupted."""
    return torch.from_numpy(trained.done.mask)[:, None].expand_as(x)


def size(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


@torch.no_grad()
def test_a_clean_image_comes_back_within_noise(trained: Trained) -> None:
    x = given(trained, trained.clean)
    assert size(trained.detector.net(x) - x) < 0.15 * size(x)


@torch.no_grad()
def test_a_corrupted_image_comes_back_near_the_clean_one(trained: Trained) -> None:
    x, wrong = given(trained, trained.clean), given(trained, trained.done.corrupted)
    restored, where = trained.detector.net(wrong), corrupted(trained, x)
    assert size((restored - x)[where]) < 0.4 * size((wrong - x)[where])


@torch.no_grad()
def test_applying_the_filter_twice_changes_little(trained: Trained) -> None:
    wrong = given(trained, trained.done.corrupted)
    once, where = trained.detector.net(wrong), corrupted(trained, wrong)
    assert size((trained.detector.net(once) - once)[where]) < 0.25 * size((once - wrong)[where])


def test_the_map_is_where_the_mask_is(trained: Trained) -> None:
    outputs = predict(trained.detector, trained.done.corrupted, trained.compute)
    mask = trained.done.mask
    assert roc_auc_score(mask.ravel(), outputs.localises.ravel()) > 0.9
    clean = predict(trained.detector, trained.clean, trained.compute)
    assert roc_auc_score([0] * 24 + [1] * 24, np.concatenate([clean.score, outputs.score])) > 0.9


def test_the_score_is_the_mean_of_the_highest_places_of_the_map(trained: Trained) -> None:
    outputs = predict(trained.detector, trained.clean[:3], trained.compute)
    count = int(np.ceil(SETTINGS.top * SIDE * SIDE))
    highest = np.sort(outputs.localises.reshape(3, -1), axis=1)[:, -count:]
    assert outputs.score == pytest.approx(highest.mean(1), rel=1e-5)


def test_there_is_no_baseline_without_an_encoder_and_its_detector_needs_a_fit(trained: Trained) -> None:
    images = {"train": trained.clean, "val": trained.clean, "calibration": trained.clean}
    encoder = load_encoder("pixels", image_size=SIDE)
    method = FilterMethod(encoder, trained.compute, SETTINGS, images.__getitem__, CORRUPTION, 0.5)
    assert not method.has_baseline
    with pytest.raises(RuntimeError, match="fit comes first"):
        method.objective()
    method.fit()
    with pytest.raises(ValueError, match="statistics are 'pretrained', expected refit"):
        method.refit("pretrained")
