"""The protocol of a tracker, and the one that logs nothing."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray


class Tracker(Protocol):
    """Logs a run. `run_id` and `uri` are None where nothing is tracked; `complete`: whether
    everything arrived, known at the end."""

    run_id: str | None
    uri: str | None
    complete: bool

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; those that are there already stay as they are."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log metrics at a step; None is left out."""

    def dataset(self, frame: pd.DataFrame, source: str, name: str) -> None:
        """Log a table of images as the run's dataset."""

    def image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """Log an image `(h, w, 3)` at a step, under a key with a slider of its own."""

    def artifacts(self, folder: Path, without: Collection[str] = ()) -> None:
        """Log all files of a folder but those of these names, or in folders of these names."""

    def model(self, folder: Path, computing: Mapping[str, Any], register: str) -> None:
        """Log the detector of a run folder as a model, and register it under a name where there is one."""


class NullTracker:
    """Logs nothing."""

    run_id: str | None = None
    uri: str | None = None
    complete: bool = True

    def params(self, params: Mapping[str, Any]) -> None:
        """Ignore."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Ignore."""

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Ignore."""

    def dataset(self, frame: pd.DataFrame, source: str, name: str) -> None:
        """Ignore."""

    def image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """Ignore."""

    def artifacts(self, folder: Path, without: Collection[str] = ()) -> None:
        """Ignore."""

    def model(self, folder: Path, computing: Mapping[str, Any], register: str) -> None:
        """Ignore."""
