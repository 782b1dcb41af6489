"""From images of normal parts to a detector: all Gaussians in one pass, then the scores' scale."""

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder, pool
from anomaly_ft.model.gaussian.detector import Detector, DetectorSettings
from anomaly_ft.model.gaussian.levels import choose_dense_levels, choose_map_levels, kept_channels
from anomaly_ft.model.gaussian.statistics import Moments, accumulate, fit, mixture
from anomaly_ft.model.inference import FirstFeatures, score_images
from anomaly_ft.model.maps import on_grid

BATCHES = 4  # added to the sums at a time


def fit_detector(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
) -> Detector:
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
    standardise(detector, score_images(detector, held_out, compute))
    return detector


def fit_gaussians(
    encoder: Encoder, pixels: NDArray[np.uint8], compute: Compute, settings: DetectorSettings, keep: int = 0
) -> tuple[Detector, list[NDArray[np.float32]]]:
    """`fit_detector` without the scores' scale: to be standardised. And `pooled_features` of the first `keep`
    images, which the encoder sees here anyway.

    Raises:
        GaussianError: features to which no Gaussian can be fitted.
    """
    first = FirstFeatures(compute, keep)
    sums = sums_of(encoder, compute.share(pixels), compute, settings, first)
    if compute.fabric.world_size > 1:
        sums = [moments.add_up(compute.add_up) for moments in sums]
    gaussians = [
        fit(s, settings.shrinkage, name=f"level {level}")
        for s, level in zip(sums, encoder.levels, strict=False)
    ]
    for name in ("dense map", "dense score"):  # from the end, so that what is done with is freed
        many = sums.pop()
        found = fit(many, settings.shrinkage, floor=settings.variance_floor, name=name, dtype=torch.float32)
        gaussians.insert(len(encoder.levels), found)
        del many
    return Detector(encoder, settings, gaussians).to(compute.fabric.device), first.rows()


def sums_of(
    encoder: Encoder,
    pixels: NDArray[np.uint8],
    compute: Compute,
    settings: DetectorSettings,
    first: FirstFeatures | None = None,
) -> list[Moments]:
    """What all Gaussians are fitted from, in one pass over the images: of each level, of the dense score and
    of the map. What goes by is added to `first`."""

    def features() -> Iterator[list[Tensor]]:
        for batch in _features(encoder, pixels, compute, settings):
            if first:
                first.add(batch[: len(encoder.levels)])
            yield batch

    with encoder.folded():
        return accumulate(_together(features()))


def average_detectors(first: Detector, second: Detector) -> Detector:
    """A detector whose Gaussians have mean and covariance of the equal mixture of both detectors'; with the
    encoder of the first, and to be standardised."""
    both = zip(first.gaussians(), second.gaussians(), strict=True)
    gaussians = [mixture(a, b) for a, b in both]
    return Detector(first.encoder, first.settings, gaussians).to(first.location.device)


def standardise(detector: Detector, normal: Mapping[str, NDArray[np.float64]]) -> None:
    """Set what the fused score is measured in: location and spread of the scores of held-out normal images."""
    both = np.stack([normal["pooled"], normal["dense"]])
    detector.location.copy_(torch.from_numpy(both.mean(1)))
    detector.spread.copy_(torch.from_numpy(both.std(1, ddof=1)))


def _together(batches: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
    """Several batches as one: products of large matrices cost less than many of small ones."""
    while some := list(islice(batches, BATCHES)):
        yield [torch.cat(parts) for parts in zip(*some, strict=True)]


def _features(
    encoder: Encoder, pixels: NDArray[np.uint8], compute: Compute, settings: DetectorSettings
) -> Iterator[list[Tensor]]:
    """Batches of pooled features of every level, and last those of the dense score and of the map."""
    grids = [
        (choose_dense_levels(encoder, settings.dense_levels), settings.grid),
        (choose_map_levels(encoder, settings.map_levels), settings.map_grid),
    ]
    kept = [kept_channels(encoder, levels, settings.dense_dimensions) for levels, _ in grids]
    for images in compute.batches(pixels):
        with torch.inference_mode(), compute.fabric.autocast():
            maps = encoder(images)
            dense = [
                on_grid([maps[i] for i in levels], grid, chosen.to(compute.fabric.device))
                for (levels, grid), chosen in zip(grids, kept, strict=True)
            ]
            features = [*pool(maps), *dense]
        yield features
