"""Add new good images to a finished run, without training: a new run comes out, the old one stays as it was.

Statistics are sums, so an update is exact: two of them give what one with all the images gives, and what a fit
of all gives. Which of the new images enter the statistics, the scale of the scores and the threshold is decided
by their content, or by their group, so that it does not matter either in how many updates they come.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import PARTS, Part, Record
from anomaly_ft.errors import DataError, RunError
from anomaly_ft.evaluation.appearance_shift import learn_appearance
from anomaly_ft.evaluation.assess import Assessment, assess
from anomaly_ft.evaluation.measure import prediction_table, threshold_numbers
from anomaly_ft.evaluation.report import ReportData, write_report
from anomaly_ft.evaluation.working_points import observed
from anomaly_ft.metrics import Floats
from anomaly_ft.model.encoder.adapters import digest
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_to_sums, sums_of
from anomaly_ft.model.gaussian.sums import PartSums, load_sums, save_sums
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.storage import read_description
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.calibration import Calibrated, asked_again, calibrate_on
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.folder import (
    UPDATED,
    finish_folder,
    finished_name,
    locked_run,
    start_folder,
    writing_to,
)
from anomaly_ft.run.log import log_end, log_start
from anomaly_ft.run.open import open_run, open_summary
from anomaly_ft.run.own_images import (
    good_records,
    own_records,
    read_all,
    refuse_known,
    with_own_copies,
)
from anomaly_ft.run.run_summary import FinishedRun, RunSummary
from anomaly_ft.run.updated_images import named_by_content, part_of, read_updates, write_updates
from anomaly_ft.system.addresses import without_password
from anomaly_ft.system.files import write_json
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.store import refuse_new_database
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker

FARTHEST = 10.0  # spreads above a run's good images from which new ones are taken for another part
COPIED = ("recipe.yaml", "split.csv", "history.jsonl")  # what training left and an update does not change


@dataclass(frozen=True)
class Wanted:
    """What is added, and how.

    Attributes:
        root: good images.
        cleared: whether all enter the statistics: false alarms were chosen for their scores, and would raise a
            threshold that they set.
        force: whether they may look like another part.
    """

    root: str
    cleared: bool = False
    force: bool = False


@dataclass(frozen=True)
class _Work:
    """A run, its images by what they served, and those that are added.

    Attributes:
        own: since training.
        earlier: of updates before this one.
        added: of this one.
        before: scores of the run's own calibration images, `(n,)`.
        distance: of the new images to these, see `UpdateSummary`.
    """

    folder: Path
    recipe: Recipe
    run: LoadedRun
    terminal: Terminal
    own: dict[str, list[Record]]
    earlier: list[Record]
    added: list[Record]
    before: Floats
    distance: float

    def images(self, part: Part) -> Images:
        """Read all images that serve one purpose from now on, those of training first."""
        more = [record for record in (*self.earlier, *self.added) if record.part == part]
        return read_all([*self.own[part], *more], self.recipe, self.run.decoder, self.terminal)

    def varied(self, images: Images, part: Part) -> Images:
        """Put after images their varied copies."""
        named = named_by_content(images, [*self.earlier, *self.added])
        return with_own_copies(named, self.recipe, part)


def update(folder: Path, wanted: Wanted, terminal: Terminal, output: Path | None = None) -> FinishedRun:
    """Add new good images to a finished run; returns the new one, which is a child of the old one in MLflow.

    Args:
        folder: of the run, which stays as it is.
        wanted: what is added.
        terminal: for progress.
        output: where the new folder goes; unset: beside the run.

    Raises:
        RunError: no finished run, one without sums, another command is at it, or its images are gone.
        DataError: new images that cannot be used.
        EncoderError: the run's encoder is no longer the one that its sums are of.
    """
    target = output or folder.resolve().parent
    with locked_run(folder):
        recipe, run = open_run(folder)
        _gaussian(run)
        sums = load_sums(folder)
        sums.refuse_another(wanted.root, digest(run.detector.encoder.model))
        work = _gather(folder, recipe, run, wanted, terminal)
        name = f"{UPDATED.sub('', run.name)}-update"
        for left in target.glob(f".{name}-*.partial"):  # of an update that was killed: nobody else is at it
            shutil.rmtree(left, ignore_errors=True)
        partial = start_folder(target, name)
        try:
            with writing_to(target, "give the command again; the run is as it was"):
                summary = _make(work, sums, partial)
                finished = finish_folder(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return _log(finished, summary, work)


def _gaussian(run: LoadedRun) -> GaussianDetector:
    """Give the detector if it is one of sums, or refuse the run."""
    if isinstance(run.detector, GaussianDetector):
        return run.detector
    raise RunError(f"{run.folder}: a filter keeps no sums that images can be added to; train it again")


def _gather(folder: Path, recipe: Recipe, run: LoadedRun, wanted: Wanted, terminal: Terminal) -> _Work:
    """List all images, and refuse new ones that do not belong there."""
    own, earlier = own_records(folder, recipe), read_updates(folder)
    new = good_records(wanted.root, recipe)
    refuse_known(wanted.root, new, [record for part in own.values() for record in part] + earlier)
    images = read_all(new, recipe, run.decoder, terminal)
    calibration = read_all(own["calibration"], recipe, run.decoder, terminal)
    before, scores = (
        score_images(run.detector, some.pixels, run.compute)[run.score] for some in (calibration, images)
    )
    distance = float((np.median(scores) - before.mean()) / max(before.std(ddof=1), 1e-9))
    if distance > FARTHEST and not wanted.force:
        raise DataError(
            f"{wanted.root}: its {len(new)} images look like another part: their median score "
            f"{np.median(scores):.4g} lies {distance:.1f} standard deviations of the run's calibration images "
            f"above their mean {before.mean():.4g}, more than {FARTHEST:g}; if they are good ones of this "
            "part, give --force"
        )
    added = [
        replace(record, part="train" if wanted.cleared else part_of(record, recipe.data)) for record in new
    ]
    return _Work(folder, recipe, run, terminal, own, earlier, added, before, distance)


def _make(work: _Work, kept_sums: PartSums, partial: Path) -> RunSummary:
    """Write every file of the new run folder; returns its summary."""
    recipe, run = work.recipe, work.run
    encoder, settings, compute = run.detector.encoder, _gaussian(run).settings, run.compute
    sha256 = digest(encoder.model)
    if train := [record for record in work.added if record.part == "train"]:
        images = work.varied(read_all(train, recipe, run.decoder, work.terminal), "train")
        more = sums_of(encoder, images.pixels, compute, settings, exact=True)
        kept_sums = kept_sums + PartSums(str(train[0].root), sha256, more)
    save_sums(partial, kept_sums.sums, sha256)
    detector = fit_to_sums(encoder, kept_sums.sums, settings).to(compute.fabric.device)
    val = work.varied(work.images("val"), "val")
    detector = detector.standardised(score_images(detector, val.pixels, compute))
    held_out = work.images("calibration")
    pixels = work.varied(held_out, "calibration").pixels
    asked = asked_again(recipe.evaluation, run.point)
    kept = calibrate_on(pixels, held_out.records, detector, compute, asked)
    about = {name: read_description(work.folder)[name] for name in ("statistics", "preprocessing")}
    looks = learn_appearance(pixels, len(held_out))
    known = {"appearance": looks.plain(), "chance": kept.chance.plain()}
    kept.detector.save(partial, about=about | known)
    for name in COPIED:
        shutil.copyfile(work.folder / name, partial / name)
    write_updates(partial, [*work.earlier, *work.added])
    assessment = _assess(work, kept)
    summary = _summary(work, kept, assessment, finished_name(partial))
    shown = ReportData(
        recipe.to_yaml(),
        assessment,
        kept.point.threshold,
        kept.calibration.score,
        kept.detector.labels,
        root=work.own["train"][0].root,
        decoder=run.decoder,
        missing=kept.point.missing,
        chance=kept.chance,
    )
    write_report(partial / "report.html", summary.plain(), shown)
    if assessment:
        outputs = assessment.outputs
        table = prediction_table(assessment.records, outputs.scores, outputs.decides, kept.point)
        table.to_csv(partial / "predictions.csv", index=False)
    write_json(partial / "summary.json", summary.plain())
    return summary


def _assess(work: _Work, kept: Calibrated) -> Assessment | None:
    """Measure the new detector on the run's test images; None where there are none."""
    if not work.own["test"]:
        return None
    test = read_all(work.own["test"], work.recipe, work.run.decoder, work.terminal)
    outputs = predict(kept.detector, test.pixels, work.run.compute)
    return assess(test.records, outputs, kept.point, work.run.decoder, kept.detector.map_threshold())


def _summary(work: _Work, kept: Calibrated, assessment: Assessment | None, name: str) -> RunSummary:
    """Put what changed into the summary of the run; what training left stays."""
    old = open_summary(work.folder).plain()
    counts = {part: sum(record.part == part for record in work.added) for part in PARTS}
    after = kept.calibration.score[: len(work.before)]
    changed = {
        "of": work.run.name,
        "added": counts,
        "threshold_before": work.run.point.threshold,
        "false_alarms_before": _rejected(work.run.point.threshold, work.before),
        "false_alarms": _rejected(kept.point.threshold, after),
        "score_shift": float((after.mean() - work.before.mean()) / max(work.before.std(ddof=1), 1e-9)),
        "distance": work.distance,
    }
    tested: dict[str, Any] = assessment.summary() if assessment else {"test": None}
    return RunSummary.model_validate(
        {
            **old,
            **tested,
            "folder_name": name,
            "data": {**old["data"], **{part: old["data"][part] + count for part, count in counts.items()}},
            "thresholds": {**threshold_numbers(kept.point), "decided_by": kept.decided_by},
            "chi_square": [asdict(level) for level in kept.parametric],
            "test_by_statistics": {old["statistics"]: tested["test"]},
            "gain_intervals": {},
            "variation": None,
            "mlflow_run_id": None,
            "update": changed,
        }
    )


def _rejected(threshold: float, scores: Floats) -> dict[str, Any]:
    rates = observed(threshold, scores)
    return asdict(rates) if rates else {}


def _log(finished: Path, summary: RunSummary, work: _Work) -> FinishedRun:
    """Log the new run below the old one, where that is in MLflow."""
    tracking, parent = work.recipe.tracking, open_summary(work.folder).mlflow_run_id
    tracked = TrackedRun(tracking.experiment, finished.name, experiment_tags=experiment_tags())
    if not (tracking.mlflow and parent):
        return FinishedRun(finished, summary)
    try:
        refuse_new_database(tracking.uri)
    except RunError as cause:
        work.terminal.say(f"not in MLflow: {cause}")
        return FinishedRun(finished, summary)
    with make_tracker(tracked, enabled=True, uri=tracking.uri, output=work.folder.resolve().parent) as tracker:
        split = pd.read_csv(finished / "split.csv", keep_default_na=False)
        log_start(work.recipe, split, tracker, summary.git_commit)
        tracker.tags({"mlflow.parentRunId": parent, "update_of": work.run.name})
        log_end(summary, tracker, finished)
        tracker.model(finished, work.recipe.runtime.computing(), "")
    summary = summary.model_copy(update={"mlflow_run_id": tracker.run_id})
    write_json(finished / "summary.json", summary.plain())
    return FinishedRun(finished, summary, tracker.uri and without_password(tracker.uri))
