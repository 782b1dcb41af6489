"""Predict images as they come: paths in, rows out, in the order of the paths, a batch at a time.

Decoding runs ahead of the encoder by a few batches; memory does not grow with the number of images.
An image that cannot be read, or whose score is not finite, becomes a row that says why. No file that may be an
image is passed over in silence: a gate that missed one would let it through.
"""

import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image

from anomaly_ft.data.images import why_unreadable
from anomaly_ft.data.layouts.tree import images_below
from anomaly_ft.data.pixels import SUFFIXES, Pixels
from anomaly_ft.errors import DataError, DivergedError, RunError
from anomaly_ft.evaluation.false_alarms import say_far_too_many
from anomaly_ft.evaluation.map_files import MapFolder, colour_scale
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.maps import Map
from anomaly_ft.run.prediction_rows import (
    Format,
    Prediction,
    cut_to_rows,
    header,
    render,
)
from anomaly_ft.run.region_rows import Allowed, allow, open_regions, say_extrapolated
from anomaly_ft.run.tiles import NOTICE, predict_files
from anomaly_ft.run.today import ImageWatch

Progress = Callable[["Iterable[Prediction]", str, int | None], "Iterable[Prediction]"]  # items, what, total
WILDCARDS = frozenset("*?[")
AHEAD = 2  # batches decoded while one is scored


Look = Callable[[Pixels], None]
Draw = Callable[[Prediction, int], str]  # of a prediction and its number: the name for its column `map`


def expand(arguments: Iterable[str | Path], stdin: Iterable[str] = ()) -> Iterator[Path]:
    """Expand arguments to paths of images: files, folders with everything below, patterns, and `-` for the
    lines of `stdin`. What is a path already stays as it is.

    Lazy: lines are read as they are asked for. What cannot be read is passed on, and becomes a row with an
    error: a file that does not exist, an image of a kind that needs an extra.

    Raises:
        DataError: a folder without images, or one that cannot be listed, or a pattern that matches nothing.
    """
    for argument in arguments:
        path = Path(argument)
        if isinstance(argument, Path):
            yield argument
        elif argument == "-":
            yield from (Path(line) for line in (raw.rstrip("\r\n") for raw in stdin) if line)
        elif path.is_dir():
            yield from _some(
                iter(images_below(path)),
                f"no images below {path}; known endings: {', '.join(sorted(SUFFIXES))}",
            )
        elif WILDCARDS & set(argument) and not path.exists():
            names = glob.glob(argument, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute ones
            matches = (Path(match) for match in sorted(names))
            yield from _some((p for p in matches if p.is_file()), f"nothing matches {argument}")
        else:
            yield path


def predict(
    run: LoadedRun,
    paths: Iterable[Path],
    *,
    threads: int = 1,
    maps: bool = False,
    look: Look = lambda pixels: None,
) -> Iterator[Prediction]:
    """Score images in the order of their paths.

    Args:
        run: detector, threshold and how it computes.
        paths: drawn from no further ahead than is decoded ahead.
        threads: so many files are decoded at a time; in tiles, one.
        maps: whether predictions carry a map.
        look: is shown each image that could be decoded, in the thread that did.
    """

    if run.tile:
        yield from predict_files(run, paths, maps=maps, look=look)
        return

    def decode(path: Path) -> Pixels:
        pixels = run.decoder(path)
        look(pixels)
        return pixels

    Image.init()  # not safe to leave to several threads
    remaining = iter(paths)
    size = run.compute.batch_size
    waiting: deque[tuple[Path, Future[Pixels]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        while True:
            for path in islice(remaining, (1 + AHEAD) * size - len(waiting)):
                waiting.append((path, pool.submit(decode, path)))
            if not waiting:
                return
            batch = [waiting.popleft() for _ in range(min(size, len(waiting)))]
            yield from _score(run, [(path, _result(future)) for path, future in batch], maps)


@dataclass
class Tally:
    """How many images were seen, called anomalous, and could not be read or scored."""

    images: int = 0
    anomalous: int = 0
    errors: int = 0
    notices: tuple[str, ...] = ()  # on the images as a whole

    def __str__(self) -> str:
        text = f"{self.images} images, {self.anomalous} anomalous"
        return text + (f", {self.errors} could not be read or scored" if self.errors else "")

    def refuse_if_nothing_was_scored(self) -> None:
        """Raise a DataError when not a single image got a decision."""
        if self.errors == self.images:
            raise DataError(f"none of {self.images} images could be read and scored")


def stream(
    predictions: Iterable[Prediction],
    out: TextIO,
    form: Format,
    scores: Iterable[str],
    draw: Draw = lambda prediction, number: "",
) -> Tally:
    """Write a row for each prediction as soon as it is there; what was written is always complete rows.

    Args:
        predictions: as `predict` gives them.
        out: where rows go.
        form: of the rows.
        scores: names of the detector's scores.
        draw: is shown each prediction and its number, from 0.
    """
    tally = Tally()
    out.write(header(form, scores))
    for prediction in predictions:
        out.write(render(prediction.row(draw(prediction, tally.images)), form))
        out.flush()
        tally.images += 1
        tally.anomalous += bool(prediction.anomalous)
        tally.errors += bool(prediction.error)
    return tally


@dataclass(frozen=True)
class Destination:
    """Where rows go: to `folder/predictions.<form>`, or to stdout; with `maps` each map to `folder/maps`; with
    `epsilon`, the false alarms an image that are allowed, regions to `folder/regions.<form>`."""

    folder: Path | None
    form: Format
    maps: bool = False  # see `MapFolder`
    epsilon: float | None = None  # see `region_rows`


def predict_to(
    destination: Destination,
    run: LoadedRun,
    images: Sequence[str | Path],
    *,
    stdin: Iterable[str],
    progress: Progress = lambda items, description, total: items,
) -> Tally:
    """Score what `images` names and write a row for each.

    Raises:
        DataError: nothing to score.
        RunError: the folder cannot be written to, or regions are asked of a run that has none.
    """
    form, maps = destination.form, destination.maps
    allowed = None if destination.epsilon is None else allow(run, destination.epsilon)
    known = "-" not in images  # else nobody knows how many are to come
    paths: Iterable[Path] = expand(images, stdin)
    if known:
        paths = list(paths)
    watch = ImageWatch(run.folder)
    threads, mapped = min(8, os.cpu_count() or 1), maps or allowed is not None
    predictions = predict(run, paths, threads=threads, maps=mapped, look=watch.look)
    seen = progress(predictions, "scoring", len(paths) if isinstance(paths, list) else None)
    if destination.folder is None:
        return _noticed(run, watch, allowed, stream(seen, sys.stdout, form, run.detector.score_names))
    folder = _make(destination.folder / "maps" if maps else destination.folder)
    drawn = MapFolder(run, folder, colour_scale(run))
    with open_regions(run, destination.folder, form, allowed) as regions_of:

        def draw(prediction: Prediction, number: int) -> str:
            regions = regions_of(prediction)
            if prediction.map is None or not maps:
                return ""
            return drawn.write(Path(prediction.path), prediction.map, number, regions)

        rows = destination.folder / f"predictions.{form}"
        tally = _stream_to(rows, seen, form, draw, run.detector.score_names)
    return _noticed(run, watch, allowed, tally)


def _noticed(run: LoadedRun, watch: ImageWatch, allowed: Allowed | None, tally: Tally) -> Tally:
    """The tally with what is to be said of the images as a whole."""
    scored = tally.images - tally.errors
    if not scored:
        return tally
    many = say_far_too_many(tally.anomalous, scored, run.point)
    tiles = [NOTICE] if run.tile else []
    rare = say_extrapolated(allowed) if allowed else []
    return replace(tally, notices=(*watch.says(), *([many] if many else []), *tiles, *rare))


def _stream_to(
    path: Path, predictions: Iterable[Prediction], form: Format, draw: Draw, scores: Iterable[str]
) -> Tally:
    """Stream into a file; where the disk is full, complete rows are left."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            return stream(predictions, file, form, scores, draw)
    except OSError as cause:
        if path.is_file():  # and no device
            cut_to_rows(path)
        raise RunError(f"--output: {path} cannot be written ({cause}); complete rows are kept") from cause


def _make(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise RunError(f"--output: cannot write to {folder} ({cause})") from cause
    return folder


def _score(run: LoadedRun, decoded: Sequence[tuple[Path, Pixels | str]], maps: bool) -> Iterator[Prediction]:
    """Predict one batch of decoded images, or of reasons why there are none, in their order."""
    scored = iter(_scored(run, [pixels for _, pixels in decoded if not isinstance(pixels, str)], maps))
    for path, pixels in decoded:
        outcome = pixels if isinstance(pixels, str) else next(scored)
        if isinstance(outcome, str):
            yield Prediction(str(path), dict.fromkeys(run.detector.score_names), error=outcome)
            continue
        scores, own_map = outcome
        score = scores[run.detector.decides]
        yield Prediction(str(path), dict(scores), score, score > run.point.threshold, own_map)


def _scored(
    run: LoadedRun, pixels: Sequence[Pixels], maps: bool
) -> list[tuple[dict[str, float], Map | None] | str]:
    """Score each image by name, with its map if asked for; or say why it has none."""
    if not pixels:
        return []
    try:
        outputs = predict_batch(run.detector, run.compute.batch(np.stack(pixels)), run.compute, explain=False)
    except DivergedError as cause:
        if len(pixels) == 1:
            return [str(cause)]
        return [outcome for image in pixels for outcome in _scored(run, [image], maps)]
    return [
        ({name: float(values[i]) for name, values in outputs.scores.items()}, outputs.map[i] if maps else None)
        for i in range(len(pixels))
    ]


def _result(future: "Future[Pixels]") -> Pixels | str:
    try:
        return future.result()
    except FileNotFoundError:
        return "file does not exist"
    except Exception as cause:  # decoders raise nearly anything on damaged files
        return why_unreadable(cause)


def _some(paths: Iterator[Path], otherwise: str) -> Iterator[Path]:
    """Pass the paths on; raises an error if there is not even one."""
    first = next(paths, None)
    if first is None:
        raise DataError(otherwise)
    yield first
    yield from paths
