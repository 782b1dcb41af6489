"""How Gaussians of earlier parts follow an encoder that goes on training, and what forgetting costs: plain
tensors and numbers in and out, for `continual.py`.

Nothing of an earlier part A is kept but its Gaussians. Training for B moves features; how is known of B's
images, which the encoder sees before and after. What is assumed, and cannot be checked without A's images:
*A's features move as B's do*. Two guesses of that movement:

* a shift, the mean over B (after the semantic drift of Yu et al., CVPR 2020, with one mean for their weighted
  ones);
* an affine map x -> M x + b, least squares with a ridge on M - I, so that little evidence leaves a shift.

To draw samples of A's Gaussian, send them through such a map and fit a Gaussian again is, without the noise of
drawing, to move mean and covariance: M mean + b, M cov M^T. So that is what "replay" is here. It is exact for
the empirical covariance; Ledoit and Wolf's shrinkage of the moved features would be another one than the moved
shrinkage. Left out on purpose: the variance of what the map does not explain, and replay *inside* training: an
encoder takes images, and from a Gaussian of features none can be drawn.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anomaly_ft.model.gaussian.statistics import Gaussian

# of the ridge, in mean variances of a feature; infinite leaves a shift
SHIFT, DAMPED = math.inf, 1.0
STRENGTHS = (1e-8, 1e-4, 1e-2, 0.1, DAMPED, 10.0, SHIFT)
History = Sequence[Mapping[str, float]]  # after each part, the AUROC of every part seen so far, by name


@dataclass(frozen=True)
class Affine:
    """The map x -> matrix x + offset: `(d, d)` and `(d,)`, float64."""

    matrix: Tensor
    offset: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Map features `(..., d)`."""
        return features.double() @ self.matrix.mT + self.offset


def ridge(before: Tensor, after: Tensor, strength: float) -> Affine:
    """Fit how features `(n, d)` of the same images moved: least squares with a ridge on what is no shift.

    Args:
        before: of the images, by the encoder before.
        after: of the same images in the same order, by the encoder after.
        strength: one of `STRENGTHS`.

    Raises:
        ValueError: the two are not of the same images and features, or there are none.
    """
    if before.shape != after.shape or before.dim() != 2 or not len(before):
        raise ValueError(
            f"features are {tuple(before.shape)} before and {tuple(after.shape)} after, "
            "expected (n, d) of the same images"
        )
    x, y = before.double(), after.double()
    centre, identity = x.mean(0), torch.eye(x.shape[1], dtype=torch.float64)
    shift = (y - x).mean(0)
    if math.isinf(strength) or len(x) == 1:
        return Affine(identity, shift)
    z = x - centre
    square = z.mT @ z
    least = strength * square.diagonal().mean()
    matrix = identity + torch.linalg.solve(square + least * identity, z.mT @ (y - x - shift)).mT
    return Affine(matrix, centre + shift - matrix @ centre)


def affine_drift(before: Tensor, after: Tensor, held_out: tuple[Tensor, Tensor]) -> Affine:
    """Fit `ridge` with the strength that errs least on other images of the same part.

    Args:
        before: see `ridge`.
        after: see `ridge`.
        held_out: features of these other images before and after.
    """
    guesses = [ridge(before, after, strength) for strength in STRENGTHS]
    errors = [float((guess(held_out[0]) - held_out[1].double()).square().mean()) for guess in guesses]
    return guesses[int(np.argmin(errors))]


def moved(gaussian: Gaussian, by: Affine) -> Gaussian:
    """Move a Gaussian, or one for each group, as its features moved: M mean + b, M cov M^T.

    Raises:
        ValueError: a map that flattens features, after which no distance is left.
    """
    whitening = gaussian.whitening.double()
    identity = torch.eye(whitening.shape[-1], dtype=torch.float64).expand_as(whitening)
    factor = by.matrix @ torch.linalg.solve_triangular(whitening, identity, upper=False)  # of the covariance
    # factor factor^T = R^T R; multiplied out it would lose half the digits
    upper = torch.linalg.qr(factor.mT, mode="r").R
    diagonal = upper.diagonal(dim1=-2, dim2=-1)
    if bool((diagonal.abs().amin(-1) <= 1e-12 * diagonal.abs().amax(-1)).any()):
        raise ValueError("the map flattens features, no Gaussian is left of them")
    lower = (upper * diagonal.sign()[..., None]).mT
    whitening = torch.linalg.solve_triangular(lower, identity, upper=False)
    return Gaussian(by(gaussian.mean), whitening, gaussian.shrinkage, gaussian.count)


def missed(guesses: Sequence[Affine], before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """Compute which share of the squared length that features truly moved the guesses miss, median over
    Gaussians whose features moved; 0 = none, 1 = as without a guess, more = worse; nan where none moved.

    Args:
        guesses: of each Gaussian's features.
        before: features `(n, d)` of the images that are told about, for each Gaussian.
        after: of the same images, by the encoder after.
    """
    shares = []
    for guess, x, y in zip(guesses, before, after, strict=True):
        length = float((x.double() - y).square().sum())
        if length > 0:  # not of a level in a part of the encoder that does not train
            shares.append(float((guess(x) - y).square().sum()) / length)
    return float(np.median(shares)) if shares else math.nan


def average_last(history: History) -> float:
    """Average over all parts the AUROC after the last one; higher = better.

    Raises:
        ValueError: nothing was measured.
    """
    if not history or not history[-1]:
        raise ValueError("nothing was measured after the last part")
    return float(np.mean(list(history[-1].values())))


def forgetting(history: History) -> dict[str, float]:
    """Compute what each part lost, its best AUROC less its last; 0 = nothing was forgotten. The last part has
    had no time to be forgotten, and is left out.

    Raises:
        ValueError: a part that was measured once and not after the last part.
    """
    lost = {}
    for name in dict.fromkeys(name for stage in history[:-1] for name in stage):
        if name not in history[-1]:
            raise ValueError(f"{name} was not measured after the last part")
        lost[name] = max(stage[name] for stage in history if name in stage) - history[-1][name]
    return lost
