"""Early stopping: go on, or stop, and which epoch is best. A pure function of the validations so far.

Two validations are compared on the same held-out images, so the difference of their AUROCs has a
standard error of its own, far below that of either (`paired_standard_error`). Margins are counted in
it: they mean the same on 30 images and on 3,000.

An epoch replaces the one kept so far only where it tells more apart by more than noise. Training that goes on
for long makes pseudo-anomalies a little easier, and real ones harder: the first of two epochs that noise
cannot tell apart is the safer one, as in the one-standard-error rule of model selection (Breiman et al., 1984).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_ft.finetune.records import Reason, StopDecision, Validation
from anomaly_ft.metrics import Floats

ROUNDING = 1e-9  # of an AUROC, a mean of other ones


@dataclass(frozen=True)
class StoppingRule:
    """When to stop, and which epoch to keep.

    Attributes:
        max_epochs: epochs of training at most.
        patience: stop after this many validations in a row that are not kept.
        tolerance: an epoch more than this many standard errors above the one kept so far is kept instead.
        margin: a fall below the highest counts as forgetting from this many standard errors on.
        first: the first epoch that may be kept; 0: the pretrained encoder's.
        falls: so many validations in a row that are such a fall stop at once; where training ends anyway,
            one is enough to call it forgetting.
    """

    max_epochs: int
    patience: int = 3
    tolerance: float = 2.0
    margin: float = 2.0
    falls: int = 2
    first: int = 0


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
    best = peak = min(rule.first, len(history) - 1)
    falls = 0
    for epoch, validation in enumerate(history[best:], best):
        falls = falls + 1 if is_above(history[peak], validation, rule.margin) else 0
        if validation.auroc > history[peak].auroc:
            peak = epoch
        if is_above(validation, history[best], rule.tolerance):
            best = epoch
    epoch = len(history) - 1
    reason: Reason | None = None
    why = ""
    if diverged:
        reason, why = "diverged", f"epoch {epoch + 1} gave no finite numbers, or a loss far above the first"
    elif falls >= rule.falls or (falls and (epoch - best >= rule.patience or epoch >= rule.max_epochs)):
        reason, why = "forgetting", _how_it_fell(history, peak, falls)
    elif epoch - best >= rule.patience:
        above = f"{rule.tolerance:g} standard errors above epoch {best}'s"
        reason, why = "no_progress", f"no vicinal AUROC after it is more than {above}"
    elif epoch >= rule.max_epochs:
        few = {0: "no epoch was asked for", 1: "the one epoch was trained"}
        reason, why = "max_epochs", few.get(epoch, f"all {epoch} epochs were trained")
    return StopDecision(reason is not None, reason, best, why)


def _how_it_fell(history: Sequence[Validation], peak: int, falls: int) -> str:
    """Say how far the last validation is below the highest, since when, and which augmentation fell most."""
    top, last = history[peak], history[-1]
    error = paired_standard_error(top.influence, last.influence)
    most = max(last.influences, key=lambda name: top.by_augmentation[name] - last.by_augmentation[name])
    since = "" if falls == 1 else f", and below it since epoch {len(history) - falls}"
    fall = f"{top.auroc - last.auroc:.3f} ± {error:.3f}"
    return f"vicinal AUROC is {fall} below epoch {peak}'s{since}; {most} fell most"


def is_above(validation: Validation, other: Validation, errors: float) -> bool:
    """Tell whether a validation lies more than so many standard errors of the difference above another."""
    error = paired_standard_error(validation.influence, other.influence)
    return validation.auroc - other.auroc > errors * error + ROUNDING
