"""Predict images with a detector, each seen once by the encoder; batches in, arrays out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.errors import DivergedError
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder, pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Outputs, Predictions

Floats = NDArray[Any]
HELD = 16_384  # images whose features are held in memory, some 8 KB each; of more they are computed anew
CHUNK = 1024  # images whose features are computed together, where they are not held


class Scorer(Protocol):
    """The part of a detector that scores alone need."""

    @property
    def encoder(self) -> Encoder:
        """What gives the levels."""

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute all scores `(n,)` by name, from the encoder's levels."""


def predict(detector: Detector, pixels: Pixels, compute: Compute) -> Predictions:
    """Predict scores, distances and maps of uint8 images `(n, h, w, 3)`, each seen once by the encoder.

    Raises:
        DivergedError: a score that is not finite.
    """
    with detector.encoder.folded():
        parts = [predict_batch(detector, images, compute, explain=True) for images in compute.batches(pixels)]
    first = parts[0]
    return Outputs(
        {name: np.concatenate([part.scores[name] for part in parts]) for name in first.scores},
        {name: np.concatenate([part.maps[name] for part in parts]) for name in first.maps},
        np.concatenate([part.distances for part in parts]),
        first.decides,
        first.shows,
    )


def predict_batch(detector: Detector, images: Tensor, compute: Compute, *, explain: bool) -> Predictions:
    """Predict one batch `(n, 3, h, w)` in 0..255; without `explain` distances and the map that explains are
    left out, and it takes no longer than the scores alone.

    Raises:
        DivergedError: a score that is not finite.
    """
    with detector.encoder.folded(), torch.inference_mode(), compute.fabric.autocast():
        outputs = detector.outputs(detector.encoder(images), explain=explain)
    arrays = outputs.convert(lambda tensor: tensor.float().cpu().numpy())
    return replace(
        arrays,
        scores=_finite({name: values.astype(np.float64) for name, values in arrays.scores.items()}),
        distances=arrays.distances.astype(np.float64),
    )


def score_images(
    detector: Scorer, pixels: NDArray[np.uint8], compute: Compute
) -> dict[str, NDArray[np.float64]]:
    """Compute all scores of uint8 images `(n, h, w, 3)`, each `(n,)`, higher = more anomalous; where there
    are several processes each computes a shard, and all return the whole.

    Raises:
        DivergedError: a score that is not finite.
    """
    return scores_and_features(detector, pixels, compute, keep=0)[0]


def scores_and_features(
    detector: Scorer, pixels: NDArray[np.uint8], compute: Compute, keep: int
) -> tuple[dict[str, NDArray[np.float64]], list[NDArray[np.float32]]]:
    """Compute `score_images`, and `pooled_features` of the first `keep` images, each seen once by the
    encoder.

    Raises:
        DivergedError: a score that is not finite.
    """
    outputs, first = list[dict[str, Tensor]](), FirstFeatures(compute, keep)
    with detector.encoder.folded(), torch.inference_mode(), compute.fabric.autocast():
        for images in compute.batches(compute.shard(pixels)):
            maps = detector.encoder(images)
            outputs.append(detector.scores(maps))
            if first.missing:
                first.add(pool(maps))
    scores = {name: compute.all_gather(values) for name, values in _joined(outputs).items()}
    return _finite(scores), first.rows()


@dataclass
class FirstFeatures:
    """Pooled features of the first `keep` images that go by; where there are several processes each keeps a
    share, as large for all of them."""

    compute: Compute
    keep: int
    parts: list[list[Tensor]] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """Images still to come."""
        have = sum(len(levels[0]) for levels in self.parts)
        return max(0, self.keep // self.compute.fabric.world_size - have)

    def add(self, levels: Sequence[Tensor]) -> None:
        """Take what is missing of a batch, `(n, d)` for each level."""
        if count := self.missing:
            self.parts.append([level[:count] for level in levels])

    def rows(self) -> list[NDArray[np.float32]]:
        """Gather `(n, d)` for each level, of all processes; nothing where no image was asked for."""
        local = [torch.cat(level).cpu().double().numpy() for level in zip(*self.parts, strict=True)]
        return [self.compute.all_gather(level).astype(np.float32) for level in local]


def pooled_features(encoder: Encoder, pixels: NDArray[np.uint8], compute: Compute) -> list[NDArray[np.float32]]:
    """Average the feature maps of uint8 images `(n, h, w, 3)`: `(n, d)` for each level."""
    parts = []
    with encoder.folded(), torch.inference_mode(), compute.fabric.autocast():
        for images in compute.batches(pixels):
            parts.append([features.cpu().numpy() for features in pool(encoder(images))])
    return [np.concatenate(level) for level in zip(*parts, strict=True)]


def feature_batches(
    encoder: Encoder, pixels: Pixels, compute: Compute
) -> Callable[[], Iterable[list[NDArray[np.float32]]]]:
    """Give `pooled_features` some images at a time, as often as they are asked for; memory does not grow with
    the number of images."""
    if len(pixels) <= HELD:
        everything = pooled_features(encoder, pixels, compute)
        return lambda: [everything]
    starts = range(0, len(pixels), CHUNK)
    return lambda: (pooled_features(encoder, pixels[start : start + CHUNK], compute) for start in starts)


def level_distances(
    detector: GaussianDetector, features: Sequence[NDArray[np.float32]], compute: Compute
) -> NDArray[np.float64]:
    """Compute the Mahalanobis distance of pooled features to each level's Gaussian, `(n, levels)`."""
    tensors = [torch.from_numpy(level).to(compute.fabric.device) for level in features]
    with torch.inference_mode():
        return detector.level_distances(tensors).cpu().double().numpy()


def _joined(outputs: Sequence[Mapping[str, Tensor]]) -> dict[str, Floats]:
    names = outputs[0] if outputs else ()
    return {name: torch.cat([scores[name] for scores in outputs]).cpu().double().numpy() for name in names}


def _finite(scores: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise DivergedError(
                f"{int((~np.isfinite(values)).sum())} of {len(values)} {name} scores are not finite"
            )
    return scores
