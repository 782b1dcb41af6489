"""Compare an export with its detector on real images before it is called done.

The reference is what `predict` says: the run as it is loaded there, along the same path. Distances are compared
relative to what matters: a score to itself or to the threshold, whichever is larger (in standard deviations a
usual image scores near 0, where a relative difference says nothing); a map to its own maximum. A decision may
only differ where the score is so near to the threshold that the tolerance covers it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.pixels import Pixels, sides
from anomaly_ft.deploy.graph import Computes, DetectorGraph
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.maps import upsample


@dataclass(frozen=True)
class Difference:
    """Absolute differences over images, and the largest relative one. Of a map counts its worst position."""

    max: float
    median: float
    max_relative: float


@dataclass(frozen=True)
class Parity:
    """What `parity.json` holds. `band` is the range of scores in which a decision may differ."""

    images: int
    tolerance: float
    score: Difference
    map: Difference
    levels: Difference | None
    band: tuple[float, float]
    decisions_changed: int
    decisions_changed_outside_band: int

    @property
    def passed(self) -> bool:
        """Whether score, map and levels agree within the tolerance, and every decision outside the band."""
        parts = [self.score, self.map, *([self.levels] if self.levels else [])]
        close = all(part.max_relative <= self.tolerance for part in parts)  # not if it is not a number
        return close and self.decisions_changed_outside_band == 0

    def to_json(self) -> dict[str, Any]:
        """Convert to plain values, with whether it passed first."""
        return {"passed": self.passed, **asdict(self)}

    def __str__(self) -> str:
        text = (
            f"on {self.images} images scores differ by {self.score.max:.2g} at most "
            f"({self.score.max_relative:.1g} relative), maps by {self.map.max:.2g} "
            f"({self.map.max_relative:.1g} relative); {self.decisions_changed} decisions changed"
        )
        if self.decisions_changed:
            text += f", {self.decisions_changed_outside_band} of them away from the threshold"
        return text


def compare(
    run: LoadedRun,
    computes: Computes,
    batches: Iterable[Pixels],
    *,
    gives_levels: bool,
    tolerance: float,
    predicting: LoadedRun | None = None,
) -> Parity:
    """Put the same images through the detector and through the export, a batch at a time.

    Args:
        run: the detector, in float32.
        computes: what was exported, as `formats` gives it.
        batches: decoded images.
        gives_levels: the export is a bare encoder; the run's own Gaussians turn its levels into scores.
        tolerance: relative difference that is allowed.
        predicting: the same run as `predict` loads it, on another device perhaps; unset: `run`.
    """
    rows: list[NDArray[np.float64]] = []
    for pixels in batches:
        with torch.inference_mode():
            expected = reference(predicting or run, pixels)
            rows.append(_rows(run, pixels, expected, computes(pixels), gives_levels=gives_levels))
    return _summarise(np.concatenate(rows, 1), run.point.threshold, tolerance, gives_levels)


def in_batches(pixels: Iterable[Pixels], sizes: Sequence[int] = (1, 3, 8)) -> Iterator[Pixels]:
    """Batch images `(h, w, 3)` in changing sizes, which finds a graph that holds for one size only."""
    remaining = iter(pixels)
    for size in cycle(sizes):
        batch = list(islice(remaining, size))
        if not batch:
            return
        yield np.stack(batch)


def reference(run: LoadedRun, pixels: Pixels) -> list[Tensor]:
    """Score, map and decision as `predict` comes by them."""
    outputs = predict_batch(run.detector, run.compute.batch(pixels), run.compute, explain=False)
    seen = Decoder(run.decoder.size)
    large = np.stack([upsample(one, *sides(seen.size), seen) for one in outputs.map])
    return [torch.from_numpy(values) for values in (outputs.score, large, outputs.score > run.point.threshold)]


def judge(run: LoadedRun, levels: Sequence[Tensor]) -> list[Tensor]:
    """Score, map and decision that the run's Gaussians make of an encoder's levels."""
    return list(DetectorGraph(run.detector, raw=True).judge(levels))


def _rows(
    run: LoadedRun, pixels: Pixels, expected: Sequence[Tensor], given: Sequence[Tensor], *, gives_levels: bool
) -> NDArray[np.float64]:
    """Compare a batch: a column for each image; see `_scores_and_maps`, and last the difference of the
    levels."""
    if not gives_levels:
        return np.stack([*_scores_and_maps(expected, given), np.zeros(len(pixels))])
    levels = run.detector.encoder(run.compute.batch(pixels))
    return np.stack([*_scores_and_maps(expected, judge(run, given)), _relative(levels, given)])


def _scores_and_maps(expected: Sequence[Tensor], given: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """Compare for each image both scores, the largest difference of the maps, that relative, and whether the
    decision changed."""
    (score, small, decision), (own_score, own_map, own_decision) = expected, given
    apart = (own_map.double() - small.double()).abs().flatten(1).amax(1)
    relative = apart / small.double().abs().flatten(1).amax(1)
    columns = (score, own_score, apart, relative, decision != own_decision)
    return [column.double().numpy() for column in columns]


def _relative(expected: Sequence[Tensor], given: Sequence[Tensor]) -> NDArray[np.float64]:
    """Find for each image the worst level's largest difference, relative to the largest value in that
    level."""
    apart = [
        (exported.double() - level.double()).abs().flatten(1).amax(1) / level.double().abs().flatten(1).amax(1)
        for level, exported in zip(expected, given, strict=True)
    ]
    return torch.stack(apart).amax(0).numpy()


def _summarise(table: NDArray[np.float64], threshold: float, tolerance: float, gives_levels: bool) -> Parity:
    expected, given, map_apart, map_relative, flipped, levels = table
    half = tolerance * abs(threshold)
    return Parity(
        images=len(expected),
        tolerance=tolerance,
        score=_apart(expected, given, threshold),
        map=_difference(map_apart, map_relative),
        levels=_difference(levels, levels) if gives_levels else None,
        band=(threshold - half, threshold + half),
        decisions_changed=int(flipped.sum()),
        decisions_changed_outside_band=int(flipped[np.abs(expected - threshold) > half].sum()),
    )


def _apart(expected: NDArray[np.float64], given: NDArray[np.float64], threshold: float) -> Difference:
    """Compare scores: relative to the expected score or to the threshold, whichever is larger."""
    apart = np.abs(given - expected)
    return _difference(apart, apart / np.maximum(np.abs(expected), abs(threshold)))


def _difference(apart: NDArray[np.float64], relative: NDArray[np.float64]) -> Difference:
    return Difference(float(apart.max()), float(np.median(apart)), float(relative.max()))
