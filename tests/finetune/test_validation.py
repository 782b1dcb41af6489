from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pseudo_anomalies import pseudo_anomalies
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DivergedError
from anomaly_ft.finetune.records import PseudoSet
from anomaly_ft.finetune.validation import HeldOut, calibrate, fixed, validate


@pytest.fixture(scope="module")
def normals(make_textures: Callable[[int, int, int], np.ndarray]) -> Images:
    records = [Record(Path(), f"train/good/{i}.png", "train") for i in range(40)]
    return Images(make_textures(40, 48, 9), tuple(records))


def deviation(pixels: np.ndarray) -> np.ndarray:
    """A simple score: mean absolute deviation of an image's pixels from the dullest grey."""
    return np.abs(pixels.astype(float) - 128).mean((1, 2, 3))


def held_out(normals: Images) -> HeldOut:
    return HeldOut(normals, deviation(normals.pixels), deviation, seed=0)


def set_of(scores: np.ndarray, *, informative: bool = True) -> PseudoSet:
    """A pseudo set whose "images" are their own scores."""
    return PseudoSet(scores, 0.5, 0.8, informative)


def as_is(scores: np.ndarray) -> np.ndarray:
    return scores


def normal_scores(n: int = 50, seed: int = 0) -> tuple[np.ndarray, dict[str, PseudoSet]]:
    """Pseudo-anomalies depend on the image they are made from, as real ones do."""
    rng = np.random.default_rng(seed)
    normal = rng.normal(0, 1, n)
    sets = {
        name: set_of(0.7 * normal + shift + rng.normal(0, 0.7, n)) for name, shift in (("a", 0.5), ("b", 1.0))
    }
    return normal, sets


def test_the_auroc_is_the_mean_over_augmentations_of_scikit_learns() -> None:
    normal, sets = normal_scores()
    validation = validate(as_is, normal, sets)
    labels = np.r_[np.zeros(50), np.ones(50)]
    expected = {name: roc_auc_score(labels, np.r_[normal, s.pixels]) for name, s in sets.items()}
    assert validation.by_augmentation == pytest.approx(expected)
    assert validation.auroc == pytest.approx(np.mean(list(expected.values())))
    assert validation.normal_score_mean == pytest.approx(normal.mean())


def test_an_augmentation_that_is_not_informative_is_reported_but_has_no_say() -> None:
    normal, sets = normal_scores()
    silent = {**sets, "confetti": set_of(normal + 100, informative=False)}
    with_it, without = validate(as_is, normal, silent), validate(as_is, normal, sets)
    assert with_it.by_augmentation["confetti"] == 1.0
    assert with_it.auroc == without.auroc
    assert np.array_equal(with_it.influence, without.influence)


def test_influences_have_mean_zero_and_the_spread_that_a_bootstrap_over_images_finds() -> None:
    normal, sets = normal_scores(n=80)
    validation = validate(as_is, normal, sets)
    assert validation.influence.shape == (80,)
    assert validation.influence.mean() == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(1)

    def again(sets: Mapping[str, PseudoSet]) -> float:
        drawn = rng.integers(0, 80, 80)  # an image and its own pseudo-anomalies stay together
        resampled = {name: set_of(pseudo.pixels[drawn]) for name, pseudo in sets.items()}
        return validate(as_is, normal[drawn], resampled).auroc

    bootstrap = np.std([again(sets) for _ in range(2000)], ddof=1)
    assert validation.influence.std(ddof=1) / np.sqrt(80) == pytest.approx(bootstrap, rel=0.08)


def test_varied_copies_stand_among_the_normals_and_count_as_one_with_their_image() -> None:
    normal, sets = normal_scores(n=60)
    rng = np.random.default_rng(5)
    varied = normal + rng.normal(0.3, 0.3, 60)
    validation = validate(as_is, np.r_[normal, varied], sets)
    labels = np.r_[np.zeros(120), np.ones(60)]
    for name, pseudo in sets.items():
        expected = roc_auc_score(labels, np.r_[normal, varied, pseudo.pixels])
        assert validation.by_augmentation[name] == pytest.approx(expected)
    assert validation.influence.shape == (60,)
    assert validation.influence.mean() == pytest.approx(0, abs=1e-12)

    def again() -> float:
        drawn = rng.integers(0, 60, 60)
        resampled = {name: set_of(pseudo.pixels[drawn]) for name, pseudo in sets.items()}
        return validate(as_is, np.r_[normal[drawn], varied[drawn]], resampled).auroc

    bootstrap = np.std([again() for _ in range(2000)], ddof=1)
    assert validation.influence.std(ddof=1) / np.sqrt(60) == pytest.approx(bootstrap, rel=0.1)


def test_scores_that_are_not_finite_have_diverged() -> None:
    normal, sets = normal_scores()
    normal[3] = np.nan
    with pytest.raises(DivergedError, match="1 of 50 scores are not finite"):
        validate(as_is, normal, sets)


def test_calibration_reaches_the_target(normals: Images) -> None:
    sets = calibrate(held_out(normals), ["cutout", "confetti"], target=0.7, tolerance=0.06)
    labels = np.r_[np.zeros(40), np.ones(40)]
    for name, pseudo in sets.items():
        assert pseudo.informative
        assert 0 < pseudo.severity < 1
        names = [record.name for record in normals.records]
        made = pseudo_anomalies(normals.pixels, names, name, pseudo.severity, seed=0)
        assert np.array_equal(pseudo.pixels, made)
        auroc = roc_auc_score(labels, np.r_[deviation(normals.pixels), deviation(made)])
        assert pseudo.baseline_auroc == pytest.approx(auroc)
        assert auroc == pytest.approx(0.7, abs=0.06)


def test_severities_are_searched_on_some_images_and_measured_on_all(
    make_textures: Callable[[int, int, int], np.ndarray],
) -> None:
    records = tuple(Record(Path(), f"train/good/{i}.png", "train") for i in range(150))
    many, scored = Images(make_textures(150, 16, 9), records), []

    def score(pixels: np.ndarray) -> np.ndarray:
        scored.append(len(pixels))
        return deviation(pixels)

    clean = deviation(many.pixels)
    normals = HeldOut(many, np.r_[clean, clean + 1], score, seed=0)
    assert np.array_equal(normals.first(3).normal, np.r_[clean[:3], clean[:3] + 1])
    pseudo = calibrate(normals, ["cutout"], target=0.7, tolerance=0.1)["cutout"]
    assert scored[-1] == len(pseudo.pixels) == 150
    assert set(scored[:-1]) == {64}
    assert pseudo.baseline_auroc == pytest.approx(
        roc_auc_score(np.r_[np.zeros(300), np.ones(150)], np.r_[normals.normal, deviation(pseudo.pixels)])
    )


def test_calibration_leaves_out_an_augmentation_that_cannot_reach_the_target(normals: Images) -> None:
    """Mixing images makes them duller: this score takes them for more normal than normal ones."""
    sets = calibrate(held_out(normals), ["mixup", "cutout"], target=0.7, tolerance=0.06)
    assert {name: pseudo.informative for name, pseudo in sets.items()} == {"mixup": False, "cutout": True}
    assert sets["mixup"].severity == 1.0
    assert sets["mixup"].baseline_auroc < 0.5


def test_when_none_reaches_the_target_the_nearest_speaks(normals: Images) -> None:
    sets = calibrate(held_out(normals), ["mixup", "cutpaste", "scar"], target=0.95, tolerance=0.01)
    nearest = min(sets, key=lambda name: abs(sets[name].baseline_auroc - 0.95))
    assert [name for name, pseudo in sets.items() if pseudo.informative] == [nearest]


def test_a_fixed_severity_gives_all_augmentations_a_say(normals: Images) -> None:
    sets = fixed(held_out(normals), ["mixup", "scar"], severity=0.3)
    assert [(s.severity, s.informative) for s in sets.values()] == [(0.3, True)] * 2
    assert validate(deviation, deviation(normals.pixels), sets).by_augmentation == pytest.approx(
        {name: pseudo.baseline_auroc for name, pseudo in sets.items()}
    )


def test_at_severity_zero_nothing_is_told_apart(normals: Images) -> None:
    sets = fixed(held_out(normals), ["cutout", "scar"], severity=0.0)
    validation = validate(deviation, deviation(normals.pixels), sets)
    assert validation.auroc == 0.5
    assert np.allclose(validation.influence, 0)
