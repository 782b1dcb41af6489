"""Write the regions of predicted images that chance hardly makes, a row for each."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.chance import Chance
from anomaly_ft.evaluation.localisation import image_size
from anomaly_ft.evaluation.regions import find_regions, place
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.storage import read_description
from anomaly_ft.run.prediction_rows import Format, Prediction, cut_to_rows, header, readable, render

COLUMNS = ("path", "nfa", "left", "top", "right", "bottom", "area", "distance")
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class Allowed:
    """So many false alarms a good image on average, and what chance does in the maps of good images."""

    epsilon: float
    chance: Chance


def allow(run: LoadedRun, epsilon: float) -> Allowed:
    """Allow so many false alarms a good image, by what a run knows of chance.

    Raises:
        RunError: no number above 0; a run whose map has no distances, that keeps nothing of chance, or whose
            description is damaged.
    """
    if not 0 < epsilon < math.inf:
        raise RunError(f"--epsilon {epsilon:g}: expected false alarms an image, a number above 0")
    if run.detector.map_threshold() is None:
        raise RunError(
            f"--regions: {run.folder} has no map of distances at single places: its score is one of the "
            f"whole image (gaussian.score: {run.score}); train with another gaussian.score"
        )
    stored = read_description(run.folder).get("chance")
    if stored is None:
        raise RunError(
            f"--regions: {run.folder} keeps nothing of chance in maps of good images (an older version made "
            "it); train again, or give it to anomaly-ft update"
        )
    try:
        return Allowed(epsilon, Chance.restored(stored))
    except (ValueError, TypeError, KeyError) as cause:
        raise RunError(f"{run.folder}: detector.json has no usable chance ({cause})") from cause


def say_extrapolated(allowed: Allowed) -> list[str]:
    """Say that so few false alarms were never observed, where that is so."""
    least = allowed.chance.least_observed
    if allowed.epsilon >= least:
        return []
    return [
        f"--epsilon {allowed.epsilon:g} is extrapolated: {allowed.chance.images} held-out images show no fewer "
        f"than {least:.2g} false alarms an image"
    ]


@contextmanager
def open_regions(
    run: LoadedRun, folder: Path, form: Format, allowed: Allowed | None, *, more: bool = False
) -> Iterator[Callable[[Prediction], Masks]]:
    """Open `folder/regions.<form>` for what finds the regions of a prediction that has a map, writes a row for
    each, the most significant one first, and returns them in the image's own pixels; with nothing allowed there
    are none. Whenever writing ends, rows are complete. With `more` they follow those that are there.

    Raises:
        RunError: the file cannot be written.
    """
    if allowed is None:
        yield lambda prediction: []
        return
    path = folder / f"regions.{form}"
    try:
        with path.open("a" if more else "w", encoding="utf-8", newline="") as file:
            file.write("" if more else header(form, COLUMNS))

            def write(prediction: Prediction) -> Masks:
                rows, masks = _regions(run, prediction, allowed)
                file.writelines(render(row, form) for row in rows)
                file.flush()
                return masks

            yield write
    except OSError as cause:
        raise RunError(f"--output: {path} cannot be written ({cause}); complete rows are kept") from cause
    finally:
        cut_to_rows(path)


def _regions(
    run: LoadedRun, prediction: Prediction, allowed: Allowed
) -> tuple[list[dict[str, str | float | None]], Masks]:
    """Find the regions of a prediction: their rows, and where they are."""
    rows: list[dict[str, str | float | None]] = []
    masks: Masks = []
    found = [] if prediction.map is None else find_regions(prediction.map, allowed.chance, allowed.epsilon)
    height, width = image_size(Path(prediction.path)) if found else (0, 0)
    for region in found:
        placed = place(region, height, width, run.decoder)
        if placed is None:
            continue
        box = (placed.left, placed.top, placed.right, placed.bottom)
        values = (readable(prediction.path), region.nfa, *box, placed.area, region.highest)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        masks.append(placed.inside)
    return rows, masks
