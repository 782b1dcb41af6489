"""Encoder, filter and statistics of its residual: one module that turns images into a score and a map.

A filter is a projection onto what is normal, p; of the whitened features x of an image it leaves the residual
r = x - p(x). (An encoder that is the image itself has colours for features.) Normal images leave a residual
too: a Gaussian of it, at each position or one of all, says how far a residual is beyond what they leave. Its
Mahalanobis distance, smoothed, is the map; the mean of the map's highest values is the score, steadier than
the highest one alone.

An untrained filter leaves the input itself, up to a unit: the detector then is that of Gaussians of the
features at each position (`gaussian.detector`, dense score). Training starts there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.net import FilterNet
from anomaly_ft.model.filter.settings import LABELS, MAP, SCORE, FilterSettings, Place
from anomaly_ft.model.gaussian.statistics import Gaussian, squared_distances
from anomaly_ft.model.maps import enlarge, on_grid, smooth
from anomaly_ft.model.outputs import NO_DISTANCES, Detection, DistanceMean, Labels, Outputs
from anomaly_ft.model.storage import write_detector
from anomaly_ft.model.threshold import Thresholds


class FilterSpace(nn.Module):
    """Turns the levels of an encoder into whitened maps; a frozen value.

    Buffers, float32: `mean (d,)` and `whitening (d, d)` of the features at all positions; `kept (d,)`, int64,
    which channels of the levels, one after another, those are.
    """

    mean: Tensor
    whitening: Tensor
    kept: Tensor

    def __init__(self, place: Place, mean: Tensor, whitening: Tensor) -> None:
        super().__init__()
        self.levels, self.grid = place.levels, place.grid
        self.register_buffer("kept", place.kept.to(mean.device))
        self.register_buffer("mean", mean.float())
        self.register_buffer("whitening", whitening.float())

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute `(n, d, grid, grid)` in float32 from all feature maps of the encoder."""
        features = on_grid([levels[i] for i in self.levels], self.grid, self.kept)
        with torch.autocast(features.device.type, enabled=False):
            white = (features - self.mean) @ self.whitening.mT
        return white.mT.reshape(*white.mT.shape[:2], self.grid, self.grid)


@dataclass(frozen=True)
class Filter:
    """An encoder and what a filter was made of it; detectors are views of it.

    Attributes:
        encoder: gives the levels; does not train.
        space: what the net is given.
        net: trains.
        settings: how they were made.
    """

    encoder: Encoder
    space: FilterSpace
    net: FilterNet
    settings: FilterSettings

    def residual(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute what the filter takes away, `(n, grid^2, d)` in float32, from the encoder's levels."""
        given: Tensor = self.space(levels)
        filtered: Tensor = self.net(given)
        left: Tensor = given - filtered.float()
        return left.flatten(2).mT.contiguous()


class FilterDetector(nn.Module):
    """Scores images by how far a filter moves them; a view of a filter and of statistics. Always in evaluation
    mode.

    Buffers, float32, beside those of `FilterSpace`: `residual_mean (grid^2, d)` and `residual_whitening
    (grid^2, d, d)`, without `grid^2` where all positions share one; `threshold ()`, above which the score calls
    an image anomalous, infinite where no thresholds are given; `map_limit ()`, which no place of an
    unsuspicious map exceeds.
    """

    residual_mean: Tensor
    residual_whitening: Tensor
    threshold: Tensor
    map_limit: Tensor

    def __init__(self, made: Filter, residual: Gaussian, thresholds: Thresholds | None = None) -> None:
        super().__init__()
        self.encoder, self.space, self.net, self.settings = made.encoder, made.space, made.net, made.settings
        self.made, self.thresholds = made, thresholds
        self.register_buffer("residual_mean", residual.mean.float())
        self.register_buffer("residual_whitening", residual.whitening.float())
        limits = (thresholds.point.threshold, thresholds.map_limit) if thresholds else (torch.inf, torch.inf)
        for name, value in zip(("threshold", "map_limit"), limits, strict=True):
            limit = torch.tensor(value, dtype=torch.float32, device=self.residual_mean.device)
            self.register_buffer(name, limit)
        self.train(False)

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores: there is one."""
        return (SCORE,)

    @property
    def decides(self) -> str:
        """Name of the score that is compared with the threshold."""
        return SCORE

    @property
    def labels(self) -> Labels:
        """Explanations of score and map."""
        return LABELS

    @property
    def distance_mean(self) -> DistanceMean:
        """No score is a mean of the levels' distances."""
        return NO_DISTANCES

    def forward(self, images: Tensor) -> Detection:
        """Map RGB images `(n, 3, h, w)` in 0..255 to scores `(n,)` and maps `(n, h, w)`."""
        return self.detect(self.encoder(images), images.shape[-2:])

    def detect(self, levels: Sequence[Tensor], size: Sequence[int]) -> Detection:
        """Compute the same from the encoder's levels, of images of `size` (height, width)."""
        residual = self.residual_map(levels)
        return Detection(self.score_of(residual), enlarge(residual, size))

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the score `(n,)` from the encoder's levels."""
        return {SCORE: self.score_of(self.residual_map(levels))}

    def outputs(self, levels: Sequence[Tensor], *, explain: bool) -> Outputs[Tensor]:
        """Compute score and map from the encoder's levels; the map explains the score already."""
        del explain
        residual = self.residual_map(levels)
        none = residual.new_zeros((len(residual), 0))
        return Outputs({SCORE: self.score_of(residual)}, {MAP: residual}, none, SCORE, MAP)

    def residual_map(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute the distance of the residual at each position, smoothed: `(n, grid, grid)`."""
        return self.map_of(self.made.residual(levels))

    def map_of(self, residual: Tensor) -> Tensor:
        """Compute the same from the residual `(n, grid^2, d)`."""
        grid = self.space.grid
        squared = squared_distances(residual, self.residual_mean, self.residual_whitening)
        return smooth(squared.sqrt().view(-1, grid, grid), self.settings.smoothing)

    def map_threshold(self) -> float | None:
        """Give the value of the map above which a place is suspicious, one for all images."""
        return float(self.map_limit)

    def colour_top(self) -> float:
        """Give twice what no place of an unsuspicious image exceeds."""
        return 2 * float(self.map_limit)

    def with_thresholds(self, thresholds: Thresholds) -> "FilterDetector":
        """Give a view that decides by other thresholds."""
        residual = Gaussian(self.residual_mean, self.residual_whitening, torch.zeros(()), 0)
        return FilterDetector(self.made, residual, thresholds)

    def save(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write encoder, tensors and description below `folder`; `about` is kept beside them for a reader."""
        point, encoder = self.thresholds.point if self.thresholds else None, self.encoder
        resize = about.get("preprocessing", {}).get("resize", "stretch")
        names = {"levels": [encoder.levels[i] for i in self.space.levels], "grid": self.space.grid}
        description = {
            "kind": "filter",
            "encoder": encoder.keep(folder, resize=resize),
            "image_size": encoder.image_size,
            "levels": list(encoder.levels),
            "input": "RGB, image_size x image_size, values 0..255; the encoder's config has mean and std",
            "units": "Mahalanobis distances of the residual, higher = more anomalous",
            "settings": asdict(self.settings) | names,
            "threshold": asdict(point) if point else None,
            **about,
        }
        tensors = {key: value for key, value in self.state_dict().items() if not key.startswith("encoder.")}
        write_detector(folder, tensors, description)

    def train(self, mode: bool = True) -> "FilterDetector":
        """Stay in evaluation mode."""
        del mode
        return super().train(False)

    def score_of(self, maps: Tensor) -> Tensor:
        """Average the highest values of each map `(n, grid, grid)`: the score `(n,)`."""
        values = maps.flatten(1)
        count = max(1, math.ceil(self.settings.top * values.shape[1]))
        return values.topk(count, dim=1).values.mean(1)
