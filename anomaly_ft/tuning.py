"""Fine-tuning as the recipe asks for it: the parts of `finetune`, put together for a prepared run."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from anomaly_ft.data.images import Pixels
from anomaly_ft.finetune.averaging import Weights, interpolate
from anomaly_ft.finetune.drift import effective_rank, linear_cka
from anomaly_ft.finetune.forgetting import Rule
from anomaly_ft.finetune.loop import Keep, fine_tune
from anomaly_ft.finetune.objective import InducedDistance
from anomaly_ft.finetune.penalties import Term, distillation, ewc, fisher_information, l2_sp
from anomaly_ft.finetune.state import EpochRecord, LoopState
from anomaly_ft.finetune.validation import (
    PseudoSet,
    Validation,
    calibrate,
    fixed,
    level_informativeness,
    validate,
)
from anomaly_ft.metrics import Floats
from anomaly_ft.model.detector import Detector
from anomaly_ft.model.examine import level_distances, pooled_features, score_images
from anomaly_ft.model.fitting import average_detectors, fit_detector, standardise
from anomaly_ft.setup import Setup

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
PARTS = {"fused": ("pooled", "dense")}  # training moves both: either may forget while their sum hides it
FINALS = ("induced", "refitted", "averaged")
FISHER_IMAGES = 64  # more change the mean of squared gradients by little
DRIFT_IMAGES = 128  # watched on so many images at most
EPOCH_STEPS = 15  # the encoder should not move further unseen
TRAINING_COST = 6  # a training step costs as much as so many forward passes without gradients; see RESULTS.md


@dataclass
class Watchdog:
    """What tells whether the encoder forgets.

    Attributes:
        induced: detector of the pretrained encoder; its encoder trains, its Gaussians stay.
        sets: pseudo-anomalies of held-out normal images.
        features: of held-out normal images before training, `(n, d)` for each level.
        observe: is shown the detector of each validation; what it does has no say in anything.
    """

    setup: Setup
    induced: Detector
    sets: dict[str, PseudoSet]
    features: list[NDArray[np.float32]]
    observe: Callable[[Detector], None] = lambda detector: None

    def validate(self) -> Validation:
        """Measure the encoder as it is now."""
        setup, kind = self.setup, self.setup.recipe.gaussian.final
        return self.validate_with(current(setup, self.induced, "refitted" if kind == "validated" else kind))

    def validate_with(self, detector: Detector) -> Validation:
        setup = self.setup
        self.observe(detector)
        sets = {
            name: replace(pseudo, pixels=setup.keep(f"pseudo {name}", pseudo.pixels))
            for name, pseudo in self.sets.items()
            if pseudo.informative
        }
        found = validate(watched_with(setup, detector), setup.normals("watch"), sets)
        return replace(found, watched=self._drift(detector))

    def _drift(self, detector: Detector) -> dict[str, float]:
        """Numbers to look at: similarity to the pretrained features, rank, and distances of images that
        were and that were not trained on."""
        setup = self.setup
        now = pooled_features(setup.encoder, setup.normals("watch")[:DRIFT_IMAGES], setup.compute)
        seen = pooled_features(setup.encoder, setup.normals("fit")[:DRIFT_IMAGES], setup.compute)
        numbers = {}
        for level, before, after in zip(setup.encoder.levels, self.features, now, strict=True):
            numbers[f"drift/cka.{level}"] = linear_cka(before, after)
            numbers[f"drift/effective_rank.{level}"] = effective_rank(after)
        shares = detector.level_weights.cpu().numpy()
        for name, features in (("train", seen), ("held_out", now)):
            distances = level_distances(detector, features, setup.compute)
            numbers[f"val/{name}_distance"] = float((distances @ shares).mean())
        return numbers


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


def fit(setup: Setup, like: Detector | None = None) -> Detector:
    """Gaussians of the encoder as it is now, levels weighed as in the detector that is given."""
    settings = like.settings if like else setup.detector_settings()
    return fit_detector(setup.encoder, setup.normals("fit"), setup.normals("watch"), setup.compute, settings)


def current(setup: Setup, induced: Detector, kind: str) -> Detector:
    """The detector that the encoder, as it is now, makes with Gaussians of one of the `FINALS`."""
    if kind != "induced":
        refitted = fit(setup, induced)
        if kind == "refitted":
            return refitted
        induced = average_detectors(induced, refitted)
    standardise(induced, setup.normals("watch"), setup.compute)
    return induced


def watched_with(setup: Setup, detector: Detector) -> Callable[[Pixels], Floats]:
    """What vicinal validation looks at: the score that decides, of the fused one both parts; `(n, parts)`."""
    score = setup.recipe.gaussian.score

    def parts(pixels: Pixels) -> Floats:
        found = score_images(detector, pixels, setup.compute)
        return np.stack([found[part] for part in PARTS.get(score, (score,))], axis=1)

    return parts


def pseudo_sets(setup: Setup, frozen: Detector) -> dict[str, PseudoSet]:
    section, seed = setup.recipe.validation, setup.recipe.seed
    watch, score = setup.data.normals("watch"), watched_with(setup, frozen)
    if not isinstance(section.severity, str):
        return fixed(score, watch, section.augmentations, severity=section.severity, seed=seed)
    sets = calibrate(
        score,
        watch,
        section.augmentations,
        target=section.target_auroc,
        tolerance=section.tolerance,
        seed=seed,
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
    standardise(weighed, setup.normals("watch"), setup.compute)
    return weighed


def loop_state(setup: Setup, induced: Detector) -> LoopState:
    """What trains, before its first step.

    Args:
        setup: the run.
        induced: detector of the pretrained encoder, whose Gaussians training pulls towards.
    """
    recipe, fabric = setup.recipe, setup.compute.fabric
    optimizer = OPTIMIZERS[recipe.optimizer.name](
        setup.encoder.parameter_groups(recipe.optimizer.lr, layer_decay=recipe.optimizer.layer_decay),
        weight_decay=recipe.optimizer.weight_decay,
    )
    distance = InducedDistance(induced, recipe.objective.distance, recipe.objective.target)
    distance.terms = penalties(setup, distance)
    objective, optimizer = fabric.setup(distance, optimizer)
    warmup = round(recipe.schedule.warmup_epochs * steps_of_a_pass(setup))
    scheduler = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return LoopState(objective, optimizer, scheduler, average=recipe.schedule.average)


def penalties(setup: Setup, distance: InducedDistance) -> dict[Term, float]:
    """The penalties that the recipe asks for, each with its strength."""
    section, encoder = setup.recipe.objective, setup.encoder
    terms: dict[Term, float] = {}
    if section.l2_sp:
        terms[l2_sp(encoder)] = section.l2_sp
    if section.ewc:
        some = setup.data.normals("fit").pixels[:FISHER_IMAGES]
        images = (setup.compute.batch(some[i : i + 1]) for i in range(len(some)))
        with setup.compute.fabric.autocast():
            terms[ewc(encoder, fisher_information(distance, encoder, images))] = section.ewc
    if section.distillation:
        terms[distillation(distance.detector)] = section.distillation
    return terms


def steps_of_a_pass(setup: Setup) -> int:
    return math.ceil(len(setup.data.split.fit) / setup.recipe.optimizer.batch_size)


def steps_of_an_epoch(setup: Setup, sets: dict[str, PseudoSet]) -> int:
    """Training steps from one validation to the next. The cost of validation is counted in forward passes,
    not measured, so that a run is the same anywhere."""
    section = setup.recipe.schedule
    if isinstance(section.epoch_steps, int):
        return section.epoch_steps
    wanted = min(steps_of_a_pass(setup), EPOCH_STEPS)
    split, share = setup.data.split, setup.recipe.validation.max_share
    passes = len(split.watch) * (2 + sum(pseudo.informative for pseudo in sets.values()))
    passes += len(split.fit) if setup.recipe.gaussian.final != "induced" else 0
    trained = passes * (1 - share) / share / TRAINING_COST
    affordable = math.ceil(trained / setup.recipe.optimizer.batch_size)
    return min(max(wanted, affordable), section.max_steps)


def rule_of(setup: Setup, sets: dict[str, PseudoSet]) -> Rule:
    schedule = setup.recipe.schedule
    return Rule(
        min(schedule.max_epochs, max(1, schedule.max_steps // steps_of_an_epoch(setup, sets))),
        patience=schedule.patience,
        tolerance=schedule.tolerance,
        margin=schedule.margin,
    )


def epochs(
    setup: Setup, state: LoopState, watchdog: Watchdog, keep: Keep = lambda state, ended: None
) -> Iterator[EpochRecord]:
    """Fine-tune epoch by epoch; the encoder holds the best epoch's weights afterwards.

    Args:
        setup: the run.
        state: what trains, and how far it is.
        watchdog: validates.
        keep: see `fine_tune`.
    """
    recipe = setup.recipe
    augmented = recipe.data.augment
    fit = setup.data.normals("fit").pixels if augmented else setup.normals("fit")
    size, a_pass = recipe.optimizer.batch_size, steps_of_a_pass(setup)
    an_epoch = steps_of_an_epoch(setup, watchdog.sets)

    rank, ranks = setup.compute.fabric.global_rank, setup.compute.fabric.world_size

    @lru_cache(maxsize=1)
    def order(number: int) -> NDArray[np.int64]:
        """Of the images in a pass over all of them, counted from 1."""
        return np.random.default_rng([recipe.seed, number]).permutation(len(fit))

    def batches(epoch: int, done: int) -> Iterator[Tensor]:
        steps = range((epoch - 1) * an_epoch + done, epoch * an_epoch)
        for step in setup.terminal.track(steps, f"epoch {epoch}", len(steps)):
            number, place = divmod(step, a_pass)  # of the pass over all images, from 0
            chunk = order(number + 1)[place * size : (place + 1) * size]
            own = chunk[rank::ranks] if len(chunk) >= ranks else chunk
            images = fit[own]
            yield setup.compute.batch(setup.augment(images, own.tolist(), number + 1) if augmented else images)

    rule, at_a_time = rule_of(setup, watchdog.sets), recipe.runtime.micro_batch_size
    return fine_tune(state, setup.compute.fabric, batches, watchdog.validate, rule, keep, at_a_time)


def mix(
    setup: Setup, watchdog: Watchdog, pretrained: Weights, records: list[EpochRecord]
) -> dict[float, float]:
    """Leave in the encoder the mixture of pretrained and best weights that validation chooses, where the
    recipe asks for it; the vicinal AUROC of each share of fine-tuned weights that was tried, the share kept
    last."""
    shares, best = setup.recipe.schedule.interpolate, records[-1].verdict.best_epoch
    ends = records[0].validation, records[best].validation
    if not shares or not best or ends[0] is None or ends[1] is None:
        return {}
    kept, found = interpolate(
        setup.encoder, pretrained, shares, watchdog.validate, rule_of(setup, watchdog.sets), (ends[0], ends[1])
    )
    setup.terminal.say(f"{kept:.0%} of the fine-tuned weights are mixed with the pretrained ones")
    aurocs = {share: validation.auroc for share, validation in found.items()}
    return {share: auroc for share, auroc in aurocs.items() if share != kept} | {kept: aurocs[kept]}


def choose_final(setup: Setup, watchdog: Watchdog) -> str:
    """The kind of Gaussians that the recipe fixes, or the one with which validation goes best."""
    final = setup.recipe.gaussian.final
    if final != "validated":
        return final
    found = {kind: watchdog.validate_with(current(setup, watchdog.induced, kind)).auroc for kind in FINALS}
    best = max(found, key=lambda kind: found[kind])
    said = ", ".join(f"{kind} {auroc:.4f}" for kind, auroc in found.items())
    setup.terminal.say(f"vicinal AUROC by Gaussians: {said}; {best} ones are kept")
    return best
