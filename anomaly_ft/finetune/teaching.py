"""A larger encoder teaches the one that trains, on the user's good images (after Romero et al., FitNets, 2015:
features and not outputs are taught, through a linear map).

What the student's dense features say of the teacher's at the same place is a linear guess, fitted once before
training and fixed from then on: nothing more trains, nothing of it is stored, and a run that goes on fits the
same guess again. The loss is the part of the teacher's features that the guess misses, in the metric of their
own Gaussian. With a map that trains along, the map would learn and the encoder could stay as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.finetune.brakes.penalties import Term
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.statistics import Gaussian, fit, moments
from anomaly_ft.model.teacher import Teacher

IMAGES = 128  # that the guess is fitted to at most; each has as many rows as the grid has positions


@dataclass(frozen=True)
class Guess:
    """What the student's features `(n, positions, d)` say of the teacher's `(n, positions, t)`.

    Attributes:
        student: Gaussian of all positions, with whose whitening the guess begins.
        teacher: Gaussian of all positions, in whose metric it is measured.
        slope: `(t, d)`, of whitened teacher features on whitened student features.
    """

    student: Gaussian
    teacher: Gaussian
    slope: Tensor

    def missed(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Measure how much of the teacher's features the guess misses: the mean square, over images, positions
        and dimensions, of the whitened difference; 0: nothing, about 1: as much as their mean alone would."""
        with torch.autocast(student.device.type, enabled=False):
            guessed = _white(student, self.student) @ self.slope.mT
            return (_white(teacher, self.teacher) - guessed).square().mean()


def taught(detector: GaussianDetector, teacher: Teacher, pixels: Pixels, compute: Compute) -> Term:
    """Make the term that pulls features towards those from which a teacher's follow.

    Args:
        detector: of the encoder as it is before training.
        teacher: another encoder.
        pixels: normal images, uint8 `(n, h, w, 3)`, as they are trained on; some are used, evenly drawn.
        compute: device and batch size.

    Raises:
        GaussianError: features of one of them that do not vary.
        DivergedError: features that are not finite.
    """
    compute.prepare(teacher.encoder)
    dimensions = detector.settings.dense_dimensions
    guess = fit_guess(*_both(detector, teacher, pixels, compute), detector)

    def term(_features: Sequence[Tensor], images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        return guess.missed(detector.dense_features(maps), teacher.features(images, detector.grid, dimensions))

    return term


def fit_guess(student: Tensor, teacher: Tensor, detector: GaussianDetector) -> Guess:
    """Fit the guess to features of the same images, `(n, positions, d)` and `(n, positions, t)`: ridge
    regression whose ridge is the shrinkage of the student's covariance.

    Raises:
        GaussianError: features that do not vary.
        DivergedError: features that are not finite.
    """
    settings = detector.settings
    own = fit(moments(student.flatten(0, 1)), settings.shrinkage, name="the encoder's features on the grid")
    theirs = fit(
        moments(teacher.flatten(0, 1)),
        settings.shrinkage,
        floor=settings.variance_floor,
        name="objective.teacher: its features",
    )
    x, y = _white(student.double(), own).flatten(0, 1), _white(teacher.double(), theirs).flatten(0, 1)
    slope, device = y.mT @ x / len(x), detector.dense_mean.device
    return Guess(_ready(own, device), _ready(theirs, device), slope.float().to(device))


def _both(
    detector: GaussianDetector, teacher: Teacher, pixels: Pixels, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Compute features of student and teacher of some images, on the processor; every process those of all."""
    some = np.unique(np.linspace(0, len(pixels) - 1, IMAGES).round().astype(int))
    student, theirs = [], []
    with torch.inference_mode(), detector.encoder.folded():
        for images in compute.batches(pixels[some]):
            student.append(detector.dense_features(detector.encoder(images)).cpu())
            theirs.append(teacher.features(images, detector.grid, detector.settings.dense_dimensions).cpu())
    return torch.cat(student), torch.cat(theirs)


def _white(features: Tensor, gaussian: Gaussian) -> Tensor:
    return (features - gaussian.mean) @ gaussian.whitening.mT


def _ready(gaussian: Gaussian, device: torch.device) -> Gaussian:
    """Give a Gaussian in the precision of training, where it is used."""
    mean, whitening = (tensor.float().to(device) for tensor in (gaussian.mean, gaussian.whitening))
    return Gaussian(mean, whitening, gaussian.shrinkage, gaussian.count)
