"""Outputs of a detector: named scores and maps, and which of them decides."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from numpy.typing import NDArray
from torch import Tensor

A = TypeVar("A")
B = TypeVar("B")


class Detection(NamedTuple):
    """The score that decides `(n,)` and where it comes from `(n, h, w)`, a pixel for each of the image;
    in units of distance, higher = more anomalous."""

    scores: Tensor
    maps: Tensor


@dataclass(frozen=True)
class DistanceMean:
    """The score that is a weighted mean of the levels' distances, and of which ones; no levels where a kind of
    detector has none.

    Attributes:
        levels: names.
        dimensions: of each level's features.
        weights: what each counts, shares of one.
        name: of the score.
    """

    levels: tuple[str, ...]
    dimensions: tuple[int, ...]
    weights: tuple[float, ...]
    name: str


NO_DISTANCES = DistanceMean((), (), (), "")


@dataclass(frozen=True)
class Labels:
    """Explain each score and each map to people, by name: half a sentence each; and what became of the encoder
    in training."""

    scores: Mapping[str, str]
    maps: Mapping[str, str]
    training: str = "fine-tuned"


@dataclass(frozen=True)
class Outputs(Generic[A]):
    """Scores and maps of n images; higher = more anomalous.

    Attributes:
        scores: `(n,)` by name.
        maps: `(n, rows, columns)` by name, in units of distance. The first one localises; the last one explains
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
        """The map that belongs to the score that decides, `(n, rows, columns)`."""
        return self.maps[self.shows]

    @property
    def localises(self) -> A:
        """The map that says best where an anomaly lies, `(n, rows, columns)`."""
        return next(iter(self.maps.values()))

    def convert(self, change: Callable[[A], B]) -> "Outputs[B]":
        """Give the same outputs with every array changed."""
        return Outputs(
            {name: change(value) for name, value in self.scores.items()},
            {name: change(value) for name, value in self.maps.items()},
            change(self.distances),
            self.decides,
            self.shows,
        )


Predictions = Outputs[NDArray[Any]]  # in the processor's memory
