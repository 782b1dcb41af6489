from collections.abc import Callable

import numpy as np
import pytest
import torch

from anomaly_ft.finetune.objective import InducedDistance
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.detector import Detector, DetectorSettings
from anomaly_ft.model.encoder import load_encoder, pool
from anomaly_ft.model.fitting import fit_detector

Textures = Callable[[int, int, int], np.ndarray]


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32")


@pytest.fixture
def detector(make_textures: Textures, compute: Compute) -> Detector:
    torch.manual_seed(0)
    encoder = load_encoder("test_efficientnet", "random", levels=[1, 3], image_size=32)
    settings = DetectorSettings(grid=4, dense_levels=[0])
    return fit_detector(encoder, make_textures(20, 32, 1), make_textures(6, 32, 2), compute, settings)


@pytest.mark.parametrize(("name", "power"), [("mahalanobis", 0.5), ("squared_mahalanobis", 1.0)])
def test_the_loss_is_the_mean_distance_over_images_and_levels(
    name: str, power: float, detector: Detector, make_textures: Textures, compute: Compute
) -> None:
    images = compute.batch(make_textures(5, 32, 3))
    with torch.no_grad():
        features = [f.double().numpy() for f in pool(detector.encoder(images))]
        loss = InducedDistance(detector, name)(images).item()  # type: ignore[arg-type]
    expected = []
    for i, level in enumerate(features):
        mean, whitening = (
            detector.get_buffer(f"{part}_{i}").double().numpy() for part in ("mean", "whitening")
        )
        precision = whitening.T @ whitening
        expected += [((x - mean) @ precision @ (x - mean)) ** power for x in level]
    assert len(expected) == 10
    assert loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_a_step_lowers_the_loss_and_moves_the_encoder_alone(
    detector: Detector, make_textures: Textures, compute: Compute
) -> None:
    objective, images = InducedDistance(detector), compute.batch(make_textures(16, 32, 4))
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    optimizer = torch.optim.SGD(objective.parameters(), lr=1e-5)
    first = objective(images)
    first.backward()
    optimizer.step()
    assert objective(images).item() < first.item()
    after = detector.state_dict()
    moved = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert moved
    assert moved <= {f"encoder.{name}" for name, _ in detector.encoder.named_parameters()}
