"""Predict with a finished run in tiles: which runs can, and images of any size one at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from anomaly_ft.data.images import read_image, resize_image, why_unreadable
from anomaly_ft.data.pixels import Pixels, sides
from anomaly_ft.data.records import Record
from anomaly_ft.errors import RunError
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.model.tiles import predict_tiles, stack
from anomaly_ft.run.prediction_rows import Prediction

Look = Callable[[Pixels], None]
NOTICE = (
    "each image's score is the highest of its tiles, but the threshold was set on scores of single images: an "
    "image of many tiles is called anomalous by mistake more often, up to as many times as it has tiles"
)


def in_tiles(run: LoadedRun, side: int | None) -> LoadedRun:
    """Let a run predict in tiles, the longer side `side` pixels of an image; unset: whole images, as before.

    Raises:
        RunError: a run to which positions mean something or that cuts or pads images, tiles of less than a
            patch.
    """
    if side is None:
        return run
    detector = run.detector
    if not isinstance(detector, GaussianDetector) or detector.settings.position != "free":
        raise RunError(
            f"--tile: to {run.folder} positions mean something, and a tile has other positions; train with "
            "model.kind: gaussian and gaussian.position: free"
        )
    if run.decoder.resize not in ("stretch", "native"):
        raise RunError(
            f"--tile: {run.folder} was trained with data.resize: {run.decoder.resize}, which tiles have no "
            "part in; train with native or stretch"
        )
    height, width = sides(run.decoder.size)
    scale = side / max(height, width)
    tile = max(1, round(scale * height)), max(1, round(scale * width))
    patch = max(detector.encoder.strides[i] for i in detector.dense_levels)
    if min(tile) < patch:
        raise RunError(
            f"--tile: {tile[1]} x {tile[0]} pixels are less than one patch of the encoder ({patch} pixels); "
            f"use {-(-patch * max(height, width) // min(height, width))} or more"
        )
    return replace(run, tile=tile, decoder=replace(run.decoder, resize="stretch"))


def predict_file(run: LoadedRun, path: Path, *, explain: bool, look: Look = lambda pixels: None) -> Predictions:
    """Predict the image of one file in tiles; one that is no larger than a tile is seen whole.

    Raises:
        Exception: whatever a decoder raises for a damaged file; see also `predict_tiles`.
    """
    if run.tile is None or not isinstance(run.detector, GaussianDetector):
        raise ValueError("this run does not predict in tiles")
    image = read_image(path, run.decoder.value_range)
    if image.height > run.tile[0] or image.width > run.tile[1]:
        whole = np.asarray(image)
        return predict_tiles(run.detector, whole, run.tile, run.compute, explain=explain, look=look)
    pixels = np.array(resize_image(image, run.decoder.size, run.decoder.resize))
    look(pixels)
    return predict_batch(run.detector, run.compute.batch(pixels[None]), run.compute, explain=explain)


def predict_files(run: LoadedRun, paths: Iterable[Path], *, maps: bool, look: Look) -> Iterator[Prediction]:
    """Score images one at a time in the order of their paths, in tiles."""
    for path in paths:
        try:
            outputs = predict_file(run, path, explain=False, look=look)
        except FileNotFoundError:
            yield Prediction(str(path), dict.fromkeys(run.detector.score_names), error="file does not exist")
            continue
        except Exception as cause:  # decoders raise nearly anything
            yield Prediction(str(path), dict.fromkeys(run.detector.score_names), error=why_unreadable(cause))
            continue
        scores: dict[str, float | None] = {name: float(values[0]) for name, values in outputs.scores.items()}
        score = float(outputs.score[0])
        own_map = outputs.map[0] if maps else None
        yield Prediction(str(path), scores, score, score > run.point.threshold, own_map)


def predict_records(run: LoadedRun, records: Sequence[Record]) -> Predictions:
    """Predict labelled images in tiles, with all that explains; maps are brought to the size of the largest."""
    return stack([predict_file(run, record.path, explain=True) for record in records])
