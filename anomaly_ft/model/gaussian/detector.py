"""Encoder, Gaussians and working points: one module that turns images into scores and maps.

Three scores, all higher = more anomalous:

* pooled: the Mahalanobis distance of globally averaged features, mean over levels (Rippel et al.,
  IEEE TIM 70, 2021);
* dense: the largest Mahalanobis distance on a coarse grid with a Gaussian of its own at each position
  (after Defard et al., PaDiM, 2021, with Ledoit-Wolf), on levels deep enough to know what belongs there;
* fused: both in standard deviations of held-out normal images, added, the dense one `dense_weight` times.

Where an anomaly lies is another question than whether there is one: the dense map has a grid and shallower
levels of its own.

A grid of g x g positions with d channels, at most `dense_dimensions`, takes 4 g^2 d^2 bytes, and 8 g^2 d^2 more
while it is fitted, whatever the number and the size of images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError, RunError
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder, pool
from anomaly_ft.model.gaussian import levels as choice
from anomaly_ft.model.gaussian.statistics import Gaussian, Shrinkage, squared_distance
from anomaly_ft.model.interface import Detection, Scores
from anomaly_ft.model.maps import enlarge, keep_mean, on_grid, smooth, split_distance
from anomaly_ft.model.storage import check_grid, check_shapes, read_detector, write_detector
from anomaly_ft.model.threshold import WorkingPoint

ScoreName = Literal["pooled", "dense", "fused"]
SCORES: tuple[ScoreName, ...] = ("pooled", "dense", "fused")
READ_BACK = ("location", "spread", "threshold", "chi_square", "map_limit", "dense_kept", "map_kept")


@dataclass(frozen=True)
class DetectorSettings:
    """How a detector is fitted and which score decides; the recipe's section `gaussian`, which names them all.
    What is not named is as in the first run folders, which did not say it."""

    score: ScoreName = "fused"
    shrinkage: Shrinkage = "ledoit_wolf"
    dense_levels: Sequence[str | int] | Literal["auto"] = "auto"
    grid: int = 14
    smoothing: float = 0.5
    variance_floor: float = 0.01
    dense_dimensions: int = 256
    dense_weight: float = 1.0
    map_levels: Sequence[str | int] | Literal["auto"] = "auto"
    map_grid: int = 14
    map_smoothing: float = 0.0
    level_weights: Sequence[float] = ()  # of each level in the pooled score; none: all alike


class Detector(nn.Module):
    """Scores images by their distance to the Gaussians of normal images. Always in evaluation mode.

    Buffers, float32: `mean_i`, `whitening_i` for each level; `dense_mean (grid^2, d)`,
    `dense_whitening (grid^2, d, d)`, and `dense_kept (d,)`, int64, which channels those are; the same for
    the map; `location (2,)` and `spread (2,)`, mean and standard deviation
    of the pooled and the dense score over held-out normal images; `threshold ()`, above which the
    score that decides calls an image anomalous, infinite until `set_point`; `chi_square (levels + 1,)`,
    thresholds on each level's distance and on the pooled score that would hold for Gaussian features;
    `map_limit ()`, which no place of an unsuspicious map exceeds.
    """

    dense_mean: Tensor
    dense_whitening: Tensor
    dense_kept: Tensor
    map_mean: Tensor
    map_whitening: Tensor
    map_kept: Tensor
    map_limit: Tensor
    level_weights: Tensor
    location: Tensor
    spread: Tensor
    threshold: Tensor
    chi_square: Tensor

    def __init__(self, encoder: Encoder, settings: DetectorSettings, gaussians: Sequence[Gaussian]) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.dense_levels = choice.choose_dense_levels(encoder, settings.dense_levels)
        self.map_levels = choice.choose_map_levels(encoder, settings.map_levels)
        self.point: WorkingPoint | None = None
        *pooled, dense, fine = gaussians
        for i, gaussian in enumerate(pooled):
            self.register_buffer(f"mean_{i}", gaussian.mean.float())
            self.register_buffer(f"whitening_{i}", gaussian.whitening.float())
        for name, gaussian, levels in (("dense", dense, self.dense_levels), ("map", fine, self.map_levels)):
            self.register_buffer(f"{name}_mean", gaussian.mean.float())
            self.register_buffer(f"{name}_whitening", gaussian.whitening.float())
            self.register_buffer(
                f"{name}_kept", choice.kept_channels(encoder, levels, settings.dense_dimensions)
            )
        self.register_buffer("map_limit", torch.tensor(torch.inf))
        self.register_buffer(
            "level_weights", choice.shares(settings.level_weights, encoder.levels), persistent=False
        )
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
        how = self.settings
        pooled = (self.level_distances(pool(maps)) * self.level_weights).sum(1)
        coarse = self.squared_dense_distances(maps).sqrt()
        dense = smooth(coarse.view(-1, how.grid, how.grid), how.smoothing).flatten(1).amax(1)
        parts = (torch.stack([pooled, dense], 1) - self.location) / self.spread
        fused = parts[:, 0] + how.dense_weight * parts[:, 1]
        return Scores(pooled, dense, fused, self.dense_map(maps))

    def dense_map(self, maps: Sequence[Tensor]) -> Tensor:
        """The distance at each position of the map's grid, smoothed: `(n, map_grid, map_grid)`."""
        how = self.settings
        features = on_grid([maps[i] for i in self.map_levels], how.map_grid, self.map_kept)
        fine = squared_distance(features, self.map_mean, self.map_whitening).sqrt()
        return smooth(fine.view(-1, how.map_grid, how.map_grid), how.map_smoothing)

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
        return on_grid([maps[i] for i in self.dense_levels], self.settings.grid, self.dense_kept)

    def contribution_map(self, maps: Sequence[Tensor]) -> Tensor:
        """The pooled score split over the map's grid, `(n, map_grid, map_grid)`; its mean is the pooled score.

        Each level's contributions are divided by its distance, which leaves a map whose mean is the
        distance, brought to the grid, and averaged over levels by their weights.
        """
        distances = self.level_distances(pool(maps))
        levels = []
        for i, level in enumerate(maps):
            split = split_distance(level, *self.level_gaussian(i))
            split = split / distances[:, i, None, None].clamp_min(torch.finfo(split.dtype).tiny)
            levels.append(keep_mean(split, self.settings.map_grid))
        return (torch.stack(levels) * self.level_weights[:, None, None, None]).sum(0)

    def with_level_weights(self, weights: Sequence[float]) -> "Detector":
        """A detector with the same encoder and Gaussians whose levels count otherwise; to be standardised."""
        settings = replace(self.settings, level_weights=tuple(weights))
        return Detector(self.encoder, settings, self.gaussians()).to(self.location.device)

    def gaussians(self) -> list[Gaussian]:
        """Those of the levels, and last those of the dense score and of the map."""
        levels = [self.level_gaussian(i) for i in range(len(self.encoder.levels))]
        dense = [(self.dense_mean, self.dense_whitening), (self.map_mean, self.map_whitening)]
        return [Gaussian(*pair, torch.zeros(()), 0) for pair in (*levels, *dense)]

    def set_point(
        self, point: WorkingPoint, chi_square: Sequence[float] = (), map_limit: float | None = None
    ) -> None:
        """Decide by `point` from now on, and keep the chi-square thresholds of levels and pooled score and
        the value of the dense map above which a place is suspicious."""
        self.point = point
        self.threshold.fill_(point.threshold)
        if map_limit is not None:
            self.map_limit.fill_(map_limit)
        if chi_square:
            self.chi_square.copy_(torch.tensor(chi_square))

    def map_threshold(self) -> float | None:
        """The value of the dense map above which a place is suspicious, one for all images, so that outlines
        can be compared. None for the pooled score, whose map is another one."""
        return None if self.settings.score == "pooled" else float(self.map_limit)

    def train(self, mode: bool = True) -> "Detector":
        """Always evaluation mode: what is fine-tuned are weights, never statistics."""
        del mode
        return super().train(False)

    def save(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write encoder, tensors and description below `folder`; `about` is kept beside them for a reader."""
        tensors = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}

        def names(levels: Sequence[int]) -> list[str]:
            return [self.encoder.levels[i] for i in levels]

        description = {
            "settings": asdict(self.settings)
            | {"dense_levels": names(self.dense_levels)}
            | {"map_levels": names(self.map_levels)},  # by name: `auto` may mean others one day
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
            settings = DetectorSettings(**choice.stored_levels(encoder, description["settings"]))
            if settings.score not in SCORES:
                said = f"detector.json decides by {settings.score!r}, expected {', '.join(SCORES)}"
                raise RunError(f"{folder}: {said}")
            pairs = [(f"mean_{i}", f"whitening_{i}") for i in range(len(encoder.levels))]
            pairs += [("dense_mean", "dense_whitening"), ("map_mean", "map_whitening")]
            gaussians = [
                Gaussian(tensors[mean], tensors[whitening], torch.zeros(()), 0) for mean, whitening in pairs
            ]
            check_shapes(tensors, dict(zip(encoder.levels, encoder.widths, strict=True)))
            check_grid("score", tensors["dense_mean"], settings.grid, settings.smoothing)
            check_grid("map", tensors["map_mean"], settings.map_grid, settings.map_smoothing)
            detector = cls(encoder, settings, gaussians)
            for name in READ_BACK:
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
        for name, tensor in self.state_dict().items():
            if name not in ("threshold", "chi_square", "map_limit") and not tensor.isfinite().all():
                raise ValueError(f"{name} holds numbers that are not finite")
        if self.point and not all(math.isfinite(value) for value in vars(self.point).values()):
            raise ValueError("the threshold is not finite")
        size = self.encoder.image_size
        with torch.inference_mode():
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
