"""The filter in fine-tuning: an encoder that stays, and a net that learns to undo corruptions of good images.

Before training the filter leaves its input over, so that its detector is one of Gaussians of the encoder's
features: the baseline. An image as its own encoder knows nothing before training: there is no baseline then.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.data.corruption import Corruption
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Part
from anomaly_ft.finetune.brakes.weight_average import digest_of
from anomaly_ft.finetune.method import Fit
from anomaly_ft.finetune.methods.filter_loss import FilterLoss, batch_of
from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.metrics import Floats
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.detector import Filter, FilterDetector
from anomaly_ft.model.filter.fitting import FilterHeads, fit_residual, fit_residual_heads, make_filter
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.interface import Detector

REFIT = "refit"  # the statistics of the residual follow the net


@dataclass
class FilterMethod:
    """Fits, trains and validates a filter.

    Attributes:
        encoder: gives the features; stays as it is.
        compute: device, precision, batch size.
        settings: of space, net and residual.
        inputs: what the encoder is given of the normal images that serve one purpose.
        corruption: what the filter learns to undo.
        clean_weight: what positions that were not corrupted count in the loss; corrupted ones count the rest.
        choose: what positions mean, from detectors of the untrained filter; None: as in `settings`.
        position: what was chosen.
        view: makes of a detector what `refit` gives, so that something beside the residual can be scored.
    """

    encoder: Encoder
    compute: Compute
    settings: FilterSettings
    inputs: Callable[[Part], Pixels]
    corruption: Corruption
    clean_weight: float
    choose: Callable[[FilterHeads], PositionChoice] | None = None
    position: PositionChoice | None = None
    view: Callable[[FilterDetector], Detector] = lambda detector: detector
    _made: Filter | None = None
    _last: tuple[str, Fit] | None = None  # the last refit, and of which weights it is

    @property
    def kinds(self) -> tuple[str, ...]:
        """There is one kind of statistics."""
        return (REFIT,)

    @property
    def keeps(self) -> str:
        """That kind."""
        return REFIT

    @property
    def has_baseline(self) -> bool:
        """Whether there is an encoder that knows something before training."""
        return any(True for _ in self.encoder.parameters())

    @property
    def trains_on_images(self) -> bool:
        """Images are corrupted anew in each pass, so nothing that was computed of them before will do."""
        return True

    @property
    def made(self) -> Filter:
        """The filter.

        Raises:
            RuntimeError: `fit` was not called yet.
        """
        if self._made is None:
            raise RuntimeError("fit comes first: it makes the filter")
        return self._made

    def fit(self) -> FilterDetector:
        """Fit what the net is given, make an untrained net, and fit the statistics of what it leaves over."""
        train = self.inputs("train")
        self._made = make_filter(self.encoder, train, self.compute, self.settings)
        if self.choose is None:
            untrained = fit_residual(self._made, train, self.compute)
        else:
            heads = fit_residual_heads(self._made, train, self.compute)
            self.position = self.choose(heads)
            untrained = heads.detectors[self.position.position]
            self._made, self.settings = untrained.made, untrained.settings
        self._remember(untrained)
        return untrained

    def refit(self, kind: str, *, watching: bool = True) -> Fit:
        """Fit the statistics of what the filter leaves over as it is now. The last fit is remembered, and that
        of before training too, until there is another one.

        Raises:
            ValueError: none of the `kinds`.
        """
        del watching
        if kind != REFIT:
            raise ValueError(f"statistics are {kind!r}, expected {REFIT}")
        if self._last is None or self._last[0] != digest_of(self.made.net):
            return self._remember(fit_residual(self.made, self.inputs("train"), self.compute))
        return self._last[1]

    def _remember(self, fitted: FilterDetector) -> Fit:
        detector = self.view(fitted)
        fit = Fit(detector, self.score(detector, self.inputs("val")))
        self._last = digest_of(self.made.net), fit
        return fit

    def objective(self) -> FilterLoss:
        """Make the loss of the filter."""
        return FilterLoss(self.made, self.clean_weight)

    def parameter_groups(self, lr: float, *, layer_decay: float) -> list[dict[str, Any]]:
        """Give the net's parameters; it has no pretrained layers that could learn more slowly."""
        del layer_decay
        return [{"params": list(self.made.net.parameters()), "lr": lr}]

    def trained(self) -> torch.nn.Module:
        """Give the net."""
        return self.made.net

    def batch(self, pixels: Pixels, names: Sequence[str], number: int, pool: Pixels) -> Tensor:
        """Corrupt a batch of images, see `batch_of`."""
        done = self.corruption.batch(pixels, names, number, pool)
        clean, corrupted = (self.compute.batch(images) for images in (done.clean, done.corrupted))
        return batch_of(clean, corrupted, torch.from_numpy(done.mask).to(clean.device))

    def score(self, detector: Detector, pixels: Pixels) -> Floats:
        """Compute the score that decides, `(n,)`; higher = more anomalous."""
        return score_images(detector, pixels, self.compute)[detector.decides]

    def drift(self, fit: Fit) -> Mapping[str, float]:
        """Measure nothing: the encoder does not move."""
        del fit
        return {}

    def images(self, kind: str) -> int:
        """Count the images that `refit` gives to encoder and net."""
        del kind
        return len(self.inputs("train")) + len(self.inputs("val"))
