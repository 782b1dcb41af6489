"""Change the working point of a finished run: by hand, recalibrated on good images, or on labelled defects.

One file of the run folder changes, whole or not at all (`model.changes`); predict, evaluate and export go by it
from then on. What the run measured when it was trained stays in its summary.
"""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.layouts.files import means_normal
from anomaly_ft.data.layouts.tree import images_below
from anomaly_ft.data.records import ANOMALOUS, Record
from anomaly_ft.errors import DataError, RunError
from anomaly_ft.evaluation.working_points import Guarantee, from_defects
from anomaly_ft.model.changes import Change, append_change
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.threshold import WorkingPoint
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.calibration import asked_again, calibrate_on
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.folder import locked_run, writing_to
from anomaly_ft.run.open import open_run
from anomaly_ft.run.own_images import (
    good_records,
    own_records,
    read_all,
    refuse_known,
    with_own_copies,
)
from anomaly_ft.run.updated_images import named_by_content, read_updates


@dataclass(frozen=True)
class Wanted:
    """What a working point is to be; at most one of `value`, `good` and `defects` is set.

    Attributes:
        value: by hand.
        good: a folder of good images to recalibrate on.
        defects: labelled images, or a folder of defective ones alone.
        missed: the share of these defects that may be missed.
        rate: the false positive rate asked for; None: as before.
        guarantee: what it means; None: as before.
    """

    value: float | None = None
    good: str | None = None
    defects: str | None = None
    missed: float = 0.0
    rate: float | None = None
    guarantee: Guarantee | None = None


def change_threshold(folder: Path, wanted: Wanted, why: str, terminal: Terminal) -> Change:
    """Change the working point of a run, and keep a record of it in the run folder.

    Args:
        folder: of the run.
        wanted: the new working point; without an image it is recalibrated on the run's own.
        why: for the record.
        terminal: for progress.

    Raises:
        RunError: no finished run, another command is changing it, or its images are gone.
        DataError: images that cannot be used.
    """
    _refuse_contradictions(wanted)
    with locked_run(folder):
        recipe, run = open_run(folder)
        point, limit, how = _point(folder, wanted, recipe, run, terminal)
        when = datetime.now(UTC).isoformat(timespec="seconds")
        change = Change(when, how, why, run.point.threshold, point, limit)
        with writing_to(folder, "give the command again; the threshold is as it was"):
            append_change(folder, change)
    return change


def _point(
    folder: Path, wanted: Wanted, recipe: Recipe, run: LoadedRun, terminal: Terminal
) -> tuple[WorkingPoint, float | None, str]:
    """Find the new working point, the limit of the map where it changes too, and words for the record."""
    before = run.point
    if wanted.value is not None:
        return WorkingPoint(wanted.value, before.target_fpr, 1.0, 0), None, "by hand"
    if wanted.defects is not None:
        records = _defects(wanted.defects)
        images = read_all(records, recipe, run.decoder, terminal)
        scores = score_images(run.detector, images.pixels, run.compute)[run.score]
        point = replace(from_defects(scores, wanted.missed), target_fpr=before.target_fpr)
        return (
            point,
            None,
            f"on {len(records)} defective images of {wanted.defects}, {wanted.missed:.1%} missed",
        )
    own, added = own_records(folder, recipe), read_updates(folder)
    for record in added:
        own[record.part or "train"].append(record)
    source = recipe.data.root if wanted.good is None else wanted.good
    records = own["calibration"] if wanted.good is None else good_records(wanted.good, recipe)
    if wanted.good is not None:
        refuse_known(wanted.good, records, own["train"] + own["val"])  # scores of these are too low
    elif any(record.part == "calibration" for record in added):
        source += " and of updates"
    images = read_all(records, recipe, run.decoder, terminal)
    asked = asked_again(recipe.evaluation, before, wanted.rate, wanted.guarantee)
    pixels = with_own_copies(named_by_content(images, added), recipe, "calibration").pixels
    found = calibrate_on(pixels, images.records, run.detector, run.compute, asked)
    if found.decided_by:
        terminal.say(f"one image alone decides the threshold: {found.decided_by}; see that it is good")
    thresholds = found.detector.thresholds
    limit = thresholds.map_limit if thresholds else None
    return found.point, limit, f"on {len(records)} good images of {source}"


def _defects(root: str) -> list[Record]:
    """List the defective images of labelled ones, or, where none is labelled, all below a folder.

    Raises:
        DataError: there are none, or names say that some are good.
    """
    try:
        labelled = [record for record in read_root(root).records if record.anomalous]
    except DataError:  # such as a folder of defects alone
        labelled = []
    if labelled:
        return labelled
    folder = Path(root).expanduser()
    names = [path.relative_to(folder).as_posix() for path in images_below(folder)] if folder.is_dir() else []
    good = [n for n in names if any(map(means_normal, (folder.name, *Path(n).with_suffix("").parts)))]
    if good:
        raise DataError(
            f"--from {root}: nothing there is labelled defective, and {len(good)} of {len(names)} images are "
            f"good by their names, such as {good[0]}; name the folder of the defective ones"
        )
    if not names:
        raise DataError(
            f"--from {root}: there are no defective images; name labelled images, or a folder of them"
        )
    return [Record(folder, name, "test", ANOMALOUS) for name in names]


def _refuse_contradictions(wanted: Wanted) -> None:
    """Raise a RunError for what cannot be meant together, or is no threshold at all."""
    named = {"--value": wanted.value, "--good": wanted.good, "--from": wanted.defects}
    chosen = [name for name, value in named.items() if value is not None]
    asked = wanted.rate is not None or wanted.guarantee is not None
    if len(chosen) > 1:
        raise RunError(f"{' and '.join(chosen)}: give one of them")
    if asked and chosen and chosen != ["--good"]:
        raise RunError(
            f"--rate and --guarantee are of thresholds from good images; leave them out with {chosen[0]}"
        )
    if wanted.missed and chosen != ["--from"]:
        raise RunError("--missed is of a threshold from defects; name them with --from")
    if wanted.value is not None and not math.isfinite(wanted.value):
        raise RunError(f"--value {wanted.value}: expected a number")
