"""Parity finds what it is there to find: compared with exports that are made wrong on purpose."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.deploy.parity import Parity, compare, in_batches, reference
from anomaly_ft.model.loading import LoadedRun, load_run


@pytest.fixture(scope="module")
def run(small_run: Path) -> LoadedRun:
    return load_run(small_run, device="cpu", precision="fp32", channels_last=False)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 255, (13, 64, 64, 3), dtype=np.uint8))


def changed(
    run: LoadedRun, images: Sequence[Pixels], factor: float = 1.0, *, what: int = 0, flip: bool = False
) -> Parity:
    """Parity of an export that multiplies one output of the detector, or flips all decisions."""

    def computes(pixels: Pixels) -> list[Tensor]:
        answer = reference(run, pixels)
        answer[what] = ~answer[what] if flip else answer[what] * factor
        return answer

    return compare(run, computes, in_batches(images), gives_levels=False, tolerance=1e-3)


def test_the_detector_agrees_with_itself(run: LoadedRun, images: list[Pixels]) -> None:
    parity = changed(run, images)
    assert parity.passed
    assert parity.images == 13
    assert parity.score.max == parity.map.max == parity.decisions_changed == 0


def test_the_reference_is_the_detectors_own_forward(run: LoadedRun, images: list[Pixels]) -> None:
    pixels = np.stack(images)
    score, large, decision = reference(run, pixels)
    with torch.inference_mode():
        found = run.detector(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert torch.allclose(score.float(), found.scores)
    assert torch.allclose(large, found.maps, atol=1e-5)
    assert torch.equal(decision, found.scores > run.detector.threshold)


def test_differences_are_absolute_and_relative(run: LoadedRun, images: list[Pixels]) -> None:
    parity = changed(run, images, 1 + 5e-4)
    scores = np.concatenate([reference(run, pixels)[0].numpy() for pixels in in_batches(images)])
    assert parity.passed
    assert parity.score.max == pytest.approx(5e-4 * np.abs(scores).max())
    assert parity.score.median == pytest.approx(5e-4 * np.median(np.abs(scores)))
    assert parity.score.max_relative == pytest.approx(5e-4)  # all scores are above the threshold
    assert parity.map.max == 0


@pytest.mark.parametrize("what", [0, 1])
@pytest.mark.parametrize("factor", [1.002, 0.998, float("nan")])
def test_scores_and_maps_that_differ_too_much_do_not_pass(
    what: int, factor: float, run: LoadedRun, images: list[Pixels]
) -> None:
    assert not changed(run, images, factor, what=what).passed


def test_a_score_near_zero_is_measured_against_the_threshold(run: LoadedRun, images: list[Pixels]) -> None:
    def computes(pixels: Pixels) -> list[Tensor]:
        score, large, decision = reference(run, pixels)
        return [score + 5e-4 * run.point.threshold, large, decision]

    parity = compare(run, computes, in_batches(images), gives_levels=False, tolerance=1e-3)
    scores = reference(run, np.stack(images))[0].abs()
    expected = (5e-4 * run.point.threshold / scores.clamp_min(run.point.threshold)).max()
    assert parity.score.max_relative == pytest.approx(float(expected), rel=1e-4)


def test_a_decision_that_changes_away_from_the_threshold_does_not_pass(
    run: LoadedRun, images: list[Pixels]
) -> None:
    parity = changed(run, images, what=2, flip=True)
    assert parity.decisions_changed == parity.decisions_changed_outside_band == 13
    assert not parity.passed
    assert "13 decisions changed, 13 of them away from the threshold" in str(parity)


def test_a_decision_may_change_where_the_score_is_at_the_threshold(
    images: list[Pixels], small_run: Path
) -> None:
    run = load_run(small_run, device="cpu", precision="fp32", channels_last=False)
    at = float(reference(run, np.stack(images[:1]))[0][0])
    run = LoadedRun(run.folder, run.detector, type(run.point)(at, 0.01, 0.2, 4), run.compute, run.decoder)
    parity = changed(run, images[:1], what=2, flip=True)
    assert parity.decisions_changed == 1
    assert parity.decisions_changed_outside_band == 0
    assert parity.passed
    assert parity.band == pytest.approx((at * 0.999, at * 1.001))


@pytest.mark.parametrize(("factor", "passes"), [(1.0, True), (1.01, False)])
def test_a_bare_encoder_is_judged_by_its_levels(
    factor: float, passes: bool, run: LoadedRun, images: list[Pixels]
) -> None:
    def computes(pixels: Pixels) -> list[Tensor]:
        first, *others = run.detector.encoder(run.compute.batch(pixels))
        return [first, *(factor * level for level in others)]

    parity = compare(run, computes, in_batches(images), gives_levels=True, tolerance=1e-3)
    assert parity.levels is not None
    assert parity.levels.max_relative == pytest.approx(abs(factor - 1), abs=1e-6)
    assert parity.passed is passes


def test_the_reference_is_what_predict_says(run: LoadedRun, images: list[Pixels], small_run: Path) -> None:
    own = load_run(small_run, device="cpu", precision="bf16")
    parity = compare(
        run,
        lambda pixels: reference(run, pixels),
        in_batches(images),
        gives_levels=False,
        tolerance=1e-3,
        predicting=own,
    )
    assert parity.passed, "training precision makes no other prediction"
    with torch.no_grad():  # another detector predicts than the one that was exported
        for parameter in own.detector.encoder.parameters():
            parameter.mul_(1.1)
    own_scores, ours = (np.concatenate([reference(r, p)[0] for p in in_batches(images)]) for r in (own, run))
    parity = compare(
        run,
        lambda pixels: reference(run, pixels),
        in_batches(images),
        gives_levels=False,
        tolerance=1e-3,
        predicting=own,
    )
    assert parity.score.max == pytest.approx(np.abs(own_scores - ours).max())
    assert not parity.passed


def test_what_is_written_is_json(run: LoadedRun, images: list[Pixels]) -> None:
    written = json.loads(json.dumps(changed(run, images).to_json(), allow_nan=False))
    assert written["passed"] is True
    assert written["tolerance"] == 1e-3
    assert written["levels"] is None


def test_batches_come_in_several_sizes(images: list[Pixels]) -> None:
    assert [len(batch) for batch in in_batches(images)] == [1, 3, 8, 1]
