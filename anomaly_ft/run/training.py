"""Put the parts of `finetune` together as the recipe asks."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LinearLR

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.variation import half_varied
from anomaly_ft.evaluation.metric_names import PHASES
from anomaly_ft.finetune.brakes.interpolation import interpolate
from anomaly_ft.finetune.brakes.weight_average import Weights
from anomaly_ft.finetune.early_stopping import StoppingRule
from anomaly_ft.finetune.loop import Backward, Keep, fine_tune
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.positions import choose_position
from anomaly_ft.finetune.records import EpochRecord, PositionChoice, PseudoSet, Validation
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.finetune.validation import HeldOut, Score, calibrate, fixed, summed_up
from anomaly_ft.finetune.watch import ValidationMonitor
from anomaly_ft.metrics import Floats
from anomaly_ft.model.gaussian.settings import POSITIONS
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.interface import Detector, PositionHeads
from anomaly_ft.recipe.training import Schedule
from anomaly_ft.run.setup import Setup

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
EPOCH_STEPS = 25  # of fewer steps few held-out images prove nothing
TRAINING_COST = 3  # a training step costs as much as so many forward passes without gradients; see RESULTS.md


def loop_state(setup: Setup, method: Method, objective: nn.Module | None = None) -> LoopState:
    """Make optimiser and scheduler of the method's objective, or of one it made before: what trains, before its
    first step."""
    recipe, fabric = setup.recipe, setup.compute.fabric
    optimizer = OPTIMIZERS[recipe.optimizer.name](
        method.parameter_groups(recipe.optimizer.lr, layer_decay=recipe.optimizer.layer_decay),
        weight_decay=recipe.optimizer.weight_decay,
    )
    module, optimizer = fabric.setup(objective or method.objective(), optimizer)
    warmup = round(recipe.schedule.warmup_epochs * min(steps_of_a_pass(setup), recipe.schedule.max_steps // 2))
    scheduler = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    precision = fabric.strategy.precision
    return LoopState(module, optimizer, scheduler, average=recipe.schedule.average, precision=precision)


def make_monitor(setup: Setup, method: Method, pretrained: Detector) -> ValidationMonitor:
    """Make the validation monitor of a run, with pseudo-anomalies for the pretrained encoder's detector."""
    sets = pseudo_sets(setup, lambda pixels: method.score(pretrained, pixels))
    section = setup.recipe.validation
    for name, pseudo in sets.items() if isinstance(section.severity, str) else ():
        setup.terminal.say(
            f"watching {name} at severity {pseudo.severity:.3f}: vicinal AUROC {pseudo.baseline_auroc:.3f} "
            f"before training{_usefulness(pseudo, section.target_auroc, section.tolerance)}"
        )
    return ValidationMonitor(method, sets, method.keeps, setup.early)


def pseudo_sets(setup: Setup, score: Score) -> dict[str, PseudoSet]:
    """Make pseudo-anomalies that the pretrained encoder finds neither easy nor impossible. The last ones are
    kept in `setup.pseudo`, for the detector that scores normal images just like that.

    Args:
        setup: the run.
        score: the score of images that validation watches, by the pretrained encoder's detector.
    """
    section, normal = setup.recipe.validation, score(setup.varied("val").pixels)
    if (known := normal.tobytes()) in setup.pseudo:
        return setup.pseudo[known]
    val = HeldOut(
        half_varied(setup.data.normals("val"), setup.variation),
        normal,
        score,
        setup.recipe.seed,
        keep=setup.data.cache == "memory",
    )
    setup.pseudo.clear()
    if isinstance(section.severity, str):
        sets = calibrate(val, setup.recipe.watched, target=section.target_auroc, tolerance=section.tolerance)
    else:
        sets = fixed(val, setup.recipe.watched, severity=section.severity)
    setup.pseudo[known] = sets
    return sets


def position_of(
    setup: Setup, heads: PositionHeads, score: Callable[[Detector, Pixels], Floats]
) -> PositionChoice:
    """Choose what a position means by the dense scores of held-out normal images and their pseudo-anomalies,
    which are made as for the usual detector, with a Gaussian at each position.

    Args:
        setup: the run.
        heads: of the pretrained encoder.
        score: computes the score that validation watches.
    """
    made = pseudo_sets(setup, lambda pixels: score(heads.detectors["fixed"], pixels))
    sets = {name: pseudo for name, pseudo in made.items() if pseudo.informative}
    normal = score_images(heads, setup.varied("val").pixels, setup.compute)
    scored = {name: score_images(heads, pseudo.pixels, setup.compute) for name, pseudo in sets.items()}
    return choose_position(
        {
            position: summed_up(normal[position], {name: of[position] for name, of in scored.items()}, sets)
            for position in POSITIONS
        }
    )


def _usefulness(pseudo: PseudoSet, target: float, tolerance: float) -> str:
    """Say whether pseudo-anomalies are too easy or too hard to show forgetting; nothing where they are not."""
    if abs(pseudo.baseline_auroc - target) <= tolerance:
        return ""
    if pseudo.informative:
        return ", the nearest to the target and yet far from it: it alone decides, and may not show forgetting"
    return ", too far from the target to be used"


def steps_of_a_pass(setup: Setup) -> int:
    """Count the training steps in which every training image is seen once."""
    return math.ceil(len(setup.data.split.train) / setup.recipe.optimizer.batch_size)


def steps_of_an_epoch(setup: Setup, passes: int) -> int:
    """Count the training steps from one validation to the next: `max_steps` in equal parts, as many as
    validation's share allows, of `EPOCH_STEPS` at least. Cost is counted in forward passes, not measured, so
    that a run is the same anywhere.

    Args:
        setup: the run.
        passes: images that one validation gives to the encoder.
    """
    section = setup.recipe.schedule
    if isinstance(section.epoch_steps, int):
        return section.epoch_steps
    share = setup.recipe.validation.max_share
    trained = passes * (1 - share) / share / TRAINING_COST
    affordable = math.ceil(trained / setup.recipe.optimizer.batch_size)
    return section.max_steps // max(1, section.max_steps // max(EPOCH_STEPS, affordable))


def rule_of(schedule: Schedule, epoch_steps: int, *, first: int = 0) -> StoppingRule:
    """Make the stopping rule that the recipe asks for, with epochs of so many steps."""
    return StoppingRule(
        min(schedule.max_epochs, max(1, schedule.max_steps // epoch_steps)),
        patience=schedule.patience,
        tolerance=schedule.tolerance,
        margin=schedule.margin,
        first=first,
    )


def training_batches(setup: Setup, method: Method) -> Callable[[int], Tensor]:
    """Make the function that gives the batch of a training step, counted from 0: this process's share of it."""
    images, fabric = setup.data.normals("train"), setup.compute.fabric
    varies = setup.augments or method.trains_on_images
    train = images.pixels if varies else setup.inputs("train")
    names = [record.name for record in images.records] if varies else []
    size, a_pass = setup.recipe.optimizer.batch_size, steps_of_a_pass(setup)
    rank, ranks = fabric.global_rank, fabric.world_size

    @lru_cache(maxsize=1)
    def order(number: int) -> NDArray[np.int64]:
        """Draw the order of the images in a pass over all of them, counted from 1."""
        # drawn from the pass's number and not from a running generator: a resumed run draws the same
        return np.random.default_rng([setup.recipe.seed, number]).permutation(len(train))

    def make_batch(step: int) -> Tensor:
        number, place = divmod(step, a_pass)  # of the pass over all images, from 0
        chunk = order(number + 1)[place * size : (place + 1) * size]
        shard = chunk[rank::ranks] if len(chunk) >= ranks else chunk
        batch, of = train[shard], [names[i] for i in shard] if varies else []
        if varies:
            batch = setup.vary_for_training(batch, of, shard.tolist(), number + 1)
        return method.batch(batch, of, number + 1, train)

    return make_batch


def epochs(
    setup: Setup, state: LoopState, monitor: ValidationMonitor, keep: Keep = lambda state, ended: None
) -> Iterator[EpochRecord]:
    """Fine-tune epoch by epoch; the encoder holds the best epoch's weights afterwards.

    Args:
        setup: the run.
        state: what trains, and how far it is.
        monitor: validates.
        keep: see `fine_tune`.
    """
    recipe, method = setup.recipe, monitor.method
    make_batch = training_batches(setup, method)
    an_epoch = state.epoch_steps = state.epoch_steps or steps_of_an_epoch(setup, monitor.passes())

    def batches(epoch: int, done: int) -> Iterator[Tensor]:
        steps = range((epoch - 1) * an_epoch + done, epoch * an_epoch)
        for step in setup.terminal.track(steps, f"epoch {epoch}, step", len(steps), unit=""):
            yield make_batch(step)

    def validate() -> Validation:
        setup.terminal.doing = PHASES["validate"]
        return monitor.validate() if state.records else monitor.validate_pretrained()

    backward = Backward(setup.compute.fabric, recipe.runtime.micro_batch_size)
    return fine_tune(
        state,
        backward,
        batches,
        validate,
        rule_of(recipe.schedule, an_epoch, first=int(not method.has_baseline)),
        keep,
    )


def choose(
    setup: Setup, monitor: ValidationMonitor, pretrained: Weights, records: list[EpochRecord]
) -> dict[float, float]:
    """Leave in the encoder what is kept, as whoever loads it finds it: `mix`, and adapters become weights."""
    mixed = mix(setup, monitor, pretrained, records)
    setup.encoder.settle()
    return mixed


def mix(
    setup: Setup, monitor: ValidationMonitor, pretrained: Weights, records: list[EpochRecord]
) -> dict[float, float]:
    """Leave in the encoder the mixture of pretrained and best weights that validation chooses, where the
    recipe asks for it; the vicinal AUROC of each share of fine-tuned weights that was tried, the share kept
    last."""
    schedule, best = setup.recipe.schedule, records[-1].verdict.best_epoch
    ends = records[0].validation, records[best].validation
    if not schedule.interpolate or not best or ends[0] is None or ends[1] is None:
        return {}
    rule = rule_of(schedule, schedule.max_steps)
    kept, validations = interpolate(
        monitor.method.trained(), pretrained, schedule.interpolate, monitor.validate, rule, (ends[0], ends[1])
    )
    setup.terminal.say(f"{kept:.0%} of the fine-tuned weights are mixed with the pretrained ones")
    aurocs = {share: validation.auroc for share, validation in validations.items()}
    return {share: auroc for share, auroc in aurocs.items() if share != kept} | {kept: aurocs[kept]}
