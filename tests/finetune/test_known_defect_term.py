"""A few known defects in the objective: the hinge, what is usual, and that it counts once."""

import numpy as np
import pytest
import torch

from anomaly_ft.finetune.methods.known_defects import MARGIN, known_defects, usual_deviation
from anomaly_ft.model.inference import level_distances, pooled_features

NOTHING = torch.zeros(0)


def test_what_is_usual_are_mean_and_sample_deviation_at_each_level() -> None:
    mean, spread = usual_deviation(np.array([[1.0, 10.0], [3.0, 14.0]]))
    assert mean.tolist() == [2, 12]
    assert spread.tolist() == pytest.approx([2**0.5, 8**0.5])


@pytest.mark.parametrize(
    ("distances", "why"), [([[1.0, 2.0]], "expected 2 or more"), ([[1.0, 2.0], [1.0, 3.0]], "lie alike")]
)
def test_too_few_or_equal_images_do_not_say_what_is_usual(distances: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        usual_deviation(np.array(distances))


def test_a_defect_loses_what_it_lacks_of_the_margin(detector, make_textures, compute) -> None:
    pixels = make_textures(3, 32, 5)
    distances = level_distances(detector, pooled_features(detector.encoder, pixels, compute), compute)
    shares = detector.level_weights.double().numpy()
    usual = distances.mean(0) - 1, np.ones(2)
    each = [max(0, 2 - float(((d - usual[0]) / usual[1]) @ shares)) for d in distances]
    term = known_defects(detector, compute.batch(pixels), usual, margin=2)
    assert term([], NOTHING).item() == pytest.approx(np.mean(each), rel=1e-3)


def test_a_defect_that_is_far_enough_loses_nothing_and_moves_nothing(detector, make_textures, compute) -> None:
    term = known_defects(detector, compute.batch(make_textures(2, 32, 5)), (np.zeros(2), np.full(2, 1e-6)))
    loss = term([], NOTHING)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in detector.encoder.parameters())


def test_without_known_defects_there_is_no_term(method) -> None:
    assert not method.objective().terms


def test_however_a_batch_is_divided_known_defects_count_once(method, make_textures) -> None:
    images = method.compute.batch(make_textures(6, 32, 3))
    alone = method.objective()(images).item()
    method.defects = make_textures(2, 32, 1)[:2]  # as near as training images
    objective = method.objective()
    added = objective(images).item() - alone
    assert 0 < added < 20 * MARGIN
    parts = [(objective(part) * len(part) / 6).item() for part in (images[:4], images[4:])]
    assert sum(parts) == pytest.approx(alone + added, rel=1e-4)


def test_steps_push_known_defects_away_and_leave_batch_norms_alone(method, make_textures) -> None:
    method.defects = make_textures(2, 32, 1)[:2]
    objective, images = method.objective(), method.compute.batch(make_textures(6, 32, 3))
    before = {n: b.clone() for n, b in method.encoder.model.named_buffers()}
    (term,) = objective.terms
    first = term([], images).item()
    optimizer = torch.optim.SGD(method.encoder.parameters(), lr=1e-4)
    for _ in range(5):
        optimizer.zero_grad()
        term([], images).backward()
        optimizer.step()
    assert term([], images).item() < first
    assert all(torch.equal(before[n], b) for n, b in method.encoder.model.named_buffers())
