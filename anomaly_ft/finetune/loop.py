"""The training loop: a generator of epoch records, epoch 0 (the pretrained encoder) first.

It knows a module whose forward pass is the loss, batches, and a function that validates; not what it
trains, nor where records go. When it ends, the best epoch's weights are back in the module.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from anomaly_ft.errors import DivergedError, GaussianError
from anomaly_ft.finetune.forgetting import Rule, Verdict, judge
from anomaly_ft.finetune.validation import Validation

DIVERGENCE = 10.0  # training is to lower a distance; at ten times where it began nothing is left to learn from


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave. Epoch 0 has no training loss; a diverged epoch has no validation."""

    epoch: int
    train_loss: float | None
    validation: Validation | None
    verdict: Verdict
    images: int
    train_seconds: float
    validation_seconds: float


def fine_tune(
    objective: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    fabric: Fabric,
    batches: Callable[[int], Iterable[Tensor]],
    validate: Callable[[], Validation],
    rule: Rule,
) -> Iterator[EpochRecord]:
    """Train epoch by epoch until the verdict says stop; yields a record after each.

    Args:
        objective: forward pass of a batch is the loss to lower; already set up by `fabric`.
        optimizer: steps the objective's trainable parameters; already set up by `fabric`.
        scheduler: sets the learning rate, once a step.
        fabric: does the backward pass in the right precision.
        batches: the batches of an epoch, given its number from 1 on.
        validate: measures the module as it is now.
        rule: when to stop.

    Raises:
        DivergedError: the pretrained encoder itself gives numbers that are not finite.
    """
    started = time.perf_counter()
    history = [validate()]
    verdict = judge(history, rule)
    yield EpochRecord(0, None, history[0], verdict, 0, 0.0, time.perf_counter() - started)
    best = _snapshot(objective)
    first_loss = math.inf
    while not verdict.stop:
        epoch = len(history)
        started = time.perf_counter()
        loss, images, opening = _train_epoch(objective, optimizer, scheduler, fabric, batches(epoch))
        trained = time.perf_counter()
        first_loss = opening if epoch == 1 else first_loss
        validation = _validate_unless_diverged(validate, loss, first_loss)
        if validation is not None:
            history.append(validation)
        verdict = judge(history, rule, diverged=validation is None)
        if verdict.best_epoch == epoch:
            best = _snapshot(objective)
        if verdict.stop:
            objective.load_state_dict(best)
        seconds = time.perf_counter() - trained
        yield EpochRecord(epoch, loss, validation, verdict, images, trained - started, seconds)


def _train_epoch(
    objective: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    fabric: Fabric,
    batches: Iterable[Tensor],
) -> tuple[float, int, float]:
    """Mean loss over the epoch's images, how many there were, and the first batch's loss."""
    total: Tensor | None = None
    first: Tensor | None = None
    count = 0
    for images in batches:
        loss = objective(images)
        fabric.backward(loss)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        weighted = loss.detach() * len(images)
        total = weighted if total is None else total + weighted
        first = loss.detach() if first is None else first
        count += len(images)
    if total is None or first is None:
        raise ValueError("an epoch needs at least one batch")
    return float(total) / count, count, float(first)


def _validate_unless_diverged(
    validate: Callable[[], Validation], loss: float, first_loss: float
) -> Validation | None:
    if not math.isfinite(loss) or loss > DIVERGENCE * first_loss:
        return None
    try:
        return validate()
    except (DivergedError, GaussianError):  # features that exploded or collapsed
        return None


def _snapshot(objective: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in objective.state_dict().items()}
