"""A small detector with random weights, and how it computes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from settings import detector_settings

from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_detector


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32")


@pytest.fixture
def detector(make_textures: Callable[[int, int, int], np.ndarray], compute: Compute) -> GaussianDetector:
    torch.manual_seed(0)
    encoder = load_encoder("test_efficientnet", "random", levels=[1, 3], image_size=32)
    settings = detector_settings(grid=4, dense_levels=[0])
    return fit_detector(encoder, make_textures(20, 32, 1), make_textures(6, 32, 2), compute, settings)


@pytest.fixture
def method(make_textures: Callable[[int, int, int], np.ndarray], compute: Compute) -> GaussianMethod:
    """A method whose pretrained Gaussians are fitted."""
    torch.manual_seed(0)
    encoder = load_encoder("test_efficientnet", "random", levels=[1, 3], image_size=32)
    images = {"train": make_textures(20, 32, 1), "val": make_textures(6, 32, 2)}
    settings = detector_settings(grid=4, dense_levels=[0])
    method = GaussianMethod(encoder, compute, settings, images.__getitem__)
    method.fit()
    return method
