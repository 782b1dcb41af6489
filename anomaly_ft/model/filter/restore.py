"""Restore a filter's detector from disk; everything in its files is checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.detector import Filter, FilterDetector, FilterSpace
from anomaly_ft.model.filter.net import make_net
from anomaly_ft.model.filter.place import place_of
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.gaussian.positions import groups_of
from anomaly_ft.model.gaussian.statistics import Gaussian
from anomaly_ft.model.restoring import check_position, fitting_together, point_of, try_out
from anomaly_ft.model.run_encoder import SharedEncoder, encoder_of
from anomaly_ft.model.storage import check_grid
from anomaly_ft.model.threshold import Thresholds


def restore_filter(
    folder: Path,
    description: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shared: SharedEncoder | None = None,
) -> FilterDetector:
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
) -> FilterDetector:
    settings = FilterSettings(**description["settings"])
    check_position(folder, settings.position)
    if not (0 < settings.top <= 1 and 1 <= settings.width <= 4096):
        raise ValueError(f"top is {settings.top!r:.40} and width {settings.width!r:.40}")
    place = place_of(encoder, settings)
    grid = place.grid
    residual = Gaussian(tensors["residual_mean"], tensors["residual_whitening"], torch.zeros(()), 0)
    check_grid("residual", residual.mean, groups_of(settings.position, (grid, grid)), grid, settings.smoothing)
    net = make_net(
        len(place.kept),
        grid,
        width=settings.width,
        reach=settings.reach,
        skips=settings.skips,
        seed=settings.seed,
    )
    space = FilterSpace(place, tensors["space.mean"], tensors["space.whitening"])
    made = Filter(encoder, space, net, settings)
    point = point_of(folder, description, tensors)
    thresholds = Thresholds(point, (), float(tensors["map_limit"])) if point else None
    detector = FilterDetector(made, residual, thresholds)
    known = {key: value for key, value in detector.state_dict().items() if key.startswith("encoder.")}
    detector.load_state_dict({**known, **tensors}, strict=True)
    try_out(detector, may_be_infinite=("threshold", "map_limit"))
    return detector
