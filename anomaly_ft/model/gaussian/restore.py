"""Restore a Gaussian detector from disk; everything in its files is checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.errors import RunError
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector, Statistics
from anomaly_ft.model.gaussian.positions import groups_of
from anomaly_ft.model.gaussian.settings import SCORES, DetectorSettings
from anomaly_ft.model.gaussian.statistics import Gaussian
from anomaly_ft.model.maps import grid_shape
from anomaly_ft.model.restoring import check_position, fitting_together, point_of, try_out
from anomaly_ft.model.run_encoder import SharedEncoder, encoder_of
from anomaly_ft.model.storage import check_grid, check_shapes
from anomaly_ft.model.threshold import Thresholds

NOT_YET_SET = ("threshold", "chi_square", "map_limit")  # may be infinite


def restore_detector(
    folder: Path,
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shared: SharedEncoder | None = None,
) -> GaussianDetector:
    """Restore the detector of a run folder, on the CPU, from what `read_detector` gave; see
    `encoder_of` for what is `shared`.

    Raises:
        RunError: files that do not fit together.
        EncoderError: an encoder that is missing or is not the one described.
    """
    with fitting_together(folder):
        return _restore(folder, encoder_of(folder, description, shared), description, tensors)


def _restore(
    folder: Path, encoder: Encoder, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> GaussianDetector:
    settings = DetectorSettings(**description["settings"])
    if settings.score not in SCORES:
        raise RunError(f"{folder}: detector.json decides by {settings.score!r}, expected {', '.join(SCORES)}")
    check_position(folder, settings.position)
    statistics = _statistics(encoder, settings, tensors)
    detector = GaussianDetector(encoder, settings, statistics, _thresholds(folder, description, tensors))
    for name in ("dense_kept", "map_kept", *NOT_YET_SET):
        detector.get_buffer(name).copy_(tensors[name])
    try_out(detector, may_be_infinite=NOT_YET_SET)
    return detector


def _statistics(encoder: Encoder, settings: DetectorSettings, tensors: Mapping[str, Tensor]) -> Statistics:
    names = [*(str(i) for i in range(len(encoder.levels)))]
    levels = [Gaussian(tensors[f"mean_{i}"], tensors[f"whitening_{i}"], torch.zeros(()), 0) for i in names]
    dense, fine = (
        Gaussian(tensors[f"{name}_mean"], tensors[f"{name}_whitening"], torch.zeros(()), 0)
        for name in ("dense", "map")
    )
    check_shapes(tensors, dict(zip(encoder.levels, encoder.widths, strict=True)))
    for name, mean, grid, smoothing in (
        ("score", tensors["dense_mean"], settings.grid, settings.smoothing),
        ("map", tensors["map_mean"], settings.map_grid, settings.map_smoothing),
    ):
        groups = groups_of(settings.position, grid_shape(grid, encoder.image_size))
        check_grid(name, mean, groups, grid, smoothing)
    scale = [tensors[name].float().reshape(2) for name in ("location", "spread")]
    return Statistics(tuple(levels), dense, fine, *scale)


def _thresholds(
    folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Thresholds | None:
    point = point_of(folder, description, tensors)
    if point is None:
        return None
    return Thresholds(point, tuple(tensors["chi_square"].tolist()), float(tensors["map_limit"]))
