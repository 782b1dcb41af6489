"""The induced Gaussian in fine-tuning (Rippel et al., 2021): statistics of the pretrained encoder stay, the
encoder is trained to lower the distance of normal images to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Part
from anomaly_ft.finetune.brakes.penalties import Term, distillation, l2_sp
from anomaly_ft.finetune.brakes.weight_average import digest_of
from anomaly_ft.finetune.drift import effective_rank, linear_cka
from anomaly_ft.finetune.method import Features, Fit
from anomaly_ft.finetune.methods.gaussian_objective import Distance, InducedDistance, Target
from anomaly_ft.finetune.methods.known_defects import known_defects, usual_deviation
from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.metrics import Floats
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import Heads, fit_detector, fit_gaussians, fit_heads
from anomaly_ft.model.gaussian.settings import DetectorSettings
from anomaly_ft.model.inference import level_distances, pooled_features, score_images, scores_and_features
from anomaly_ft.model.interface import Detector

PRETRAINED, REFIT = KINDS = ("pretrained", "refit")
DRIFT_IMAGES = 128  # on so many images at most
FLOOR_IMAGES = 256  # the same
PENALTIES: Mapping[str, Callable[[GaussianDetector], Term]] = {
    "l2_sp": lambda detector: l2_sp(detector.encoder),
    "distillation": distillation,
}


@dataclass
class GaussianMethod:
    """Fits, trains and validates an encoder by Gaussians of its features.

    Attributes:
        encoder: trains; every detector made here is a view of it.
        compute: device, precision, batch size.
        settings: estimator, grids, the score that decides.
        inputs: what the encoder is given of the normal images that serve one purpose.
        distance: what is averaged and minimised, `mahalanobis` or `squared_mahalanobis`.
        target: of pooled features, of those at each position, or of both.
        penalties: strength of each of `PENALTIES`, and of `teacher`, that is added to the distance.
        floor: whether the mean distance that training images have before training is near enough.
        statistics: of the detector that is kept, one of `KINDS`.
        teach: makes the term of a teacher from the pretrained encoder's detector; None: there is no teacher.
        defects: known ones, which enter the objective; None: good images alone.
        choose: what positions mean, from detectors of the pretrained encoder; None: as in `settings`.
        position: what was chosen.
    """

    encoder: Encoder
    compute: Compute
    settings: DetectorSettings
    inputs: Callable[[Part], Pixels]
    distance: Distance = "mahalanobis"
    target: Target = "pooled"
    penalties: Mapping[str, float] = field(default_factory=dict)
    floor: bool = False
    statistics: str = REFIT
    teach: Callable[[GaussianDetector], Term] | None = None
    defects: Pixels | None = None
    choose: Callable[[Heads], PositionChoice] | None = None
    position: PositionChoice | None = None
    _pretrained: GaussianDetector | None = None
    _before: str = ""  # digest of the weights that the pretrained statistics are of
    _features: Features = ()
    _last: tuple[tuple[str, str], Fit] | None = None  # the last refit, and of which kind and weights it is

    @property
    def kinds(self) -> tuple[str, ...]:
        """Statistics of the pretrained encoder, and those fitted again to the encoder as it is."""
        return KINDS

    @property
    def keeps(self) -> str:
        """The statistics that epochs are judged by and that the detector is kept with."""
        return self.statistics

    @property
    def has_baseline(self) -> bool:
        """The pretrained encoder always has Gaussians of its own."""
        return True

    @property
    def trains_on_images(self) -> bool:
        """Early activations do as well, but not for a teacher: it is another encoder."""
        return self.teach is not None

    @property
    def pretrained(self) -> GaussianDetector:
        """The detector whose statistics are those of the pretrained encoder.

        Raises:
            RuntimeError: `fit` was not called yet.
        """
        if self._pretrained is None:
            raise RuntimeError("fit comes first: the statistics are those of the encoder before it changes")
        return self._pretrained

    def fit(self) -> GaussianDetector:
        """Fit all Gaussians to the training images, and keep features of held-out ones for `drift`."""
        train, held_out = self.inputs("train"), self.inputs("val")
        if self.choose is None:
            self._pretrained = fit_detector(self.encoder, train, held_out, self.compute, self.settings)
        else:
            heads = fit_heads(self.encoder, train, held_out, self.compute, self.settings)
            self.position = self.choose(heads)
            self._pretrained = heads.detectors[self.position.position]
            self.settings = self._pretrained.settings
        self._before = digest_of(self.encoder)
        self._features = pooled_features(self.encoder, held_out[:DRIFT_IMAGES], self.compute)
        return self._pretrained

    def refit(self, kind: str, *, watching: bool = True) -> Fit:
        """Fit the detector of the encoder as it is now; each held-out image is seen once: its scores are the
        scale and half of the comparison, and its features tell drift. The last one is remembered: the encoder
        that is kept was mostly fitted at its validation already. While the encoder is as it was, so is its
        detector: that of `fit`, the same object.

        Raises:
            ValueError: none of the `kinds`.
        """
        if kind not in KINDS:
            raise ValueError(f"statistics are {kind!r}, expected one of {', '.join(KINDS)}")
        key = (kind, digest_of(self.encoder))
        if self._last and self._last[0] == key and (self._last[1].held_out_features or not watching):
            return self._last[1]
        keep, train = DRIFT_IMAGES if watching else 0, self.inputs("train")
        unchanged = key[1] == self._before
        if unchanged or kind == PRETRAINED:
            detector = self.pretrained
            seen = pooled_features(self.encoder, train[:keep], self.compute) if keep else []
        else:
            detector, seen = fit_gaussians(self.encoder, train, self.compute, self.settings, keep)
        normal, held_out = scores_and_features(detector, self.inputs("val"), self.compute, keep=keep)
        detector = detector if unchanged else detector.standardised(normal)
        watched = (normal | {"fused": detector.fused(normal)})[self.settings.score]
        fit = Fit(detector, watched, seen, held_out)
        self._last = key, fit
        return fit

    def objective(self) -> InducedDistance:
        """Make the distance to the pretrained statistics, plus the penalties and what known defects lack."""
        makers = PENALTIES if self.teach is None else {**PENALTIES, "teacher": self.teach}
        terms = {makers[name](self.pretrained): strength for name, strength in self.penalties.items()}
        if self.defects is not None:
            terms[self._known_defects(self.defects)] = 1.0
        floor = self._usual_distances() if self.floor and self.target != "dense" else None
        return InducedDistance(self.pretrained, self.distance, self.target, terms, floor)

    def _known_defects(self, defects: Pixels) -> Term:
        """Make the term of known defects; what is usual, held-out normal images say."""
        held_out = pooled_features(self.encoder, self.inputs("val"), self.compute)
        usual = usual_deviation(level_distances(self.pretrained, held_out, self.compute))
        return known_defects(self.pretrained, self.compute.batch(defects), usual)

    def _usual_distances(self) -> Tensor:
        """Average over training images, evenly drawn, the squared distance of pooled features, `(levels,)`."""
        train = self.inputs("train")
        some = np.unique(np.linspace(0, len(train) - 1, FLOOR_IMAGES).round().astype(int))
        features = pooled_features(self.encoder, train[some], self.compute)
        squared = np.square(level_distances(self.pretrained, features, self.compute)).mean(0)
        return torch.from_numpy(squared).float().to(self.compute.fabric.device)

    def parameter_groups(self, lr: float, *, layer_decay: float) -> list[dict[str, Any]]:
        """Group the encoder's parameters that train, see `Encoder.parameter_groups`."""
        return self.encoder.parameter_groups(lr, layer_decay=layer_decay)

    def trained(self) -> nn.Module:
        """Give the encoder."""
        return self.encoder

    def batch(self, pixels: Pixels, names: Sequence[str], number: int, pool: Pixels) -> Tensor:
        """Move images, or their early activations, to the device."""
        del names, number, pool
        return self.compute.batch(pixels)

    def score(self, detector: Detector, pixels: Pixels) -> Floats:
        """Compute the score that decides, which validation watches, `(n,)`; higher = more anomalous."""
        return score_images(detector, pixels, self.compute)[self.settings.score]

    def drift(self, fit: Fit) -> dict[str, float]:
        """Measure similarity to the pretrained features, rank, and distances of images that were and that
        were not trained on."""
        numbers: dict[str, float] = {}
        for level, before, after in zip(
            self.encoder.levels, self._features, fit.held_out_features, strict=True
        ):
            numbers[f"drift/cka.{level}"] = linear_cka(before[: len(after)], after)
            numbers[f"drift/effective_rank.{level}"] = effective_rank(after)
        detector = fit.detector
        if isinstance(detector, GaussianDetector):
            shares = detector.level_weights.cpu().numpy()
            for name, features in (("train", fit.train_features), ("held_out", fit.held_out_features)):
                distances = level_distances(detector, features, self.compute)
                numbers[f"val/{name}_distance"] = float((distances @ shares).mean())
        return numbers

    def images(self, kind: str) -> int:
        """Count the images that `refit` gives to the encoder."""
        train = len(self.inputs("train"))
        return (min(train, DRIFT_IMAGES) if kind == PRETRAINED else train) + len(self.inputs("val"))
