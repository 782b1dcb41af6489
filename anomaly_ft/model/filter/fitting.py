"""Fit what a filter works on, and the statistics of what it leaves over: a pass over normal images each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.detector import Filter, FilterDetector, FilterSpace
from anomaly_ft.model.filter.net import make_net
from anomaly_ft.model.filter.place import place_of
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.gaussian.positions import grouped, joined
from anomaly_ft.model.gaussian.settings import POSITIONS, Position
from anomaly_ft.model.gaussian.statistics import Moments, accumulate, fit
from anomaly_ft.model.maps import on_grid

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class FilterHeads:
    """Detectors of one filter that differ in what a position means to them; each image is seen once by the
    encoder."""

    detectors: Mapping[Position, FilterDetector]

    @property
    def encoder(self) -> Encoder:
        """The encoder that all of them are views of."""
        return next(iter(self.detectors.values())).encoder

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the score `(n,)` of each detector, by what a position means to it."""
        residual = next(iter(self.detectors.values())).made.residual(levels)
        return {name: each.score_of(each.map_of(residual)) for name, each in self.detectors.items()}


def make_filter(encoder: Encoder, pixels: Pixels, compute: Compute, settings: FilterSettings) -> Filter:
    """Fit what the net is given to normal images, uint8 `(n, h, w, 3)`, and make an untrained net.

    Raises:
        EncoderError: levels that are none, or a net that reaches farther than its middle.
        GaussianError: features to which no Gaussian can be fitted.
    """
    place = place_of(encoder, settings)
    levels, grid, kept = place.levels, place.grid, place.kept.to(compute.fabric.device)
    net = make_net(
        len(kept),
        grid,
        width=settings.width,
        reach=settings.reach,
        skips=settings.skips,
        seed=settings.seed,
    )

    def features() -> Iterator[list[Tensor]]:
        for images in compute.batches(compute.shard(pixels)):
            with torch.inference_mode(), compute.fabric.autocast():
                maps = encoder(images)
                yield [on_grid([maps[i] for i in levels], grid, kept).flatten(0, 1)]

    with encoder.folded():
        (sums,) = _summed(accumulate(features()), compute)
    gaussian = fit(sums, settings.shrinkage, floor=settings.variance_floor, name="features of the filter")
    device = compute.fabric.device
    space = FilterSpace(place, gaussian.mean, gaussian.whitening).to(device)
    return Filter(encoder, space, net.to(device), settings)


def fit_residual(made: Filter, pixels: Pixels, compute: Compute) -> FilterDetector:
    """Fit the statistics of what a filter leaves over of normal images, uint8 `(n, h, w, 3)`.

    Raises:
        GaussianError, DivergedError: residuals to which no Gaussian can be fitted.
    """
    return _detector(made, _residual_sums(made, pixels, compute, made.settings.position))


def fit_residual_heads(made: Filter, pixels: Pixels, compute: Compute) -> FilterHeads:
    """Fit as `fit_residual` does, once for every meaning that a position may have."""
    fixed = _residual_sums(made, pixels, compute, "fixed")
    sums: Mapping[Position, Moments] = {"free": joined(fixed), "fixed": fixed}
    views = {name: replace(made, settings=replace(made.settings, position=name)) for name in POSITIONS}
    return FilterHeads({name: _detector(views[name], sums[name]) for name in POSITIONS})


def _detector(made: Filter, sums: Moments) -> FilterDetector:
    settings = made.settings
    residual = fit(
        sums,
        settings.shrinkage,
        floor=settings.variance_floor,
        name="residual of the filter",
        dtype=torch.float32,
    )
    return FilterDetector(made, residual).to(made.space.mean.device)


def _residual_sums(made: Filter, pixels: Pixels, compute: Compute, position: Position) -> Moments:
    def residuals() -> Iterator[list[Tensor]]:
        for images in compute.batches(compute.shard(pixels)):
            with torch.inference_mode(), compute.fabric.autocast():
                yield [grouped(made.residual(made.encoder(images)), position)]

    with made.encoder.folded():
        (sums,) = _summed(accumulate(residuals()), compute)
    return sums


def _summed(sums: list[Moments], compute: Compute) -> list[Moments]:
    """Add up what all processes saw."""
    if compute.fabric.world_size == 1:
        return sums
    return [moments.all_reduce_sum(compute.all_reduce_sum) for moments in sums]
