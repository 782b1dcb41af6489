"""Predict images as they come: paths in, rows out, in the order of the paths, a batch at a time.

Decoding runs ahead of the encoder by a few batches; memory does not grow with the number of images.
An image that cannot be read, or whose score is not finite, becomes a row that says why. No file that may be an
image is passed over in silence: a gate that missed one would let it through.
"""

import glob
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_ft.data.images import why_unreadable
from anomaly_ft.data.layouts.tree import images_below
from anomaly_ft.data.pixels import SUFFIXES, Pixels
from anomaly_ft.errors import DataError, DivergedError
from anomaly_ft.model.inference import predict_batch
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.maps import Map
from anomaly_ft.run.prediction_rows import Prediction
from anomaly_ft.run.tiles import predict_files

WILDCARDS = frozenset("*?[")
AHEAD = 2  # batches decoded while one is scored

Look = Callable[[Pixels], None]


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
