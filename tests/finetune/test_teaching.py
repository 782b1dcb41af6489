"""A larger encoder that teaches the one that trains."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from anomaly_ft.errors import GaussianError
from anomaly_ft.finetune.methods.gaussian_objective import InducedDistance
from anomaly_ft.finetune.teaching import fit_guess, taught
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.adapters import Backbone
from anomaly_ft.model.encoder.encoder import load_encoder, pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.teacher import Teacher

Textures = Callable[[int, int, int], np.ndarray]


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(7)
    encoder = load_encoder("test_vit", "random", image_size=48)
    return Teacher(encoder.requires_grad_(requires_grad=False), [1, 2], Backbone("test_vit", "random", "ab"))


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_guess_is_the_regression_that_shrunk_covariances_give(detector: GaussianDetector) -> None:
    x = draw(30, 9, 5, seed=1)
    y = x[..., :3] @ draw(3, 4, seed=2) + 0.5 * draw(30, 9, 4, seed=3)
    missed = fit_guess(x, y, detector).missed(x, y).item()
    xs, ys = x.flatten(0, 1).double().numpy(), y.flatten(0, 1).double().numpy()
    own, theirs = LedoitWolf().fit(xs), LedoitWolf().fit(ys)
    metric = theirs.covariance_ + detector.settings.variance_floor * np.var(ys, axis=0).mean() * np.eye(4)
    centred = xs - xs.mean(0)
    cross = (ys - ys.mean(0)).T @ centred / len(xs)
    rest = ys - ys.mean(0) - centred @ np.linalg.inv(own.covariance_) @ cross.T
    expected = np.mean(np.einsum("ni,ij,nj->n", rest, np.linalg.inv(metric), rest)) / 4
    assert missed == pytest.approx(expected, rel=1e-4)


def test_what_follows_is_guessed_and_what_has_nothing_to_do_with_it_is_not(detector: GaussianDetector) -> None:
    x = draw(100, 9, 5, seed=1)
    follows, other = x @ draw(5, 4, seed=2), draw(100, 9, 4, seed=3)
    assert fit_guess(x, follows, detector).missed(x, follows) < 0.01
    assert 0.9 < fit_guess(x, other, detector).missed(x, other) < 1.1


def test_features_of_a_teacher_that_never_vary_teach_nothing(detector: GaussianDetector) -> None:
    with pytest.raises(GaussianError, match=r"objective\.teacher: its features: .* are the same"):
        fit_guess(draw(30, 9, 5, seed=1), torch.ones(30, 9, 4), detector)


def test_a_teacher_sees_images_of_its_own_size_on_the_grid_of_the_student(
    teacher: Teacher, make_textures: Textures, compute: Compute
) -> None:
    grey = compute.batch(np.full((2, 32, 32, 3), 90, np.uint8))
    same = compute.batch(np.full((2, 48, 48, 3), 90, np.uint8))
    features = teacher.features(grey, (4, 4), 256)
    assert features.shape == (2, 16, 128)  # two levels of 64
    torch.testing.assert_close(features, teacher.features(same, (4, 4), 256))
    assert teacher.features(grey, (4, 4), 10).shape == (2, 16, 10)


def test_training_brings_back_features_that_no_longer_tell_the_teachers(
    detector: GaussianDetector, teacher: Teacher, make_textures: Textures, compute: Compute
) -> None:
    pixels = make_textures(16, 32, 4)
    before = {name: value.clone() for name, value in teacher.encoder.state_dict().items()}
    term, images = taught(detector, teacher, pixels, compute), compute.batch(pixels)

    def missed() -> torch.Tensor:
        maps = detector.encoder(images)
        return term(pool(maps), images, maps)

    start = missed().item()
    with torch.no_grad():
        for parameter in detector.encoder.parameters():
            parameter.mul_(1.1)
    optimizer, moved = torch.optim.Adam(detector.encoder.parameters(), lr=1e-3), missed().item()
    for _ in range(20):
        optimizer.zero_grad()
        missed().backward()
        optimizer.step()
    assert 0 < start < moved
    assert missed().item() < moved - 0.5 * (moved - start)
    assert all(torch.equal(before[name], value) for name, value in teacher.encoder.state_dict().items())


def test_nothing_of_a_teacher_is_in_what_a_checkpoint_stores(
    detector: GaussianDetector, teacher: Teacher, make_textures: Textures, compute: Compute
) -> None:
    term = taught(detector, teacher, make_textures(16, 32, 4), compute)
    assert InducedDistance(detector, terms={term: 1.0}).state_dict().keys() == (
        InducedDistance(detector).state_dict().keys()
    )


def test_the_same_images_give_the_same_guess_to_the_bit(
    detector: GaussianDetector, teacher: Teacher, make_textures: Textures, compute: Compute
) -> None:
    pixels, values = make_textures(16, 32, 4), []
    images = compute.batch(make_textures(5, 32, 5))
    for _ in range(2):
        term = taught(detector, teacher, pixels, compute)
        maps = detector.encoder(images)
        values.append(term(pool(maps), images, maps).item())
    assert values[0] == values[1]
