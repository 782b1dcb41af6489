from collections.abc import Callable

import numpy as np
import pytest
import torch

from anomaly_ft.finetune.methods.gaussian_objective import InducedDistance
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.detector import GaussianDetector

Textures = Callable[[int, int, int], np.ndarray]


@pytest.mark.parametrize(("name", "power"), [("mahalanobis", 0.5), ("squared_mahalanobis", 1.0)])
def test_the_loss_is_the_mean_distance_over_images_and_levels(
    name: str, power: float, detector: GaussianDetector, make_textures: Textures, compute: Compute
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
    detector: GaussianDetector, make_textures: Textures, compute: Compute
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


def test_levels_count_by_their_weights(
    detector: GaussianDetector, make_textures: Textures, compute: Compute
) -> None:
    images = compute.batch(make_textures(5, 32, 3))
    with torch.no_grad():
        distances = detector.level_distances(pool(detector.encoder(images))).numpy()
        detector.level_weights.copy_(torch.tensor([0.25, 0.75]))
        loss = InducedDistance(detector)(images).item()
    assert loss == pytest.approx(np.average(distances.mean(0), weights=[1, 3]), rel=1e-5)


def test_the_dense_objective_is_the_mean_distance_over_positions_and_the_joint_one_the_mean_of_both(
    detector: GaussianDetector, make_textures: Textures, compute: Compute
) -> None:
    images = compute.batch(make_textures(5, 32, 3))
    with torch.no_grad():
        features = detector.dense_features(detector.encoder(images)).double().numpy()
        pooled, dense, joint = (
            InducedDistance(detector, "mahalanobis", target)(images).item()
            for target in ("pooled", "dense", "joint")
        )
    distances = []
    for position in range(features.shape[1]):
        mean, whitening = (
            b[position].double().numpy() for b in (detector.dense_mean, detector.dense_whitening)
        )
        distances += [np.linalg.norm(whitening @ (x - mean)) for x in features[:, position]]
    assert dense == pytest.approx(np.mean(distances), rel=1e-4)
    assert joint == pytest.approx((pooled + dense) / 2, rel=1e-5)


def test_an_image_that_lies_on_the_mean_has_a_gradient_that_is_a_number(
    detector: GaussianDetector, compute: Compute
) -> None:
    images = compute.batch(np.full((1, 32, 32, 3), 90, np.uint8))
    with torch.no_grad():
        for i, level in enumerate(pool(detector.encoder(images))):
            detector.get_buffer(f"mean_{i}").copy_(level[0])
    InducedDistance(detector)(images).backward()
    gradients = [p.grad for p in detector.encoder.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("target", ["pooled", "dense", "joint"])
@pytest.mark.parametrize("distance", ["mahalanobis", "squared_mahalanobis"])
def test_the_farthest_images_of_a_batch_are_left_out_of_its_distance_and_not_of_penalties(
    distance: str, target: str, detector: GaussianDetector, make_textures: Textures, compute: Compute
) -> None:
    images = compute.batch(make_textures(10, 32, 3))
    one = InducedDistance(detector, distance, target)  # type: ignore[arg-type]
    with torch.no_grad():
        each = [one(images[i : i + 1]).item() for i in range(10)]
    trimmed = InducedDistance(
        detector, distance, target, {lambda _features, images, _maps: images.float().mean(): 0.5}
    )  # type: ignore[arg-type]
    trimmed.left_out = 0.2
    loss = trimmed(images)
    expected = np.mean(sorted(each)[:8]) + 0.5 * images.float().mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert loss.requires_grad


def test_an_image_nearer_than_the_floor_counts_as_if_it_were_there_and_is_not_pulled(
    detector: GaussianDetector, make_textures: Textures, compute: Compute
) -> None:
    images = compute.batch(make_textures(6, 32, 3))
    with torch.no_grad():
        distances = detector.level_distances(pool(detector.encoder(images))).numpy()
    floor = np.median(distances, axis=0)
    objective = InducedDistance(detector, floor=torch.from_numpy(floor**2))
    expected = [max(d, f) for row in distances for d, f in zip(row, floor, strict=True)]
    assert objective(images).item() == pytest.approx(np.mean(expected), rel=1e-5)
    near = [i for i, row in enumerate(distances) if (row < floor).all()]
    assert near
    objective(images[near]).backward()
    assert all(not p.grad.any() for p in detector.encoder.parameters() if p.grad is not None)
    far = [i for i, row in enumerate(distances) if (row > floor).all()]
    objective(images[far]).backward()
    assert any(p.grad.any() for p in detector.encoder.parameters() if p.grad is not None)


def test_a_floor_is_stored_with_the_objective_and_none_stores_nothing(detector: GaussianDetector) -> None:
    floor = torch.tensor([2.0, 3.0])
    stored = InducedDistance(detector, floor=floor).state_dict()
    assert torch.equal(stored["floor"], floor)
    assert "floor" not in InducedDistance(detector).state_dict()
    with pytest.raises(RuntimeError, match="floor"):  # of a run that was begun without one
        InducedDistance(detector, floor=floor).load_state_dict(InducedDistance(detector).state_dict())
