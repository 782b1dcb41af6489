"""What every kind of detector gives, and what the rest of the toolkit may ask of one.

A kind of detector is a folder beside `gaussian`; `loading` names it in one dict literal.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.threshold import Thresholds

A = TypeVar("A")
B = TypeVar("B")


class Detection(NamedTuple):
    """The score that decides `(n,)` and where it comes from `(n, h, w)`, a pixel for each of the image;
    in units of distance, higher = more anomalous."""

    scores: Tensor
    maps: Tensor


@dataclass(frozen=True)
class Outputs(Generic[A]):
    """What a detector says about n images; higher = more anomalous.

    Attributes:
        scores: `(n,)` by name.
        maps: `(n, grid, grid)` by name, in units of distance. The first one localises; the last one explains
            the score, if outputs were asked to explain.
        distances: `(n, levels)`, of each level; empty unless outputs were asked to explain.
        decides: name of the score that is compared with the threshold.
        shows: name of the map that belongs to that score.
    """

    scores: Mapping[str, A]
    maps: Mapping[str, A]
    distances: A
    decides: str
    shows: str

    @property
    def score(self) -> A:
        """The score that decides, `(n,)`."""
        return self.scores[self.decides]

    @property
    def map(self) -> A:
        """The map that belongs to the score that decides, `(n, grid, grid)`."""
        return self.maps[self.shows]

    @property
    def localises(self) -> A:
        """The map that says best where an anomaly lies, `(n, grid, grid)`."""
        return next(iter(self.maps.values()))

    def convert(self, change: Callable[[A], B]) -> "Outputs[B]":
        """The same outputs with every array changed."""
        return Outputs(
            {name: change(value) for name, value in self.scores.items()},
            {name: change(value) for name, value in self.maps.items()},
            change(self.distances),
            self.decides,
            self.shows,
        )


Predictions = Outputs[NDArray[Any]]  # in the processor's memory


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

    def __call__(self, images: Tensor) -> Detection:
        """RGB images `(n, 3, h, w)` in 0..255 to scores `(n,)` and maps `(n, h, w)`."""

    def detect(self, levels: Sequence[Tensor], size: Sequence[int]) -> Detection:
        """The same from the encoder's levels, of images of `size` (height, width)."""

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """All scores `(n,)` by name, from the encoder's levels."""

    def outputs(self, levels: Sequence[Tensor], *, explain: bool) -> Outputs[Tensor]:
        """Scores and maps from the encoder's levels; with `explain` also what explains the score."""

    def map_threshold(self) -> float | None:
        """The value that no place of an unsuspicious map exceeds; None where the map has no such limit."""

    def colour_top(self) -> float:
        """The value of the map that is drawn in the brightest colour."""

    @property
    def level_weights(self) -> Tensor:
        """What each level counts for in the mean of their distances, shares of one `(levels,)`."""

    @property
    def level_mean(self) -> str:
        """Name of the score that is that mean."""

    def save(self, folder: Path, *, about: Mapping[str, Any]) -> None:
        """Write encoder, tensors and description below `folder`; `about` is kept beside them for a reader."""

    def with_thresholds(self, thresholds: Thresholds) -> "Detector":
        """A view of the same encoder and values that decides by other thresholds."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name."""

    def to(self, device: torch.device) -> "Detector":
        """The detector with its tensors on a device."""
