"""Encoder plus Gaussians: one module that turns images into scores and maps.

Three scores, all higher = more anomalous:

* pooled: the Mahalanobis distance of globally averaged features, mean over levels (Rippel et al.,
  IEEE TIM 70, 2021);
* dense: the maximum of a smoothed map of Mahalanobis distances, with a Gaussian of its own at each
  position of one grid (after Defard et al., PaDiM, 2021, with all dimensions and Ledoit-Wolf);
* fused: both in standard deviations of held-out normal images, added.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from anomaly_ft.errors import DivergedError, EncoderError
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder import Encoder, pool
from anomaly_ft.model.gaussian import Gaussian, Shrinkage, accumulate, fit, squared_distance

ScoreName = Literal["pooled", "dense", "fused"]
SCORES: tuple[ScoreName, ...] = ("pooled", "dense", "fused")


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector is fitted; the recipe's section `gaussian`."""

    score: ScoreName = "fused"
    shrinkage: Shrinkage = "ledoit_wolf"
    dense_levels: Sequence[str | int] | Literal["auto"] = "auto"
    grid: int = 14
    smoothing: float = 0.5
    variance_floor: float = 0.01


class Output(NamedTuple):
    """Scores `(n,)` and the dense map `(n, grid, grid)` of a batch; distances, higher = more anomalous."""

    pooled: Tensor
    dense: Tensor
    fused: Tensor
    map: Tensor


class Detector(nn.Module):
    """Scores images by their distance to the Gaussians of normal images.

    Buffers, all float32: `mean_i`, `whitening_i` for each level; `dense_mean (grid^2, d)`,
    `dense_whitening (grid^2, d, d)`; `location (2,)` and `spread (2,)`, mean and standard deviation
    of the pooled and the dense score over held-out normal images.
    """

    dense_mean: Tensor
    dense_whitening: Tensor
    location: Tensor
    spread: Tensor

    def __init__(self, encoder: Encoder, settings: DetectorSettings, gaussians: Sequence[Gaussian]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.dense_levels = choose_dense_levels(encoder, settings.dense_levels)
        *pooled, dense = gaussians
        for i, gaussian in enumerate(pooled):
            self.register_buffer(f"mean_{i}", gaussian.mean.float())
            self.register_buffer(f"whitening_{i}", gaussian.whitening.float())
        self.register_buffer("dense_mean", dense.mean.float())
        self.register_buffer("dense_whitening", dense.whitening.float())
        self.register_buffer("location", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))

    def forward(self, images: Tensor) -> Output:
        """RGB images `(n, 3, h, w)` in 0..255 to scores `(n,)` and maps `(n, grid, grid)`."""
        return self.score(self.encoder(images))

    def score(self, maps: Sequence[Tensor]) -> Output:
        """Scores from feature maps, as `Encoder` gives them."""
        pooled = self.level_distances(pool(maps)).mean(1)
        dense_map = squared_distance(self.dense_features(maps), self.dense_mean, self.dense_whitening).sqrt()
        dense_map = self._smooth(dense_map.view(-1, self.settings.grid, self.settings.grid))
        dense = dense_map.flatten(1).amax(1)
        parts = (torch.stack([pooled, dense], 1) - self.location) / self.spread
        return Output(pooled, dense, parts.sum(1), dense_map)

    def level_distances(self, features: Sequence[Tensor]) -> Tensor:
        """Mahalanobis distance (not squared) of pooled features to each level's Gaussian, `(n, levels)`."""
        distances = [
            squared_distance(f, self.get_buffer(f"mean_{i}"), self.get_buffer(f"whitening_{i}"))
            for i, f in enumerate(features)
        ]
        return torch.stack(distances, 1).sqrt()

    def dense_features(self, maps: Sequence[Tensor]) -> Tensor:
        """The dense levels on one grid, concatenated: `(n, grid^2, d)`, float32."""
        return on_grid([maps[i] for i in self.dense_levels], self.settings.grid)

    def _smooth(self, dense_map: Tensor) -> Tensor:
        sigma = self.settings.smoothing
        if sigma == 0:
            return dense_map
        side = 2 * math.ceil(3 * sigma) + 1
        with torch.autocast(dense_map.device.type, enabled=False):  # else the blur rounds distances to bf16
            return cast(Tensor, gaussian_blur(dense_map[:, None], [side, side], [sigma, sigma])[:, 0])


def choose_dense_levels(encoder: Encoder, levels: Sequence[str | int] | Literal["auto"]) -> list[int]:
    """Positions of the levels that make the dense map; `auto`: the last level at stride 4, 8 and 16.

    Encoders whose levels all have one stride, vision transformers, give the levels at a quarter, half
    and three quarters of their depth.
    """
    if levels != "auto":
        if not levels:
            raise EncoderError("gaussian.dense_levels: expected one or more levels, got none")
        for level in levels:
            if level not in (*encoder.levels, *range(len(encoder.levels))):
                raise EncoderError(
                    f"gaussian.dense_levels: {level!r} is none of the levels: {', '.join(encoder.levels)}"
                )
        return [level if isinstance(level, int) else encoder.levels.index(level) for level in levels]
    last = {stride: i for i, stride in enumerate(encoder.strides)}
    chosen = [last[stride] for stride in (4, 8, 16) if stride in last]
    depth = len(encoder.levels)
    return chosen if len(last) > 1 and chosen else sorted({depth * k // 4 for k in (1, 2, 3)})


def on_grid(maps: Sequence[Tensor], grid: int) -> Tensor:
    """Feature maps resized to `grid` x `grid` (averaged down, bilinear up): `(n, grid^2, sum of d)`."""
    return torch.cat([resize_to_grid(m.float(), grid) for m in maps], 1).flatten(2).mT.contiguous()


def resize_to_grid(level: Tensor, grid: int) -> Tensor:
    """A map `(n, d, h, w)` at `grid` x `grid`: averaged down, bilinear up."""
    if level.shape[-1] >= grid:
        return F.adaptive_avg_pool2d(level, grid)
    return F.interpolate(level, size=(grid, grid), mode="bilinear", align_corners=False)


def fit_detector(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
) -> Detector:
    """Fit all Gaussians to normal images in one pass, and the scores' scale to held-out normal images.

    Args:
        encoder: gives the features; is shared with the detector, not copied.
        pixels: normal images, uint8 `(n, h, w, 3)`.
        held_out: other normal images, for location and spread of the scores.
        compute: device, precision, batch size.
        settings: estimator and grid.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    sums = accumulate(_features(encoder, pixels, compute, settings))
    gaussians = [
        fit(s, settings.shrinkage, name=f"level {level}")
        for s, level in zip(sums, encoder.levels, strict=False)
    ]
    dense = fit(sums[-1], settings.shrinkage, floor=settings.variance_floor, name="dense map")
    detector = Detector(encoder, settings, [*gaussians, dense]).to(compute.fabric.device)
    standardise(detector, held_out, compute)
    return detector


def standardise(detector: Detector, held_out: NDArray[np.uint8], compute: Compute) -> None:
    """Set what the fused score is measured in: location and spread over held-out normal images."""
    normal = score_images(detector, held_out, compute)
    both = np.stack([normal["pooled"], normal["dense"]])
    detector.location.copy_(torch.from_numpy(both.mean(1)))
    detector.spread.copy_(torch.from_numpy(both.std(1, ddof=1)))


def score_images(
    detector: Detector, pixels: NDArray[np.uint8], compute: Compute
) -> dict[str, NDArray[np.float64]]:
    """The three scores of uint8 images `(n, h, w, 3)`, each `(n,)`, higher = more anomalous.

    Raises:
        DivergedError: a score that is not finite.
    """
    outputs: list[Output] = []
    for images in compute.batches(pixels):
        with torch.inference_mode(), compute.fabric.autocast():
            outputs.append(detector(images))
    return finite_scores(outputs)


def finite_scores(outputs: Sequence[Output]) -> dict[str, NDArray[np.float64]]:
    """The scores of batches, joined, each `(n,)`.

    Raises:
        DivergedError: a score that is not finite.
    """
    scores: dict[str, NDArray[np.float64]] = {
        name: torch.cat([getattr(out, name) for out in outputs]).double().cpu().numpy() for name in SCORES
    }
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise DivergedError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} {name} scores are not finite"
            )
    return scores


def _features(
    encoder: Encoder, pixels: NDArray[np.uint8], compute: Compute, settings: DetectorSettings
) -> Iterator[list[Tensor]]:
    """Batches of pooled features of every level, and last the dense ones."""
    dense_levels = choose_dense_levels(encoder, settings.dense_levels)
    for images in compute.batches(pixels):
        with torch.inference_mode(), compute.fabric.autocast():
            maps = encoder(images)
            features = [*pool(maps), on_grid([maps[i] for i in dense_levels], settings.grid)]
        yield features
