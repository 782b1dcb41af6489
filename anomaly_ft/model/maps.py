"""Where an image is anomalous: two maps in score units, and everything else of one forward pass.

* dense map: the distance at every position, `Detector.forward` gives it; it localises.
* contribution map: the pooled score split over positions without remainder; it explains.

With mean pooling f = mean_ij f_ij, so (f - mu)^T P (f - mu) = mean_ij (f_ij - mu)^T P (f - mu): the
terms of that mean are what each position contributes to a level's squared distance. Positions that
pull the average back towards normal contribute less than nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.data.images import Decoder
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.detector import SCORES, Detector, finite_scores, resize_to_grid
from anomaly_ft.model.encoder import pool

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Examined:
    """All that a detector says about n images; distances, higher = more anomalous.

    `scores` by name `(n,)`; `distances (n, levels)` of pooled features; `dense` and `contribution`
    maps `(n, grid, grid)`: the dense score is the maximum of the one, the pooled score the mean of
    the other.
    """

    scores: dict[str, NDArray[np.float64]]
    distances: NDArray[np.float64]
    dense: Map
    contribution: Map


def contributions(detector: Detector, maps: Sequence[Tensor]) -> list[Tensor]:
    """What each position contributes to each level's squared distance: `(n, h_l, w_l)`, float32.

    The mean over positions is the level's squared Mahalanobis distance; single values may be negative.
    """
    split = []
    for i, (features, level) in enumerate(zip(pool(maps), maps, strict=True)):
        mean, whitening = detector.get_buffer(f"mean_{i}"), detector.get_buffer(f"whitening_{i}")
        with torch.autocast(features.device.type, enabled=False):
            towards = (features.to(mean.dtype) - mean) @ whitening.mT @ whitening  # P (f - mu), (n, d)
            at_mean = (towards @ mean)[:, None, None]
            split.append(torch.einsum("ndhw,nd->nhw", level.to(mean.dtype), towards) - at_mean)
    return split


def contribution_map(detector: Detector, maps: Sequence[Tensor]) -> Tensor:
    """The pooled score split over one grid, `(n, grid, grid)`; its mean is the pooled score.

    Each level's contributions are divided by its distance, which leaves a map whose mean is the
    distance, brought to the grid, and averaged over levels.
    """
    grid, total = detector.settings.grid, torch.zeros(())
    distances = detector.level_distances(pool(maps))
    for i, split in enumerate(contributions(detector, maps)):
        level = split / distances[:, i, None, None].clamp_min(torch.finfo(split.dtype).tiny)
        total = total.to(level) + _to_grid(level, grid)
    return total / len(maps)


def examine(detector: Detector, pixels: NDArray[np.uint8], compute: Compute) -> Examined:
    """Scores, distances and maps of uint8 images `(n, h, w, 3)`, each seen once by the encoder.

    Raises:
        DivergedError: a score that is not finite.
    """
    parts = [examine_batch(detector, images, compute) for images in compute.batches(pixels)]
    return Examined(
        {name: np.concatenate([part.scores[name] for part in parts]) for name in SCORES},
        np.concatenate([part.distances for part in parts]),
        np.concatenate([part.dense for part in parts]),
        np.concatenate([part.contribution for part in parts]),
    )


def examine_batch(detector: Detector, images: Tensor, compute: Compute, *, explain: bool = True) -> Examined:
    """`examine` for one batch `(n, 3, h, w)` in 0..255; without `explain` distances and contribution stay
    empty, and it takes no longer than `Detector.forward`."""
    with torch.inference_mode(), compute.fabric.autocast():
        maps = detector.encoder(images)
        output = detector.score(maps)
        distances = detector.level_distances(pool(maps)) if explain else output.map[:0]
        contribution = contribution_map(detector, maps) if explain else output.map[:0]
    return Examined(
        finite_scores([output]),
        distances.double().cpu().numpy(),
        output.map.float().cpu().numpy(),
        contribution.float().cpu().numpy(),
    )


def upsample(small: Map, height: int, width: int, decoder: Decoder) -> Map:
    """A map `(grid, grid)` at an image's original size `(height, width)`: bilinear, in score units.

    What the decoder cut off was never looked at, and has the lowest value of the map.
    """
    if decoder.resize == "squash":
        return _bilinear(small, height, width)
    seen = _bilinear(small, decoder.size, decoder.size)
    scale = decoder.size / (min(height, width) if decoder.resize == "shortest-crop" else max(height, width))
    tall, wide = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (decoder.size - tall) // 2, (decoder.size - wide) // 2  # of the image in what was seen
    if decoder.resize == "letterbox":
        return _bilinear(seen[top : top + tall, left : left + wide], height, width)
    top, left = (tall - decoder.size) // 2, (wide - decoder.size) // 2  # of what was seen in the image
    whole = np.full((tall, wide), small.min(), dtype=np.float32)
    whole[top : top + decoder.size, left : left + decoder.size] = seen
    return _bilinear(whole, height, width)


def map_threshold(detector: Detector, score: str, threshold: float) -> float | None:
    """The value of the dense map above which a place makes an otherwise usual image anomalous; one value
    for all images, so that outlines can be compared.

    Args:
        detector: whose fused score joins pooled and dense.
        score: the score that decides.
        threshold: the score above which an image is anomalous.

    Returns:
        None for the pooled score, an average in which no place decides alone.
    """
    if score == "pooled":
        return None
    if score == "dense":
        return threshold
    return float(detector.location[1] + detector.spread[1] * threshold)  # pooled as usual: adds nothing


def _bilinear(small: Map, height: int, width: int) -> Map:
    image = torch.from_numpy(np.array(small, dtype=np.float32))[None, None]
    large = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=False)
    return np.asarray(large[0, 0].numpy(), dtype=np.float32)


def _to_grid(level: Tensor, grid: int) -> Tensor:
    """A level's map on the grid, with the mean it had, which resizing alone may change a little."""
    resized = resize_to_grid(level[:, None], grid)
    return resized[:, 0] + (level.mean((1, 2)) - resized.mean((1, 2, 3)))[:, None, None]
