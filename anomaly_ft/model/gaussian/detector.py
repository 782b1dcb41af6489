"""Encoder and Gaussians: one module that turns images into scores and maps.

Three scores, all higher = more anomalous:

* pooled: the Mahalanobis distance of globally averaged features, mean over levels (Rippel et al.,
  IEEE TIM 70, 2021);
* dense: the largest Mahalanobis distance on a coarse grid with a Gaussian of its own at each position
  (after Defard et al., PaDiM, 2021, with Ledoit-Wolf), on levels deep enough to know what belongs there;
  or, where parts lie anyhow, with one Gaussian of all positions (see `positions`);
* fused: both in standard deviations of held-out normal images, added, the dense one `dense_weight` times.
Where an anomaly lies is another question than whether there is one: the dense map has a grid and shallower
levels of its own. The contribution map splits the pooled score over positions and so explains it.

A grid of g x g positions with d channels, at most `dense_dimensions`, takes 4 g^2 d^2 bytes, and 8 g^2 d^2 more
while it is fitted, whatever the number and size of images; one Gaussian of all positions 1 / g^2 of that. Of
images that are no squares the grid has their shape, see `grid_shape`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly_ft.model.encoder.encoder import Encoder, pool
from anomaly_ft.model.gaussian import levels as choice
from anomaly_ft.model.gaussian.fused import fuse
from anomaly_ft.model.gaussian.settings import LABELS, LEVEL_MEAN, SCORES, DetectorSettings
from anomaly_ft.model.gaussian.statistics import Gaussian, squared_distance, squared_distances
from anomaly_ft.model.maps import enlarge, grid_shape, keep_mean, on_grid, smooth, split_distance
from anomaly_ft.model.outputs import Detection, DistanceMean, Labels, Outputs
from anomaly_ft.model.storage import write_detector
from anomaly_ft.model.threshold import Thresholds


@dataclass(frozen=True)
class Statistics:
    """Estimates from normal images: a frozen value, replaced and never changed.

    Attributes:
        levels: a Gaussian for the pooled features of each level.
        dense: a Gaussian for each position of the dense score, or one for all of them.
        fine: the same of the dense map.
        location: `(2,)`, mean of the pooled and of the dense score over held-out normal images.
        spread: `(2,)`, their standard deviations.
    """

    levels: tuple[Gaussian, ...]
    dense: Gaussian
    fine: Gaussian
    location: Tensor
    spread: Tensor

    def standardised(self, normal: Mapping[str, NDArray[np.float64]]) -> "Statistics":
        """Scale both scores by those of held-out normal images, `(n,)`; the Gaussians stay."""
        both = np.stack([normal["pooled"], normal["dense"]])
        location, spread = (
            torch.from_numpy(values).float().to(self.location.device)
            for values in (both.mean(1), both.std(1, ddof=1))
        )
        return replace(self, location=location, spread=spread)


class GaussianDetector(nn.Module):
    """Scores images by their distance to the Gaussians of normal images; a view of an encoder and of
    statistics, which many detectors may share. Always in evaluation mode.

    Buffers, float32: `mean_i`, `whitening_i` for each level; `dense_mean (grid^2, d)`,
    `dense_whitening (grid^2, d, d)`, without `grid^2` where all positions share one, and `dense_kept (d,)`,
    int64, which channels those are; the same for the map; `location (2,)` and `spread (2,)`, see `Statistics`;
    `threshold ()`, above which the score that decides calls an image anomalous, infinite where no thresholds
    are given; `chi_square (levels + 1,)`, thresholds on each level's distance and on the pooled score that
    would hold for Gaussian features; `map_limit ()`, which no place of an unsuspicious map exceeds.
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

    def __init__(
        self,
        encoder: Encoder,
        settings: DetectorSettings,
        statistics: Statistics,
        thresholds: Thresholds | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.thresholds = thresholds
        self.grid = grid_shape(settings.grid, encoder.image_size)  # rows and columns
        self.map_grid = grid_shape(settings.map_grid, encoder.image_size)
        self.dense_levels = choice.choose_dense_levels(encoder, settings.dense_levels)
        self.map_levels = choice.choose_map_levels(encoder, settings.map_levels)
        for i, gaussian in enumerate(statistics.levels):
            self.register_buffer(f"mean_{i}", gaussian.mean.float())
            self.register_buffer(f"whitening_{i}", gaussian.whitening.float())
        dense, fine = (statistics.dense, self.dense_levels), (statistics.fine, self.map_levels)
        for name, (gaussian, levels) in {"dense": dense, "map": fine}.items():
            self.register_buffer(f"{name}_mean", gaussian.mean.float())
            self.register_buffer(f"{name}_whitening", gaussian.whitening.float())
            kept = choice.kept_channels(encoder, levels, settings.dense_dimensions)
            self.register_buffer(f"{name}_kept", kept.to(gaussian.mean.device))
        device = statistics.dense.mean.device
        shares = choice.shares(settings.level_weights, encoder.levels)
        self.register_buffer("level_weights", shares.to(device), persistent=False)
        self.register_buffer("location", statistics.location)
        self.register_buffer("spread", statistics.spread)
        unset = (torch.inf, torch.inf, (torch.inf,) * (len(encoder.levels) + 1))
        set_to = (
            (thresholds.point.threshold, thresholds.map_limit, thresholds.parametric or unset[2])
            if thresholds
            else unset
        )
        for name, value in zip(("threshold", "map_limit", "chi_square"), set_to, strict=True):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32, device=device))
        self.train(False)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores, in the order of reports."""
        return SCORES

    @property
    def labels(self) -> Labels:
        """Explanations of all scores and maps, for those who read a report."""
        return LABELS

    @property
    def distance_mean(self) -> DistanceMean:
        """The score that is the weighted mean of the levels' distances."""
        encoder, weights = self.encoder, tuple(self.level_weights.tolist())
        return DistanceMean(encoder.levels, encoder.widths, weights, LEVEL_MEAN)

    @property
    def decides(self) -> str:
        """Name of the score that is compared with the threshold."""
        return self.settings.score

    @property
    def shows(self) -> str:
        """Name of the map that belongs to that score."""
        return "contribution" if self.settings.score == "pooled" else "dense"

    @property
    def statistics(self) -> Statistics:
        """The values that this detector is a view of."""
        levels = tuple(_gaussian(*self.level_gaussian(i)) for i in range(len(self.encoder.levels)))
        dense, fine = (self.dense_mean, self.dense_whitening), (self.map_mean, self.map_whitening)
        return Statistics(levels, _gaussian(*dense), _gaussian(*fine), self.location, self.spread)

    def forward(self, images: Tensor) -> Detection:
        """Map RGB images `(n, 3, h, w)` in 0..255 to scores `(n,)` and maps `(n, h, w)`.

        The map is the dense one, or, where the pooled score decides, that score split over positions.
        Under autocast the encoder runs in its precision, distances and maps in float32.
        """
        return self.detect(self.encoder(images), images.shape[-2:])

    def detect(self, levels: Sequence[Tensor], size: Sequence[int]) -> Detection:
        """Compute `forward` from feature maps, as `Encoder` gives them, of images of `size` (height,
        width)."""
        outputs = self.outputs(levels, explain=False)
        return Detection(outputs.score, enlarge(outputs.map, size))

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute all scores `(n,)` from feature maps, as `Encoder` gives them."""
        pooled = (self.level_distances(pool(levels)) * self.level_weights).sum(1)
        dense = self.dense_scores(levels)
        fused = fuse(pooled, dense, self.location, self.spread, self.settings.dense_weight)
        return {"pooled": pooled, "dense": dense, "fused": fused}

    def dense_scores(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute the dense score `(n,)` from feature maps, as `Encoder` gives them."""
        coarse = self.squared_dense_distances(levels).sqrt().view(-1, *self.grid)
        return smooth(coarse, self.settings.smoothing).flatten(1).amax(1)

    def outputs(self, levels: Sequence[Tensor], *, explain: bool) -> Outputs[Tensor]:
        """Compute scores and maps from feature maps; with `explain` also the contribution map and each
        level's distance."""
        maps = {"dense": self.dense_map(levels)}
        if explain or self.shows == "contribution":
            maps["contribution"] = self.contribution_map(levels)
        distances = self.level_distances(pool(levels)) if explain else maps["dense"][:0]
        return Outputs(self.scores(levels), maps, distances, self.decides, self.shows)

    def dense_map(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute the distance at each position of the map's grid, smoothed: `(n, rows, columns)`."""
        features = on_grid([levels[i] for i in self.map_levels], self.map_grid, self.map_kept)
        fine = squared_distances(features, self.map_mean, self.map_whitening).sqrt()
        return smooth(fine.view(-1, *self.map_grid), self.settings.map_smoothing)

    def level_distances(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the Mahalanobis distance (not squared) of pooled features to each level's Gaussian, `(n,
        levels)`."""
        return self.squared_level_distances(features).sqrt()

    def squared_level_distances(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the squared Mahalanobis distance of pooled features to each level's Gaussian, `(n,
        levels)`."""
        return torch.stack([squared_distance(f, *self.level_gaussian(i)) for i, f in enumerate(features)], 1)

    def squared_dense_distances(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute the squared Mahalanobis distance at each position of the grid, `(n, positions)`."""
        return squared_distances(self.dense_features(maps), self.dense_mean, self.dense_whitening)

    def level_gaussian(self, i: int) -> tuple[Tensor, Tensor]:
        """Look up mean `(d,)` and whitening `(d, d)` of a level."""
        return self.get_buffer(f"mean_{i}"), self.get_buffer(f"whitening_{i}")

    def dense_features(self, maps: Sequence[Tensor]) -> Tensor:
        """Resize the dense levels to one grid and concatenate them: `(n, positions, d)`, float32."""
        return on_grid([maps[i] for i in self.dense_levels], self.grid, self.dense_kept)

    def contribution_map(self, maps: Sequence[Tensor]) -> Tensor:
        """Split the pooled score over the map's grid, `(n, rows, columns)`; its mean is the pooled
        score.

        Each level's contributions are divided by its distance, which leaves a map whose mean is the
        distance, brought to the grid, and averaged over levels by their weights.
        """
        distances = self.level_distances(pool(maps))
        levels = []
        for i, level in enumerate(maps):
            split = split_distance(level, *self.level_gaussian(i))
            split = split / distances[:, i, None, None].clamp_min(torch.finfo(split.dtype).tiny)
            levels.append(keep_mean(split, self.map_grid))
        return (torch.stack(levels) * self.level_weights[:, None, None, None]).sum(0)

    def standardised(self, normal: Mapping[str, NDArray[np.float64]]) -> "GaussianDetector":
        """Give a view whose fused score is in standard deviations of these scores of normal images."""
        scaled = self.statistics.standardised(normal)
        return GaussianDetector(self.encoder, self.settings, scaled, self.thresholds)

    def fused(self, scores: Mapping[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """Fuse pooled and dense scores `(n,)` that are there already, on this detector's scale."""
        pooled, dense = (torch.from_numpy(scores[name]).to(self.location) for name in ("pooled", "dense"))
        fused: Tensor = fuse(pooled, dense, self.location, self.spread, self.settings.dense_weight)
        return fused.cpu().double().numpy()

    def with_thresholds(self, thresholds: Thresholds) -> "GaussianDetector":
        """Give a view that decides by other thresholds."""
        return GaussianDetector(self.encoder, self.settings, self.statistics, thresholds)

    def save(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write encoder, tensors and description below `folder`; `about` is kept beside them for a reader."""
        point = self.thresholds.point if self.thresholds else None
        encoder, chosen = self.encoder, {"dense_levels": self.dense_levels, "map_levels": self.map_levels}
        # by name: `auto` may mean others one day
        names = {name: [encoder.levels[i] for i in levels] for name, levels in chosen.items()}
        resize = about.get("preprocessing", {}).get("resize", "stretch")
        description = {
            "kind": "gaussian",
            "encoder": encoder.keep(folder, resize=resize),
            "image_size": encoder.image_size,
            "levels": list(encoder.levels),
            "input": "RGB, image_size high and wide, values 0..255; the encoder's config has mean and std",
            "units": "Mahalanobis distances (fused: a sum of two standard scores), higher = more anomalous",
            "settings": asdict(self.settings) | names,
            "threshold": asdict(point) if point else None,
            **about,
        }
        tensors = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}
        write_detector(folder, tensors, description)

    def map_threshold(self) -> float | None:
        """Give the value of the dense map above which a place is suspicious, one for all images, so that
        outlines can be compared. None for the pooled score, whose map is another one."""
        return None if self.settings.score == "pooled" else float(self.map_limit)

    def colour_top(self) -> float:
        """Give twice what no place of an unsuspicious image exceeds; for the pooled score, whose map has no
        such limit, four times the mean score of held-out normal images."""
        limit = self.map_threshold()
        return 4 * float(self.location[0]) if limit is None else 2 * limit

    def train(self, mode: bool = True) -> "GaussianDetector":
        """Stay in evaluation mode: what is fine-tuned are weights, never statistics."""
        del mode
        return super().train(False)


def _gaussian(mean: Tensor, whitening: Tensor) -> Gaussian:
    return Gaussian(mean, whitening, torch.zeros(()), 0)
