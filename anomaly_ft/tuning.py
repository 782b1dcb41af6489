"""Fine-tuning as the recipe asks for it: the parts of `finetune`, put together for a prepared run."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from anomaly_ft.data.images import Pixels
from anomaly_ft.finetune.forgetting import Rule
from anomaly_ft.finetune.loop import Keep, fine_tune
from anomaly_ft.finetune.objective import InducedDistance
from anomaly_ft.finetune.state import EpochRecord, LoopState
from anomaly_ft.finetune.validation import PseudoSet, Validation, calibrate, fixed, validate
from anomaly_ft.metrics import Floats
from anomaly_ft.model.detector import Detector
from anomaly_ft.model.examine import score_images
from anomaly_ft.model.fitting import fit_detector, standardise
from anomaly_ft.setup import Setup

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def fit(setup: Setup) -> Detector:
    return fit_detector(
        setup.encoder, setup.normals("fit"), setup.normals("watch"), setup.compute, setup.detector_settings()
    )


def current(setup: Setup, induced: Detector, final: str) -> Detector:
    """The detector that the encoder, as it is now, makes with induced or with refitted Gaussians."""
    if final == "refitted":
        return fit(setup)
    standardise(induced, setup.normals("watch"), setup.compute)
    return induced


def score_with(setup: Setup, detector: Detector) -> Callable[[Pixels], Floats]:
    def score(pixels: Pixels) -> Floats:
        return score_images(detector, pixels, setup.compute)[setup.recipe.gaussian.score]

    return score


def score_test(setup: Setup, detector: Detector) -> dict[str, Floats] | None:
    test = setup.data.test
    return score_images(detector, test.pixels, setup.compute) if len(test) else None


def pseudo_sets(setup: Setup, frozen: Detector) -> dict[str, PseudoSet]:
    section, seed = setup.recipe.validation, setup.recipe.seed
    watch, score = setup.data.normals("watch"), score_with(setup, frozen)
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


def loop_state(setup: Setup, induced: Detector) -> LoopState:
    """What trains, before its first step.

    Args:
        setup: the run.
        induced: detector of the pretrained encoder, whose Gaussians training pulls towards.
    """
    recipe = setup.recipe
    optimizer = OPTIMIZERS[recipe.optimizer.name](
        [p for p in setup.encoder.parameters() if p.requires_grad],
        lr=recipe.optimizer.lr,
        weight_decay=recipe.optimizer.weight_decay,
    )
    objective, optimizer = setup.compute.fabric.setup(
        InducedDistance(induced, recipe.objective.distance), optimizer
    )
    steps = math.ceil(len(setup.data.split.fit) / recipe.optimizer.batch_size)
    warmup = round(recipe.schedule.warmup_epochs * steps)
    return LoopState(
        objective, optimizer, LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    )


def epochs(
    setup: Setup,
    state: LoopState,
    induced: Detector,
    sets: dict[str, PseudoSet],
    observe: Callable[[Detector], None] = lambda detector: None,
    keep: Keep = lambda state, ended: None,
) -> Iterator[EpochRecord]:
    """Fine-tune epoch by epoch; the encoder holds the best epoch's weights afterwards.

    Args:
        setup: the run.
        state: what trains, and how far it is.
        induced: detector of the pretrained encoder.
        sets: pseudo-anomalies to validate with.
        observe: is shown the detector of each validation; what it does has no say in anything.
        keep: see `fine_tune`.
    """
    recipe = setup.recipe
    augmented, watch = recipe.data.augment, setup.normals("watch")
    fit = setup.data.normals("fit").pixels if augmented else setup.normals("fit")
    sets = {name: replace(s, pixels=setup.keep(f"pseudo {name}", s.pixels)) for name, s in sets.items()}

    def batches(epoch: int, done: int) -> Iterator[Tensor]:
        size = recipe.optimizer.batch_size
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(fit))
        chunks = np.split(order, range(size, len(fit), size))[done:]
        for chunk in setup.terminal.track(chunks, f"epoch {epoch}", sum(map(len, chunks)), size=len):
            images = fit[chunk]
            yield setup.compute.batch(setup.augment(images, chunk.tolist(), epoch) if augmented else images)

    def validate_now() -> Validation:
        detector = current(setup, induced, recipe.gaussian.final)
        observe(detector)
        return validate(score_with(setup, detector), watch, sets)

    rule = Rule(**recipe.schedule.model_dump(exclude={"warmup_epochs"}))
    return fine_tune(
        state, setup.compute.fabric, batches, validate_now, rule, keep, recipe.runtime.micro_batch_size
    )
