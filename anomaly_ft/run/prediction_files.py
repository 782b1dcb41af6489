"""Write predictions as they come, to stdout or to a folder with maps and regions, where a run that was stopped
goes on."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.false_alarms import say_far_too_many
from anomaly_ft.evaluation.map_files import MapFolder, colour_scale
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.run.predict import expand, predict
from anomaly_ft.run.prediction_resume import go_on, remember
from anomaly_ft.run.prediction_rows import Format, Prediction, Tally, columns, cut_to_rows, header, render
from anomaly_ft.run.region_rows import Allowed, allow, open_regions, say_extrapolated
from anomaly_ft.run.tiles import NOTICE
from anomaly_ft.run.today import ImageWatch

Progress = Callable[["Iterable[Prediction]", str, int | None], "Iterable[Prediction]"]  # items, what, total
Draw = Callable[[Prediction, int], str]  # of a prediction and its number: the name for its column `map`
# scores paths, with maps or without, and shows images to the watch
Score = Callable[[LoadedRun, Iterable[Path], bool, ImageWatch], Iterator[Prediction]]


@dataclass(frozen=True)
class Destination:
    """Where rows go: to `folder/predictions.<form>`, or to stdout; with `maps` each map to `folder/maps`; with
    `epsilon`, the false alarms an image that are allowed, regions to `folder/regions.<form>`. With `resume`
    rows that the folder has stay, and their images are not scored again."""

    folder: Path | None
    form: Format
    maps: bool = False  # see `MapFolder`
    epsilon: float | None = None  # see `region_rows`
    resume: bool = False  # see `prediction_resume`


def score_here(run: LoadedRun, paths: Iterable[Path], maps: bool, watch: ImageWatch) -> Iterator[Prediction]:
    """Score in this process."""
    return predict(run, paths, threads=min(8, os.cpu_count() or 1), maps=maps, look=watch.look)


def predict_to(
    destination: Destination,
    run: LoadedRun,
    images: Sequence[str | Path],
    *,
    stdin: Iterable[str],
    progress: Progress = lambda items, description, total: items,
    score: Score = score_here,
) -> Tally:
    """Score what `images` names and write a row for each; the tally counts rows that were there before too.

    Raises:
        DataError: nothing to score.
        RunError: the folder cannot be written to, or cannot be gone on with, or regions are asked of a run that
            has none.
    """
    form, maps = destination.form, destination.maps
    allowed = None if destination.epsilon is None else allow(run, destination.epsilon)
    paths: Iterable[Path] = expand(images, stdin)
    if "-" not in images:  # else nobody knows how many are to come
        paths = list(paths)
    total = len(paths) if isinstance(paths, list) else None
    watch, mapped, names = ImageWatch(run.folder), maps or allowed is not None, run.detector.score_names
    if destination.folder is None:
        seen = progress(score(run, paths, mapped, watch), "scoring", total)
        return _noticed(run, watch, allowed, stream(seen, sys.stdout, form, names))
    asked = {"maps": maps, "epsilon": destination.epsilon}
    before = Tally()
    if destination.resume:
        before, paths = go_on(run, destination.folder, form, paths, asked)
    with _writing(destination.folder):
        (destination.folder / "maps" if maps else destination.folder).mkdir(parents=True, exist_ok=True)
        remember(run, destination.folder, asked)
    left = None if total is None else total - before.images
    seen = progress(score(run, paths, mapped, watch), "scoring", left)
    drawn = MapFolder(run, destination.folder / "maps", colour_scale(run))
    more = bool(before.images)
    with open_regions(run, destination.folder, form, allowed, more=more) as regions_of:

        def draw(prediction: Prediction, number: int) -> str:
            regions = regions_of(prediction)
            if prediction.map is None or not maps:
                return ""
            return drawn.write(Path(prediction.path), prediction.map, number, regions)

        rows = destination.folder / f"predictions.{form}"
        with _rows_file(rows, "a" if more else "w") as file:
            tally = stream(seen, file, form, names, draw, before=before)
    return _noticed(run, watch, allowed, tally)


def stream(
    predictions: Iterable[Prediction],
    out: TextIO,
    form: Format,
    scores: Iterable[str],
    draw: Draw = lambda prediction, number: "",
    *,
    before: Tally | None = None,
) -> Tally:
    """Write a row for each prediction as soon as it is there; what was written is always complete rows.

    Args:
        predictions: as `predict` gives them.
        out: where rows go.
        form: of the rows.
        scores: names of the detector's scores.
        draw: is shown each prediction and its number, from 0.
        before: counts rows that are there already, the header among them.
    """
    tally = before or Tally()
    if not tally.images:
        out.write(header(form, columns(scores)))
    for prediction in predictions:
        out.write(render(prediction.row(draw(prediction, tally.images)), form))
        out.flush()
        tally.count(anomalous=bool(prediction.anomalous), error=bool(prediction.error))
    return tally


def _noticed(run: LoadedRun, watch: ImageWatch, allowed: Allowed | None, tally: Tally) -> Tally:
    """The tally with what is to be said of the images as a whole."""
    scored = tally.images - tally.errors
    if not scored:
        return tally
    many = say_far_too_many(tally.anomalous, scored, run.point)
    tiles = [NOTICE] if run.tile else []
    rare = say_extrapolated(allowed) if allowed else []
    return replace(tally, notices=(*watch.says(), *([many] if many else []), *tiles, *rare))


@contextmanager
def _rows_file(path: Path, mode: Literal["a", "w"]) -> Iterator[TextIO]:
    """Open a file of rows; where the disk is full, complete rows are left."""
    try:
        with path.open(mode, encoding="utf-8", newline="") as file:
            yield file
    except OSError as cause:
        if path.is_file():  # and no device
            cut_to_rows(path)
        raise RunError(
            f"--output: {path} cannot be written ({cause}); complete rows are kept, --resume goes on from them"
        ) from cause


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise RunError(f"--output: cannot write to {folder} ({cause})") from cause
