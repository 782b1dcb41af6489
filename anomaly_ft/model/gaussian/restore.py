"""Restore a Gaussian detector from disk; everything in its files is checked."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.data.pixels import Size, sides
from anomaly_ft.errors import EncoderError, RunError
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector, Statistics
from anomaly_ft.model.gaussian.positions import groups_of
from anomaly_ft.model.gaussian.settings import POSITIONS, SCORES, DetectorSettings
from anomaly_ft.model.gaussian.statistics import Gaussian
from anomaly_ft.model.maps import grid_shape
from anomaly_ft.model.storage import check_grid, check_shapes
from anomaly_ft.model.threshold import Thresholds, WorkingPoint

NOT_YET_SET = ("threshold", "chi_square", "map_limit")  # may be infinite


def restore_detector(
    folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> GaussianDetector:
    """Restore the detector of a run folder, on the CPU, from what `read_detector` gave.

    Raises:
        RunError: files that do not fit together.
        EncoderError: an encoder that is missing or is not the one described.
    """
    try:
        return _restore(folder, description, tensors)
    except (RunError, EncoderError):
        raise
    except Exception as cause:  # the files may hold anything
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0][:300]
        raise RunError(
            f"{folder}: detector.json and detector.safetensors do not fit together: {reason}"
        ) from cause


def _restore(folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GaussianDetector:
    encoder = load_encoder(
        description["encoder"],
        f"local-dir:{folder / 'encoder'}",
        levels=description["levels"],
        image_size=_image_size(description["image_size"]),
    )
    settings = DetectorSettings(**description["settings"])
    if settings.score not in SCORES:
        raise RunError(f"{folder}: detector.json decides by {settings.score!r}, expected {', '.join(SCORES)}")
    if settings.position not in POSITIONS:
        raise RunError(
            f"{folder}: detector.json has position {settings.position!r:.40}, expected {', '.join(POSITIONS)}"
        )
    statistics = _statistics(encoder, settings, tensors)
    detector = GaussianDetector(encoder, settings, statistics, _thresholds(folder, description, tensors))
    for name in ("dense_kept", "map_kept", *NOT_YET_SET):
        detector.get_buffer(name).copy_(tensors[name])
    _try_out(detector)
    return detector


def _image_size(stored: Any) -> Size:
    """Check the side of square images, or height and width of others."""
    both = stored if isinstance(stored, list) and len(stored) == 2 else [stored]
    if not all(type(side) is int and 32 <= side <= 2048 for side in both):
        raise ValueError(f"image_size is {stored!r:.40}, expected 32 to 2048, or height and width")
    return both[0] if len(both) == 1 else (both[0], both[1])


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
    if description["threshold"] is None:
        return None
    point = WorkingPoint(**description["threshold"])
    if torch.tensor(point.threshold, dtype=torch.float32) != tensors["threshold"]:
        raise RunError(f"{folder}: detector.json and detector.safetensors have two thresholds")
    return Thresholds(point, tuple(tensors["chi_square"].tolist()), float(tensors["map_limit"]))


def _try_out(detector: GaussianDetector) -> None:
    """Raise a ValueError, or whatever a blank image brings about, unless all parts fit together."""
    for name, tensor in detector.state_dict().items():
        if name not in NOT_YET_SET and not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")
    thresholds = detector.thresholds
    if thresholds and not all(
        math.isfinite(value) for value in vars(thresholds.point).values() if value is not None
    ):
        raise ValueError("the threshold is not finite")
    size = sides(detector.encoder.image_size)
    with torch.inference_mode():
        detector(torch.zeros(1, 3, *size, dtype=torch.uint8))
