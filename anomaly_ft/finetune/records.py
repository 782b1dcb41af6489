"""Records of fine-tuning: validations, stop decisions, epochs. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.metrics import Floats
from anomaly_ft.model.gaussian.settings import Position


@dataclass(frozen=True)
class PseudoSet:
    """Pseudo-anomalies of one augmentation at one severity, and how well they were told apart before
    training. `informative`: that baseline leaves room to show forgetting, so the stop decision uses it."""

    pixels: Pixels
    severity: float
    baseline_auroc: float
    informative: bool = True


@dataclass(frozen=True)
class Validation:
    """One measurement. AUROCs in [0, 1], higher = the encoder tells more apart.

    `influences` `(n,)`, of each augmentation that counts for the stop decision, are what each held-out image
    contributes to its AUROC's deviation: their mean is zero, and their standard deviation over sqrt(n) is the
    AUROC's standard error. An image and its own pseudo-anomalies count as one (Obuchowski, Biometrics 53
    (1997), for clustered data).
    """

    auroc: float
    by_augmentation: Mapping[str, float]
    influences: Mapping[str, Floats]
    normal_score_mean: float
    watched: Mapping[str, float] = field(
        default_factory=dict
    )  # numbers that do not count for the stop decision

    @property
    def influence(self) -> Floats:
        """The influences on the mean over augmentations, `(n,)`."""
        mean: Floats = np.mean(list(self.influences.values()), axis=0)
        return mean


Reason = Literal["forgetting", "no_progress", "max_epochs", "diverged"]


@dataclass(frozen=True)
class StopDecision:
    """`reason` is None as long as training goes on; `why` says in words what was seen. `best_epoch` is the one
    to keep; epoch 0 is the pretrained encoder."""

    stop: bool
    reason: Reason | None
    best_epoch: int
    why: str = field(default="", compare=False)


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch gave. Epoch 0 has no training loss; a diverged epoch has no validation."""

    epoch: int
    train_loss: float | None
    validation: Validation | None
    verdict: StopDecision
    images: int
    train_seconds: float
    validation_seconds: float


@dataclass(frozen=True)
class PositionChoice:
    """What a position means, and the vicinal AUROC of the dense score either way, with the pretrained encoder.

    Attributes:
        position: what was chosen.
        aurocs: in [0, 1], higher = more is told apart.
        standard_error: of their difference, measured on the same images.
    """

    position: Position
    aurocs: Mapping[Position, float]
    standard_error: float
