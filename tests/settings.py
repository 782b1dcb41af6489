"""Settings of a detector for tests that care for few of them."""

from typing import Any

from anomaly_ft.model.gaussian.settings import DetectorSettings

USUAL: dict[str, Any] = {
    "score": "fused",
    "shrinkage": "ledoit_wolf",
    "dense_levels": "auto",
    "grid": 14,
    "smoothing": 0.5,
    "variance_floor": 0.01,
    "dense_dimensions": 256,
    "dense_weight": 1.0,
    "level_weights": (),
}


def detector_settings(**changes: Any) -> DetectorSettings:
    """Make settings that differ from the usual ones in these alone."""
    return DetectorSettings(**USUAL | changes)
