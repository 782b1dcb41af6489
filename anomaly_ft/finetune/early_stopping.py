"""Early stopping: go on, or stop, and which epoch is best. A pure function of the validations so far.

Two validations are compared on the same held-out images, so the difference of their AUROCs has a
standard error of its own, far below that of either (`paired_standard_error`). Margins are counted in
it: they mean the same on 30 images and on 3,000.

Fine-tuning goes on for as long as nothing says that the encoder forgets, as in Rippel et al. (2021): the
epoch kept is not the highest point of a noisy curve but the last one that noise cannot tell from it.
An epoch that is told apart from nothing, because the curve does not move at all, is not kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_ft.finetune.records import Reason, StopDecision, Validation
from anomaly_ft.metrics import Floats


@dataclass(frozen=True)
class StoppingRule:
    """When to stop, and which epoch to keep.

    Attributes:
        max_epochs: epochs of training at most.
        patience: stop after this many validations in a row that are not kept.
        tolerance: an epoch less than this many standard errors below the highest so far has not
            forgotten, and the last such epoch is kept.
        margin: a fall below the highest counts as forgetting from this many standard errors on.
        falls: so many validations in a row that are such a fall stop at once; where training ends anyway,
            one is enough to call it forgetting.
    """

    max_epochs: int
    patience: int = 3
    tolerance: float = 1.0
    margin: float = 2.0
    falls: int = 2


def paired_standard_error(a: Floats, b: Floats) -> float:
    """Estimate the standard error of the difference of two AUROCs measured on the same images, from their
    influences `(n,)`; 0 when the two measurements agree image by image."""
    return float((a - b).std(ddof=1)) / math.sqrt(len(a))


def early_stop(history: Sequence[Validation], rule: StoppingRule, *, diverged: bool = False) -> StopDecision:
    """Judge the validations of epochs 0, 1, … so far.

    Args:
        history: one validation for each epoch, the pretrained encoder's first.
        rule: when to stop.
        diverged: the epoch after the last of `history` gave a number that is not finite, or a loss
            far above where it began.

    Raises:
        ValueError: an empty history or an AUROC that is not a number, neither of which is a verdict.
    """
    if not history or any(math.isnan(validation.auroc) for validation in history):
        raise ValueError("a verdict needs at least one validation, and AUROCs that are numbers")
    peak, best, falls = 0, 0, 0
    for epoch in range(1, len(history)):
        change = history[epoch].auroc - history[peak].auroc
        error = paired_standard_error(history[epoch].influence, history[peak].influence)
        falls = falls + 1 if change < 0 and change <= -rule.margin * error else 0
        if change > -rule.tolerance * error:
            best, falls = epoch, 0
        if change > 0:
            peak = best = epoch
    epoch = len(history) - 1
    reason: Reason | None = None
    if diverged:
        reason = "diverged"
    elif falls >= rule.falls or (falls and (epoch - best >= rule.patience or epoch >= rule.max_epochs)):
        reason = "forgetting"
    elif epoch - best >= rule.patience:
        reason = "no_progress"
    elif epoch >= rule.max_epochs:
        reason = "max_epochs"
    return StopDecision(reason is not None, reason, best)
