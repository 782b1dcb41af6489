import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_ft.finetune.brakes.penalties import distillation, l2_sp
from anomaly_ft.finetune.methods.gaussian_objective import InducedDistance
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.detector import GaussianDetector

Textures = Callable[[int, int, int], np.ndarray]
NOTHING = torch.zeros(0)


def small() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(3, 2)


def move(module: nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by)


def test_l2_sp_is_half_the_squared_way_from_the_start() -> None:
    module = small()
    term = l2_sp(module)
    assert term([], NOTHING).item() == 0
    move(module, 0.5)
    assert term([], NOTHING).item() == pytest.approx(0.5 * 8 * 0.25)  # eight numbers, each 0.5 away


def test_weights_that_do_not_train_are_not_held() -> None:
    module = small()
    module.bias.requires_grad = False
    term = l2_sp(module)
    move(module, 0.5)
    assert term([], NOTHING).item() == pytest.approx(0.5 * 6 * 0.25)


def test_distillation_is_the_way_of_the_features_in_units_of_the_gaussians(
    detector: GaussianDetector, make_textures: Textures, compute: Compute
) -> None:
    term, images = distillation(detector), compute.batch(make_textures(5, 32, 3))
    with torch.no_grad():
        before = pool(detector.encoder(images))
        assert term(before, images).item() == pytest.approx(0, abs=1e-9)
        for parameter in detector.encoder.parameters():
            parameter.mul_(1.02)
        after = pool(detector.encoder(images))
        value = term(after, images).item()
    levels = []
    for i, (now, then) in enumerate(zip(after, before, strict=True)):
        whitening = detector.get_buffer(f"whitening_{i}").double().numpy()
        levels.append(np.mean(((now - then).double().numpy() @ whitening.T) ** 2))
    assert value == pytest.approx(np.mean(levels), rel=1e-3)
    assert value > 0


def test_a_copy_of_an_encoder_keeps_its_own_features(detector: GaussianDetector, compute: Compute) -> None:
    images = compute.batch(np.full((2, 32, 32, 3), 90, np.uint8))
    before = [level.clone() for level in detector.encoder(images)]
    other = copy.deepcopy(detector.encoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    changed = other(images)
    again = detector.encoder(images)
    assert all(torch.equal(a, b) for a, b in zip(before, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, changed, strict=True))


def test_terms_are_added_to_the_distance_by_their_strength(
    detector: GaussianDetector, make_textures: Textures, compute: Compute
) -> None:
    objective, images = InducedDistance(detector), compute.batch(make_textures(5, 32, 3))
    alone = objective(images).item()
    objective.terms = {lambda *_: torch.tensor(3.0): 0.5, lambda *_: torch.tensor(1.0): 2.0}
    assert objective(images).item() == pytest.approx(alone + 3.5, rel=1e-6)


def test_a_strong_penalty_keeps_the_encoder_nearer_to_where_it_was(
    make_textures: Textures, compute: Compute, detector: GaussianDetector
) -> None:
    images = compute.batch(make_textures(16, 32, 4))
    start = copy.deepcopy(detector.encoder.state_dict())
    ways = []
    for strength in (0.0, 100.0):
        detector.encoder.load_state_dict(start)
        objective = InducedDistance(detector)
        objective.terms = {l2_sp(detector.encoder): strength}
        optimizer = torch.optim.SGD(detector.encoder.parameters(), lr=1e-4)
        for _ in range(10):
            optimizer.zero_grad()
            objective(images).backward()
            optimizer.step()
        now = detector.encoder.state_dict()
        ways.append(sum(float((now[k] - v).square().sum()) for k, v in start.items() if v.is_floating_point()))
    assert 0 < ways[1] < ways[0]
