"""The protocol of a kind of model in fine-tuning: how it is fitted, trained, scored and validated.

`loop`, `watch` and `early_stopping` know no more of a model than this protocol. Each kind is a file in
`methods`; `run.train` names it in one dict literal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.metrics import Floats
from anomaly_ft.model.interface import Detector

Features = Sequence[NDArray[np.float32]]  # `(n, d)` of each level


@dataclass(frozen=True)
class Fit:
    """A detector of the encoder as it is now, and what was measured on the way to it.

    Attributes:
        detector: its scores are in units of the held-out normal images.
        held_out: the score that decides of the held-out normal images, `(n,)`.
        train_features: averaged features of the first training images; empty unless they were asked for.
        held_out_features: the same of the first held-out ones.
    """

    detector: Detector
    held_out: Floats
    train_features: Features = ()
    held_out_features: Features = ()


class Method(Protocol):
    """A kind of model in fine-tuning. Its encoder changes as it trains; what was fitted stays."""

    @property
    def position(self) -> PositionChoice | None:
        """What positions on the grid were found to mean before training; None where nothing was chosen."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """The statistics that `refit` offers; the first are those of epoch 0."""

    @property
    def keeps(self) -> str:
        """Which of the `kinds` epochs are judged by, and the detector is kept with."""

    @property
    def has_baseline(self) -> bool:
        """Whether epoch 0 is worth anything: where it is not, it is never kept, nor compared with."""

    @property
    def trains_on_images(self) -> bool:
        """Whether training needs the images themselves, not what the encoder's frozen part makes of them."""

    def fit(self) -> Detector:
        """Fit the detector of the pretrained encoder; called once, before the encoder changes."""

    def refit(self, kind: str, *, watching: bool = True) -> Fit:
        """Fit the detector of the encoder as it is now, with statistics of one of the `kinds`.

        With `watching` features are kept for `drift`.
        """

    def objective(self) -> nn.Module:
        """Make the module whose forward pass of a batch is the loss to lower."""

    def parameter_groups(self, lr: float, *, layer_decay: float) -> list[dict[str, Any]]:
        """Group the parameters that train for an optimiser; those of the last layer learn at the rate `lr`."""

    def trained(self) -> nn.Module:
        """Give the module that trains."""

    def batch(self, pixels: Pixels, names: Sequence[str], number: int, pool: Pixels) -> Tensor:
        """Make what `objective` is given of training images.

        Args:
            pixels: uint8 `(n, h, w, 3)`, or their early activations.
            names: of the images; empty where they are not needed.
            number: of the pass over all training images, from 1.
            pool: all training images, as they are.
        """

    def score(self, detector: Detector, pixels: Pixels) -> Floats:
        """Compute the score that decides, which validation watches, `(n,)`; higher = more anomalous."""

    def drift(self, fit: Fit) -> Mapping[str, float]:
        """Measure how far the encoder has moved; numbers to look at that decide nothing."""

    def images(self, kind: str) -> int:
        """Count the images that `refit` gives to the encoder."""
