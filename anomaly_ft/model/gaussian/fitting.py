"""Fit a detector to normal images: all Gaussians in one pass, then the scores' scale."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder, pool
from anomaly_ft.model.gaussian.detector import GaussianDetector, Statistics
from anomaly_ft.model.gaussian.levels import (
    choose_dense_levels,
    choose_map_levels,
    kept_channels,
    refuse_without_grid,
)
from anomaly_ft.model.gaussian.positions import grouped, joined
from anomaly_ft.model.gaussian.settings import POSITIONS, DetectorSettings, Position
from anomaly_ft.model.gaussian.statistics import Gaussian, Moments, accumulate, fit, in_double
from anomaly_ft.model.inference import FirstFeatures, score_images
from anomaly_ft.model.maps import grid_shape, on_grid

BATCHES = 4  # added to the sums at a time


@dataclass(frozen=True)
class Heads:
    """Detectors of one encoder that differ in what a position means to them; the encoder sees each image
    once."""

    detectors: Mapping[Position, GaussianDetector]

    @property
    def encoder(self) -> Encoder:
        """The encoder that all of them are views of."""
        return next(iter(self.detectors.values())).encoder

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the dense score `(n,)` of each detector, by what a position means to it, and `pooled`, which
        is the same for all."""
        fixed = self.detectors["fixed"].scores(levels)
        free = self.detectors["free"].dense_scores(levels)
        return {"pooled": fixed["pooled"], "fixed": fixed["dense"], "free": free}


def fit_detector(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
) -> GaussianDetector:
    """Fit all Gaussians to normal images in one pass, and the scores' scale to held-out normal images;
    where there are several processes each sees a share of both.

    Args:
        encoder: gives the features; is shared with the detector, not copied.
        pixels: normal images, uint8 `(n, h, w, 3)`.
        held_out: other normal images, for location and spread of the scores.
        compute: device, precision, batch size.
        settings: estimator and grid.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    detector, _ = fit_gaussians(encoder, pixels, compute, settings)
    return detector.standardised(score_images(detector, held_out, compute))


def fit_gaussians(
    encoder: Encoder, pixels: NDArray[np.uint8], compute: Compute, settings: DetectorSettings, keep: int = 0
) -> tuple[GaussianDetector, list[NDArray[np.float32]]]:
    """Fit the Gaussians without the scores' scale, to be standardised, and keep `pooled_features` of the
    first `keep` images, which the encoder sees here anyway.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    first = FirstFeatures(compute, keep)
    sums = sums_of_all(encoder, pixels, compute, settings, first)
    return fit_to_sums(encoder, sums, settings).to(compute.fabric.device), first.rows()


def fit_to_sums(encoder: Encoder, sums: list[Moments], settings: DetectorSettings) -> GaussianDetector:
    """Fit the Gaussians, without the scores' scale, to sums, some of which are freed.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    levels = _fit_levels(encoder, sums, settings)
    return GaussianDetector(encoder, settings, _fit_grids(levels, sums, settings))


def fit_heads(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
) -> Heads:
    """Fit as `fit_detector` does, once for every meaning that a position may have.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    settings = replace(settings, position="fixed")
    sums = sums_of_all(encoder, pixels, compute, settings)
    grids: dict[Position, list[Moments]] = {"free": [joined(grid) for grid in sums[-2:]], "fixed": sums}
    levels = _fit_levels(encoder, sums, settings)
    detectors: dict[Position, GaussianDetector] = {}
    for name in POSITIONS:
        how = replace(settings, position=name)
        statistics = _fit_grids(levels, grids[name], how)
        detectors[name] = GaussianDetector(encoder, how, statistics).to(compute.fabric.device)
    scores = score_images(Heads(detectors), held_out, compute)
    return Heads(
        {
            name: detector.standardised({"pooled": scores["pooled"], "dense": scores[name]})
            for name, detector in detectors.items()
        }
    )


def sums_of_all(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
    first: FirstFeatures | None = None,
    *,
    exact: bool = False,
) -> list[Moments]:
    """Compute `sums_of` the images that all processes see, each a shard."""
    sums = sums_of(encoder, compute.shard(pixels), compute, settings, first, exact=exact)
    if compute.fabric.world_size > 1:
        sums = [moments.all_reduce_sum(compute.all_reduce_sum) for moments in sums]
    return sums


def _fit_levels(encoder: Encoder, sums: list[Moments], settings: DetectorSettings) -> tuple[Gaussian, ...]:
    """Fit the Gaussian of each level's pooled features to the first of the sums.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    return tuple(
        fit(s, settings.shrinkage, name=f"level {level}")
        for s, level in zip(sums, encoder.levels, strict=False)
    )


def _fit_grids(levels: tuple[Gaussian, ...], sums: list[Moments], settings: DetectorSettings) -> Statistics:
    """Fit the Gaussians of the dense score and of the map to the last two of the sums, and free these.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    many = []
    for name in ("dense map", "dense score"):  # popped from the end, so that each sum is freed after use
        floor = settings.variance_floor
        many.append(fit(sums.pop(), settings.shrinkage, floor=floor, name=name, dtype=torch.float32))
    fine, dense = many
    zero = dense.mean.new_zeros(2)
    return Statistics(levels, dense, fine, zero, torch.ones_like(zero))


def sums_of(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
    first: FirstFeatures | None = None,
    *,
    exact: bool = False,
) -> list[Moments]:
    """Sum what all Gaussians are fitted from in one pass over the images: of each level, of the dense score
    and of the map. Pooled features that pass are added to `first`. Sums that are `exact` are multiplied in
    float64: then it does not matter in which batches the images come."""

    def features() -> Iterator[list[Tensor]]:
        for batch in _features(encoder, pixels, compute, settings):
            if first:
                first.add(batch[: len(encoder.levels)])
            yield [in_double(part) for part in batch] if exact else batch

    with encoder.folded():
        return accumulate(_together(features()))


def _together(batches: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
    """Concatenate several batches: products of large matrices cost less than many of small ones."""
    while some := list(islice(batches, BATCHES)):
        yield [torch.cat(parts) for parts in zip(*some, strict=True)]


def _features(
    encoder: Encoder, pixels: NDArray[np.uint8], compute: Compute, settings: DetectorSettings
) -> Iterator[list[Tensor]]:
    """Compute pooled features of every level batch by batch, and last those of the dense score and of the
    map."""
    grids = [
        (choose_dense_levels(encoder, settings.dense_levels), grid_shape(settings.grid, encoder.image_size)),
        (choose_map_levels(encoder, settings.map_levels), grid_shape(settings.map_grid, encoder.image_size)),
    ]
    kept = [kept_channels(encoder, levels, settings.dense_dimensions) for levels, _ in grids]
    for images in compute.batches(pixels):
        with torch.inference_mode(), compute.fabric.autocast():
            maps = encoder(images)
            if settings.position == "free":
                refuse_without_grid([encoder.levels[i] for i in grids[0][0]], [maps[i] for i in grids[0][0]])
            dense = [
                grouped(
                    on_grid([maps[i] for i in levels], grid, chosen.to(compute.fabric.device)),
                    settings.position,
                )
                for (levels, grid), chosen in zip(grids, kept, strict=True)
            ]
            features = [*pool(maps), *dense]
        yield features
