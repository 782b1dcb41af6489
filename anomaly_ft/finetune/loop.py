"""The training loop: a generator of epoch records, epoch 0 (the pretrained encoder) first.

It knows a module whose forward pass is the loss, batches, and a function that validates; not what it
trains, nor where records and states go. When it ends, the best epoch's weights are back in the module.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from anomaly_ft.errors import DivergedError, GaussianError
from anomaly_ft.finetune.early_stopping import StoppingRule, early_stop
from anomaly_ft.finetune.records import EpochRecord, Validation
from anomaly_ft.finetune.state import LoopState, snapshot

DIVERGENCE = 10.0  # training is to lower a distance; at ten times where it began nothing is left to learn from
Keep = Callable[[LoopState, bool], None]


@dataclass(frozen=True)
class Backward:
    """How gradients are computed.

    Attributes:
        fabric: does the backward pass in the right precision, and averages over processes.
        at_a_time: images of a batch whose gradients are computed at once; 0: all. The objective has to be a
            mean over images.
    """

    fabric: Fabric
    at_a_time: int = 0


def fine_tune(
    state: LoopState,
    backward: Backward,
    batches: Callable[[int, int], Iterable[Tensor]],
    validate: Callable[[], Validation],
    rule: StoppingRule,
    keep: Keep = lambda state, ended: None,
) -> Iterator[EpochRecord]:
    """Train epoch by epoch until the verdict says stop; yields a record after each.

    A state that was stored goes on where it was: epochs that it has records of are not yielded again.

    Args:
        state: objective, optimiser and scheduler, and how far they are; changes as training goes on.
        backward: computes gradients.
        batches: the batches of an epoch, given its number from 1 on and how many of them to leave out.
        validate: measures the objective as it is now.
        rule: when to stop.
        keep: is shown the state after each step, and, with `ended` true, after each epoch.

    Raises:
        DivergedError: the pretrained encoder itself gives numbers that are not finite.
    """
    if not state.records:
        started = time.perf_counter()
        first = validate()
        state.best = snapshot(state.objective)
        seconds = time.perf_counter() - started
        state.records.append(EpochRecord(0, None, first, early_stop([first], rule), 0, 0.0, seconds))
        keep(state, True)
        yield state.records[0]
    last = state.records[-1]
    verdict = early_stop(
        state.history, rule, diverged=last.validation is None
    )  # the rule may be another by now
    state.records[-1] = replace(last, verdict=verdict)
    if verdict.stop:
        state.objective.load_state_dict(state.best)
    while not verdict.stop:
        epoch = len(state.records)
        loss = train_epoch(state, backward, batches(epoch, state.step), keep)
        started = time.perf_counter()
        state.mean.update()
        with state.mean.in_place():
            validation = _validate_unless_diverged(validate, loss, float(state.first_loss))
            history = [*state.history, validation] if validation else state.history
            verdict = early_stop(history, rule, diverged=validation is None)
            if verdict.best_epoch == epoch:
                state.best = snapshot(state.objective)
        images, trained = state.end_epoch()
        seconds = time.perf_counter() - started
        state.records.append(EpochRecord(epoch, loss, validation, verdict, images, trained, seconds))
        keep(state, True)  # before the best weights come back: a resumed run may go on with another rule
        if verdict.stop:
            state.objective.load_state_dict(state.best)
        yield state.records[-1]


def train_epoch(state: LoopState, backward: Backward, batches: Iterable[Tensor], keep: Keep) -> float:
    """Train what is left of an epoch; mean loss over all its images."""
    fabric, started = backward.fabric, time.perf_counter()
    for images in batches:
        count = len(images)
        if fabric.world_size > 1:
            count = int(cast(Tensor, fabric.all_reduce(torch.tensor(count), reduce_op="sum")))
        loss = _backward(state.objective, fabric, images, backward.at_a_time or len(images), count)
        state.optimizer.step()
        state.scheduler.step()
        state.optimizer.zero_grad(set_to_none=True)
        now = time.perf_counter()
        state.count(loss, count, now - started)
        started = now
        keep(state, False)
    if state.loss is None:
        raise ValueError("an epoch needs at least one batch")
    return float(state.loss) / state.images


def _backward(objective: nn.Module, fabric: Fabric, images: Tensor, at_a_time: int, count: int) -> Tensor:
    """Leave the gradients of the mean over the `count` images of all processes in the parameters; that mean."""
    total: Tensor | float = 0.0
    ranks = fabric.world_size  # gradients of processes are averaged, whatever their shares
    for start in range(0, len(images), at_a_time):
        part = images[start : start + at_a_time] if at_a_time < len(images) else images
        more = start + at_a_time < len(images)
        with fabric.no_backward_sync(cast(Any, objective), enabled=more) if ranks > 1 else nullcontext():
            loss = objective(part) * (ranks * len(part) / count)
            fabric.backward(loss)
        total = total + loss.detach()
    total = cast(Tensor, total)
    if ranks == 1:
        return total
    return cast(Tensor, fabric.all_reduce(total, reduce_op="mean"))


def _validate_unless_diverged(
    validate: Callable[[], Validation], loss: float, first_loss: float
) -> Validation | None:
    if not math.isfinite(loss) or loss > DIVERGENCE * first_loss:
        return None
    try:
        return validate()
    except (DivergedError, GaussianError):  # features that exploded or collapsed
        return None
