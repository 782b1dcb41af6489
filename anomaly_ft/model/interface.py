"""The protocol of a detector, whatever its kind.

A kind of detector is a folder beside `gaussian`; `loading` names it in one dict literal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian.settings import Position
from anomaly_ft.model.outputs import Detection, DistanceMean, Labels, Outputs
from anomaly_ft.model.threshold import Thresholds


class Detector(Protocol):
    """A module that turns images into scores and maps; a view of an encoder and of values fitted to it."""

    encoder: Encoder
    thresholds: Thresholds | None
    threshold: Tensor  # (), infinite until thresholds are set

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores that `outputs` gives, in the order of reports."""

    @property
    def decides(self) -> str:
        """Name of the score that is compared with the threshold."""

    @property
    def labels(self) -> Labels:
        """Explanations of all scores and maps, for those who read a report."""

    def __call__(self, images: Tensor) -> Detection:
        """Map RGB images `(n, 3, h, w)` in 0..255 to scores `(n,)` and maps `(n, h, w)`."""

    def detect(self, levels: Sequence[Tensor], size: Sequence[int]) -> Detection:
        """Compute the same from the encoder's levels, of images of `size` (height, width)."""

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute all scores `(n,)` by name, from the encoder's levels."""

    def outputs(self, levels: Sequence[Tensor], *, explain: bool) -> Outputs[Tensor]:
        """Compute scores and maps from the encoder's levels; with `explain` also what explains the score."""

    def map_threshold(self) -> float | None:
        """Give the value that no place of an unsuspicious map exceeds; None where the map has no such
        limit."""

    def colour_top(self) -> float:
        """Give the value of the map that is drawn in the brightest colour."""

    @property
    def distance_mean(self) -> DistanceMean:
        """The score that is a mean of the levels' distances, which `outputs` gives when asked to explain."""

    def save(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write encoder, tensors and description below `folder`; `about` is kept beside them for a reader."""

    def with_thresholds(self, thresholds: Thresholds) -> "Detector":
        """Give a view of the same encoder and values that decides by other thresholds."""

    def state_dict(self) -> dict[str, Any]:
        """Give the tensors by name."""

    def to(self, device: torch.device) -> "Detector":
        """Move the detector's tensors to a device."""


class PositionHeads(Protocol):
    """Detectors of one encoder that differ in what a position means to them, seen in one pass."""

    @property
    def detectors(self) -> Mapping[Position, Detector]:
        """By what a position means."""

    @property
    def encoder(self) -> Encoder:
        """The encoder that all of them are views of."""

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the score `(n,)` that positions matter to, of each detector, and perhaps others."""
