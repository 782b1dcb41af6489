"""Encoder, Gaussians and working points: one module that turns images into scores and maps.

Three scores, all higher = more anomalous:

* pooled: the Mahalanobis distance of globally averaged features, mean over levels (Rippel et al.,
  IEEE TIM 70, 2021);
* dense: the maximum of a smoothed map of Mahalanobis distances, with a Gaussian of its own at each
  position of one grid (after Defard et al., PaDiM, 2021, with all dimensions and Ledoit-Wolf);
* fused: both in standard deviations of held-out normal images, added.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError, RunError
from anomaly_ft.model.encoder import Encoder, load_encoder, pool
from anomaly_ft.model.gaussian import Gaussian, Shrinkage, squared_distance
from anomaly_ft.model.maps import enlarge, keep_mean, on_grid, smooth, split_distance
from anomaly_ft.model.storage import read_detector, write_detector
from anomaly_ft.model.working_point import WorkingPoint

ScoreName = Literal["pooled", "dense", "fused"]
SCORES: tuple[ScoreName, ...] = ("pooled", "dense", "fused")


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector is fitted and which score decides; the recipe's section `gaussian`."""

    score: ScoreName = "fused"
    shrinkage: Shrinkage = "ledoit_wolf"
    dense_levels: Sequence[str | int] | Literal["auto"] = "auto"
    grid: int = 14
    smoothing: float = 0.5
    variance_floor: float = 0.01
    level_weights: Sequence[float] = ()  # of each level in the pooled score; none: all alike


class Detection(NamedTuple):
    """The score that decides `(n,)` and where it comes from `(n, h, w)`, a pixel for each of the image;
    in units of distance, higher = more anomalous."""

    scores: Tensor
    maps: Tensor


class Scores(NamedTuple):
    """All scores `(n,)` and the dense map `(n, grid, grid)` of a batch; distances, higher = more anomalous."""

    pooled: Tensor
    dense: Tensor
    fused: Tensor
    map: Tensor


class Detector(nn.Module):
    """Scores images by their distance to the Gaussians of normal images. Always in evaluation mode.

    Buffers, all float32: `mean_i`, `whitening_i` for each level; `dense_mean (grid^2, d)`,
    `dense_whitening (grid^2, d, d)`; `location (2,)` and `spread (2,)`, mean and standard deviation
    of the pooled and the dense score over held-out normal images; `threshold ()`, above which the
    score that decides calls an image anomalous, infinite until `set_point`; `chi_square (levels + 1,)`,
    thresholds on each level's distance and on the pooled score that would hold for Gaussian features.
    """

    dense_mean: Tensor
    dense_whitening: Tensor
    level_weights: Tensor
    location: Tensor
    spread: Tensor
    threshold: Tensor
    chi_square: Tensor

    def __init__(self, encoder: Encoder, settings: DetectorSettings, gaussians: Sequence[Gaussian]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.dense_levels = choose_dense_levels(encoder, settings.dense_levels)
        self.point: WorkingPoint | None = None
        *pooled, dense = gaussians
        for i, gaussian in enumerate(pooled):
            self.register_buffer(f"mean_{i}", gaussian.mean.float())
            self.register_buffer(f"whitening_{i}", gaussian.whitening.float())
        self.register_buffer("dense_mean", dense.mean.float())
        self.register_buffer("dense_whitening", dense.whitening.float())
        self.register_buffer("level_weights", shares(settings.level_weights, encoder.levels), persistent=False)
        self.register_buffer("location", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))
        self.register_buffer("threshold", torch.tensor(torch.inf))
        self.register_buffer("chi_square", torch.full((len(pooled) + 1,), torch.inf))
        self.train(False)

    def forward(self, images: Tensor) -> Detection:
        """RGB images `(n, 3, h, w)` in 0..255 to scores `(n,)` and maps `(n, h, w)`.

        The map is the dense one, or, where the pooled score decides, that score split over positions.
        Under autocast the encoder runs in its precision, distances and maps in float32.
        """
        return self.detect(self.encoder(images), images.shape[-2:])

    def detect(self, maps: Sequence[Tensor], size: Sequence[int]) -> Detection:
        """`forward` from feature maps, as `Encoder` gives them, of images of `size` (height, width)."""
        found = self.score(maps)
        small = self.contribution_map(maps) if self.settings.score == "pooled" else found.map
        return Detection(getattr(found, self.settings.score), enlarge(small, size))

    def score(self, maps: Sequence[Tensor]) -> Scores:
        """All scores from feature maps, as `Encoder` gives them."""
        pooled = (self.level_distances(pool(maps)) * self.level_weights).sum(1)
        dense_map = self.squared_dense_distances(maps).sqrt()
        dense_map = smooth(dense_map.view(-1, self.settings.grid, self.settings.grid), self.settings.smoothing)
        dense = dense_map.flatten(1).amax(1)
        parts = (torch.stack([pooled, dense], 1) - self.location) / self.spread
        return Scores(pooled, dense, parts.sum(1), dense_map)

    def level_distances(self, features: Sequence[Tensor]) -> Tensor:
        """Mahalanobis distance (not squared) of pooled features to each level's Gaussian, `(n, levels)`."""
        return self.squared_level_distances(features).sqrt()

    def squared_level_distances(self, features: Sequence[Tensor]) -> Tensor:
        """Squared Mahalanobis distance of pooled features to each level's Gaussian, `(n, levels)`."""
        return torch.stack([squared_distance(f, *self.level_gaussian(i)) for i, f in enumerate(features)], 1)

    def squared_dense_distances(self, maps: Sequence[Tensor]) -> Tensor:
        """Squared Mahalanobis distance at each position of the grid, `(n, grid^2)`."""
        return squared_distance(self.dense_features(maps), self.dense_mean, self.dense_whitening)

    def level_gaussian(self, i: int) -> tuple[Tensor, Tensor]:
        """Mean `(d,)` and whitening `(d, d)` of a level."""
        return self.get_buffer(f"mean_{i}"), self.get_buffer(f"whitening_{i}")

    def dense_features(self, maps: Sequence[Tensor]) -> Tensor:
        """The dense levels on one grid, concatenated: `(n, grid^2, d)`, float32."""
        return on_grid([maps[i] for i in self.dense_levels], self.settings.grid)

    def contribution_map(self, maps: Sequence[Tensor]) -> Tensor:
        """The pooled score split over one grid, `(n, grid, grid)`; its mean is the pooled score.

        Each level's contributions are divided by its distance, which leaves a map whose mean is the
        distance, brought to the grid, and averaged over levels by their weights.
        """
        distances = self.level_distances(pool(maps))
        levels = []
        for i, level in enumerate(maps):
            split = split_distance(level, *self.level_gaussian(i))
            split = split / distances[:, i, None, None].clamp_min(torch.finfo(split.dtype).tiny)
            levels.append(keep_mean(split, self.settings.grid))
        return (torch.stack(levels) * self.level_weights[:, None, None, None]).sum(0)

    def with_level_weights(self, weights: Sequence[float]) -> "Detector":
        """A detector with the same encoder and Gaussians whose levels count otherwise; to be standardised."""
        settings = replace(self.settings, level_weights=tuple(weights))
        return Detector(self.encoder, settings, self.gaussians()).to(self.location.device)

    def gaussians(self) -> list[Gaussian]:
        """Those of the levels, and last that of the dense map."""
        levels = [self.level_gaussian(i) for i in range(len(self.encoder.levels))]
        return [
            Gaussian(*pair, torch.zeros(()), 0) for pair in (*levels, (self.dense_mean, self.dense_whitening))
        ]

    def set_point(self, point: WorkingPoint, chi_square: Sequence[float] = ()) -> None:
        """Decide by `point` from now on, and keep the chi-square thresholds of levels and pooled score."""
        self.point = point
        self.threshold.fill_(point.threshold)
        if chi_square:
            self.chi_square.copy_(torch.tensor(chi_square))

    def map_threshold(self) -> float | None:
        """The value of the dense map above which a place makes an otherwise usual image anomalous; one value
        for all images, so that outlines can be compared. None for the pooled score, an average in which no
        place decides alone."""
        if self.settings.score == "pooled":
            return None
        if self.settings.score == "dense":
            return float(self.threshold)
        return float(self.location[1] + self.spread[1] * self.threshold)  # pooled as usual: adds nothing

    def train(self, mode: bool = True) -> "Detector":
        """Always evaluation mode: what is fine-tuned are weights, never statistics."""
        del mode
        return super().train(False)

    def save(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write encoder, tensors and description below `folder`; `about` is kept beside them for a reader."""
        tensors = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}
        description = {
            "settings": asdict(self.settings),
            "threshold": asdict(self.point) if self.point else None,
            **about,
        }
        write_detector(folder, self.encoder, tensors, description)

    @classmethod
    def load(cls, folder: Path) -> "Detector":
        """The detector of a run folder, on the CPU.

        Raises:
            RunError: files that are missing, damaged, or of a format this version does not know.
            EncoderError: an encoder that is missing or is not the one described.
        """
        description, tensors = read_detector(folder)
        try:
            if not (type(description["image_size"]) is int and 32 <= description["image_size"] <= 2048):
                raise ValueError(f"image_size is {description['image_size']!r:.40}, expected 32 to 2048")
            encoder = load_encoder(
                description["encoder"],
                f"local-dir:{folder / 'encoder'}",
                levels=description["levels"],
                image_size=description["image_size"],
            )
            settings = DetectorSettings(**description["settings"])
            if settings.score not in SCORES:
                raise RunError(
                    f"{folder}: detector.json decides by {settings.score!r}, expected {', '.join(SCORES)}"
                )
            names = [(f"mean_{i}", f"whitening_{i}") for i in range(len(encoder.levels))]
            gaussians = [
                Gaussian(tensors[mean], tensors[whitening], torch.zeros(()), 0)
                for mean, whitening in [*names, ("dense_mean", "dense_whitening")]
            ]
            detector = cls(encoder, settings, gaussians)
            for name in ("location", "spread", "threshold", "chi_square"):
                detector.get_buffer(name).copy_(tensors[name])
            if description["threshold"] is not None:
                detector.point = WorkingPoint(**description["threshold"])
                if torch.tensor(detector.point.threshold, dtype=torch.float32) != detector.threshold:
                    raise RunError(f"{folder}: detector.json and detector.safetensors have two thresholds")
            detector._try_out()
        except (RunError, EncoderError):
            raise
        except Exception as cause:  # the files may hold anything
            said = f"{type(cause).__name__}: {cause}".splitlines()[0][:300]
            raise RunError(
                f"{folder}: detector.json and detector.safetensors do not fit together: {said}"
            ) from cause
        return detector

    def _try_out(self) -> None:
        """Raise a ValueError, or whatever a blank image brings about, unless all parts fit together."""
        for i, width in enumerate(self.encoder.widths):
            shapes = [tuple(self.get_buffer(f"{name}_{i}").shape) for name in ("mean", "whitening")]
            if shapes != [(width,), (width, width)]:
                raise ValueError(
                    f"level {self.encoder.levels[i]} has {width} dimensions, its Gaussian {shapes}"
                )
        grid, smoothing = self.settings.grid, self.settings.smoothing
        if self.dense_mean.shape[0] != grid**2 or not 0 <= 3 * smoothing < grid:
            raise ValueError(f"the dense map does not fit a grid of {grid!r:.40} smoothed by {smoothing!r:.40}")
        for name, tensor in self.state_dict().items():
            if name not in ("threshold", "chi_square") and not tensor.isfinite().all():
                raise ValueError(f"{name} holds numbers that are not finite")
        if self.point and not all(math.isfinite(value) for value in vars(self.point).values()):
            raise ValueError("the threshold is not finite")
        size = self.encoder.image_size
        with torch.inference_mode():
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8))


def shares(weights: Sequence[float], levels: Sequence[str]) -> Tensor:
    """Weights of the levels as shares of one `(levels,)`; equal ones where no weights are given.

    Raises:
        EncoderError: not one weight for each level, negative ones, or zeros alone.
    """
    if not weights:
        return torch.full((len(levels),), 1 / len(levels))
    if len(weights) != len(levels) or min(weights) < 0 or sum(weights) <= 0:
        raise EncoderError(
            f"gaussian.level_weights: expected one weight of 0 or more for each of the {len(levels)} levels "
            f"({', '.join(levels)}), not all of them 0; got {list(weights)}"
        )
    return torch.tensor(weights) / sum(weights)


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
