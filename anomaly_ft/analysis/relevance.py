"""What in an image raises its score? By the features exactly, by the pixels through integrated gradients.

A detector that looks at a corner of the photograph may have learnt how defective parts were photographed.
With the squared distance `d2 = z^T P z` of features `z` about their mean, `r = z * (P z)` says what each
feature adds to it: the sum is d2. To the pixels the score is carried by integrated gradients (Sundararajan et
al., ICML 2017), whose sum is the score less that of a baseline, but for a completeness error that is told.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from anomaly_ft.metrics import Floats

Score = Callable[[Tensor], Tensor]  # images (n, 3, h, w) in 0..255 to (n,)
Mask = NDArray[np.bool_]
BLOCKS = 28  # along each side: pixels are deleted and pointed at by blocks, single ones are mostly noise
FRAME = 1 / 14  # of the image's sides, at each border
DELETED = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 1.0)  # shares of the blocks
AT_ONCE = 8  # steps of integrated gradients
BLUR = 1 / 16  # of the image's side: standard deviation of the blurred baseline
MEAN, BLURRED = BASELINES = ("mean good image", "blurred image")


@dataclass(frozen=True)
class Attribution:
    """Relevance of each pixel `(n, h, w)`, higher = raises the score more; and by how much its sum misses the
    score less that of the baseline, `(n,)`, as a share of that difference."""

    maps: Floats
    error: Floats


@dataclass(frozen=True)
class Look:
    """Where the relevance of one image lies.

    Attributes:
        inside: share of the relevance that raises the score inside the mask; none without a mask.
        area: share of the image that the mask covers.
        points: whether the block of most relevance touches the mask.
        touched: share of the blocks that touch it: what pointing at random would reach.
        frame: share of the relevance that raises the score on the border frame, as a multiple of the frame's
            share of the image; 1 where it lies anywhere alike.
    """

    inside: float | None
    area: float | None
    points: bool | None
    touched: float | None
    frame: float


def feature_relevance(features: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Split the squared Mahalanobis distance over the features `(n, d)`: `(n, d)`, in float64; negative where
    a feature makes the others look more normal. The sum over features is that distance."""
    z = features.double() - mean.double()
    white = whitening.double()
    return z * (z @ white.T @ white)


def carriers(relevance: Floats) -> Floats:
    """Count how many features `(n,)` carry half of what raises the distance, the largest first, of relevance
    `(n, d)`."""
    raising = -np.sort(-np.maximum(relevance, 0), axis=1)
    shares = np.cumsum(raising, axis=1) / np.maximum(raising.sum(1, keepdims=True), np.finfo(float).tiny)
    return np.asarray((shares < 0.5).sum(1) + 1, dtype=np.float64)


def blurred(images: Tensor) -> Tensor:
    """Blur the images `(n, 3, h, w)`: a baseline that keeps light and colour but no detail."""
    sigma = BLUR * images.shape[-1]
    side = min(2 * round(3 * sigma) + 1, 2 * (min(images.shape[-2:]) // 2) - 1)
    blur: Tensor = gaussian_blur(images, [side, side], [sigma, sigma])
    return blur


def integrated_gradients(score: Score, images: Tensor, baseline: Tensor, *, steps: int = 32) -> Attribution:
    """Attribute the score of images `(n, 3, h, w)` to their pixels, on the straight way from a baseline.

    Args:
        score: differentiable.
        images: in 0..255.
        baseline: of the same shape, or one image for all.
        steps: of the midpoint rule; more of them lower the error.
    """
    way = images - baseline
    total = torch.zeros_like(images)
    middles = ((torch.arange(steps) + 0.5) / steps).to(images.device)
    for start in range(0, steps, AT_ONCE):
        part = middles[start : start + AT_ONCE]
        points = (baseline + part[:, None, None, None, None] * way).detach().requires_grad_()
        (gradients,) = torch.autograd.grad(score(points.flatten(0, 1)).sum(), points)
        total += gradients.sum(0) / steps
    maps = (way * total).sum(1).double()
    with torch.no_grad():
        gained = (score(images) - score(baseline.expand_as(images))).double()
    missed = (maps.sum((1, 2)) - gained).abs() / gained.abs().clamp_min(torch.finfo(torch.float32).tiny)
    return Attribution(maps.cpu().numpy(), missed.cpu().numpy())


def look(relevance: Floats, mask: Mask | None) -> Look:
    """Say where the relevance `(h, w)` of an image lies; `mask (h, w)` is where its defect is, if known."""
    raising = np.maximum(relevance, 0)
    total = max(float(raising.sum()), float(np.finfo(np.float64).tiny))
    edge = _frame(*relevance.shape)
    frame = float(raising[edge].sum()) / total / float(edge.mean())
    if mask is None or not mask.any():
        return Look(None, None, None, None, frame)
    blocks, covered = _blocks(relevance), _blocks(mask.astype(np.float64)) > 0
    return Look(
        inside=float(raising[mask].sum()) / total,
        area=float(mask.mean()),
        points=bool(covered.flat[int(blocks.argmax())]),
        touched=float(covered.mean()),
        frame=frame,
    )


def deletion(score: Score, image: Tensor, baseline: Tensor, relevance: Floats) -> float:
    """Measure the area under the score while the most relevant blocks of an image `(1, 3, h, w)` become the
    baseline.

    The score counts from that of the whole baseline, 0, to that of the image, 1, and what lies beyond as the
    nearer end: a baseline may score nearly as the image does. The lower the area, the more the relevance was
    right about what raises the score. Compare it with that of `relevance` at random.
    """
    height, width = relevance.shape
    ranks = np.argsort(np.argsort(-_blocks(relevance).ravel())).reshape(BLOCKS, BLOCKS) / BLOCKS**2
    order = F.interpolate(torch.from_numpy(ranks)[None, None], size=(height, width), mode="nearest")
    steps = [torch.where(order.to(image.device) < share, baseline, image) for share in DELETED]
    with torch.no_grad():
        scores = score(torch.cat(steps)).double().cpu().numpy()
    span = scores[0] - scores[-1]
    left = np.clip((scores - scores[-1]) / (span if span else 1.0), 0, 1)
    return float(np.trapezoid(left, DELETED))


def rank_correlation(first: Floats, second: Floats) -> float:
    """Compute Spearman's correlation of two maps `(h, w)`, block by block; 0 where one of them does not
    vary."""
    a, b = _blocks(first).ravel(), _blocks(second).ravel()
    if not np.ptp(a) or not np.ptp(b):
        return 0.0
    return float(spearmanr(a, b).statistic)


def mean_difference(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Average `after - before` over the same images, with its standard error."""
    gained = np.asarray(after) - np.asarray(before)
    error = float(gained.std(ddof=1) / np.sqrt(len(gained))) if len(gained) > 1 else float("nan")
    return float(gained.mean()), error


def _frame(height: int, width: int) -> Mask:
    tall, wide = max(1, round(FRAME * height)), max(1, round(FRAME * width))
    edge = np.ones((height, width), dtype=bool)
    edge[tall : height - tall, wide : width - wide] = False
    return edge


def _blocks(values: Floats) -> Floats:
    """Average over blocks, `(BLOCKS, BLOCKS)`."""
    whole = torch.from_numpy(np.ascontiguousarray(values, np.float64))
    return np.asarray(F.adaptive_avg_pool2d(whole[None], BLOCKS)[0].numpy())
