"""What tells, in a prepared run, whether the encoder forgets: the pretrained encoder's detector,
pseudo-anomalies of held-out normal images, and what is measured of the encoder as it is now."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.finetune.drift import effective_rank, linear_cka
from anomaly_ft.finetune.records import PseudoSet, Validation
from anomaly_ft.finetune.validation import calibrate, fixed, level_informativeness, validate
from anomaly_ft.metrics import Floats
from anomaly_ft.model.gaussian.detector import Detector
from anomaly_ft.model.gaussian.fitting import average_detectors, fit_detector, fit_gaussians, standardise
from anomaly_ft.model.inference import level_distances, pooled_features, score_images, scores_and_features
from anomaly_ft.run.setup import Setup

FINALS = ("induced", "refitted", "averaged")
DRIFT_IMAGES = 128  # watched on so many images at most
Features = list[NDArray[np.float32]]  # `(n, d)` of each level


@dataclass
class Watchdog:
    """What tells whether the encoder forgets.

    Attributes:
        induced: detector of the pretrained encoder; its encoder trains, its Gaussians stay.
        sets: pseudo-anomalies of held-out normal images.
        features: of held-out normal images before training.
        observe: is shown the detector of each validation; what it does has no say in anything.
    """

    setup: Setup
    induced: Detector
    sets: dict[str, PseudoSet]
    features: Features
    observe: Callable[[Detector], None] = lambda detector: None

    def validate(self) -> Validation:
        """Measure the encoder as it is now."""
        kind = self.setup.recipe.gaussian.final
        return self.validate_as("refitted" if kind == "validated" else kind)

    def validate_as(self, kind: str) -> Validation:
        """Measure it with Gaussians of one of the `FINALS`. Each normal image is seen once: scores of held-out
        ones are the scale and half of the comparison, and drift is told from features made on the way."""
        setup = self.setup
        detector, trained = unscaled(setup, self.induced, kind, keep=DRIFT_IMAGES)
        watch = setup.normals("watch")
        normal, held_out = scores_and_features(detector, watch, setup.compute, keep=DRIFT_IMAGES)
        standardise(detector, normal)
        self.observe(detector)
        sets = {
            name: replace(pseudo, pixels=setup.keep(f"pseudo {name}", pseudo.pixels))
            for name, pseudo in self.sets.items()
            if pseudo.informative
        }
        found = validate(watched_with(setup, detector), watched_parts(setup, normal), sets)
        return replace(found, watched=self._drift(detector, trained, held_out))

    def _drift(self, detector: Detector, trained: Features, held_out: Features) -> dict[str, float]:
        """Numbers to look at: similarity to the pretrained features, rank, and distances of images that
        were and that were not trained on."""
        setup, numbers = self.setup, {}
        for level, before, after in zip(setup.encoder.levels, self.features, held_out, strict=True):
            numbers[f"drift/cka.{level}"] = linear_cka(before[: len(after)], after)
            numbers[f"drift/effective_rank.{level}"] = effective_rank(after)
        shares = detector.level_weights.cpu().numpy()
        for name, features in (("train", trained), ("held_out", held_out)):
            distances = level_distances(detector, features, setup.compute)
            numbers[f"val/{name}_distance"] = float((distances @ shares).mean())
        return numbers


def passes(setup: Setup, sets: Mapping[str, PseudoSet]) -> int:
    """Images that one validation gives to the encoder."""
    split, induced = setup.data.split, setup.recipe.gaussian.final == "induced"
    trained = min(len(split.fit), DRIFT_IMAGES) if induced else len(split.fit)
    return trained + len(split.watch) * (1 + sum(pseudo.informative for pseudo in sets.values()))


def watchdog(setup: Setup) -> Watchdog:
    """Fit the pretrained encoder's detector, and make pseudo-anomalies that it finds neither easy nor
    impossible; to be called before the encoder has changed."""
    induced = fit(setup)
    with setup.phase("calibrate"):
        sets = pseudo_sets(setup, induced)
        if setup.recipe.gaussian.level_weights == "informative":
            induced = weigh_levels(setup, induced, sets)
        features = pooled_features(setup.encoder, setup.normals("watch")[:DRIFT_IMAGES], setup.compute)
    return Watchdog(setup, induced, sets, features)


def fit(setup: Setup) -> Detector:
    """The detector of the encoder as it is now."""
    settings = setup.detector_settings()
    return fit_detector(setup.encoder, setup.normals("fit"), setup.normals("watch"), setup.compute, settings)


def unscaled(setup: Setup, induced: Detector, kind: str, keep: int = 0) -> tuple[Detector, Features]:
    """The detector that the encoder, as it is now, makes with Gaussians of one of the `FINALS`, levels weighed
    as in the induced one, to be standardised; and features of the first `keep` images that it trains on."""
    images, encoder, compute = setup.normals("fit"), setup.encoder, setup.compute
    if kind == "induced":
        return induced, pooled_features(encoder, images[:keep], compute) if keep else []
    refitted, seen = fit_gaussians(encoder, images, compute, induced.settings, keep)
    return refitted if kind == "refitted" else average_detectors(induced, refitted), seen


def current(setup: Setup, induced: Detector, kind: str) -> Detector:
    """The detector that the encoder, as it is now, makes with Gaussians of one of the `FINALS`."""
    detector, _ = unscaled(setup, induced, kind)
    standardise(detector, score_images(detector, setup.normals("watch"), setup.compute))
    return detector


def watched_parts(setup: Setup, scores: Mapping[str, Floats]) -> Floats:
    """Of an image's scores those that validation looks at: the one that decides, of the fused one both parts;
    `(n, parts)`."""
    score = setup.recipe.gaussian.score
    names = ("pooled", "dense") if score == "fused" else (score,)  # one may forget while the sum hides it
    return np.stack([scores[name] for name in names], axis=1)


def watched_with(setup: Setup, detector: Detector) -> Callable[[Pixels], Floats]:
    """What vicinal validation looks at, of images."""
    return lambda pixels: watched_parts(setup, score_images(detector, pixels, setup.compute))


def pseudo_sets(setup: Setup, frozen: Detector) -> dict[str, PseudoSet]:
    section, seed = setup.recipe.validation, setup.recipe.seed
    watch, score = setup.data.normals("watch"), watched_with(setup, frozen)
    keep = setup.data.cache == "memory"
    if not isinstance(section.severity, str):
        return fixed(score, watch, section.augmentations, severity=section.severity, seed=seed, keep=keep)
    sets = calibrate(
        score,
        watch,
        section.augmentations,
        target=section.target_auroc,
        tolerance=section.tolerance,
        seed=seed,
        keep=keep,
    )
    for name, pseudo in sets.items():
        said = "" if pseudo.informative else ", too far from the target to have a say"
        setup.terminal.say(
            f"watching {name} at severity {pseudo.severity:.3f}: "
            f"vicinal AUROC {pseudo.baseline_auroc:.3f} before training{said}"
        )
    return sets


def weigh_levels(setup: Setup, detector: Detector, sets: dict[str, PseudoSet]) -> Detector:
    """The same Gaussians, each level counting for as much as it tells apart before training."""

    def distances(pixels: Pixels) -> Floats:
        features = pooled_features(setup.encoder, pixels, setup.compute)
        return level_distances(detector, features, setup.compute)

    weights = level_informativeness(distances, setup.data.normals("watch").pixels, sets)
    said = ", ".join(f"{name} {w:.2f}" for name, w in zip(setup.encoder.levels, weights, strict=True))
    setup.terminal.say(f"levels count for {said}")
    weighed = detector.with_level_weights(weights.tolist())
    standardise(weighed, score_images(weighed, setup.normals("watch"), setup.compute))
    return weighed


def choose_final(setup: Setup, watchdog: Watchdog) -> str:
    """The kind of Gaussians that the recipe fixes, or the one with which validation goes best."""
    final = setup.recipe.gaussian.final
    if final != "validated":
        return final
    found = {kind: watchdog.validate_as(kind).auroc for kind in FINALS}
    best = max(found, key=lambda kind: found[kind])
    said = ", ".join(f"{kind} {auroc:.4f}" for kind, auroc in found.items())
    setup.terminal.say(f"vicinal AUROC by Gaussians: {said}; {best} ones are kept")
    return best
