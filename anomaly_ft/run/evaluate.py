"""Evaluate a finished run on any labelled images. The run folder is read and never written to."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pandas import DataFrame

from anomaly_ft import __version__
from anomaly_ft.data.conditions import conditions_of, refuse_unread
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.layouts.detect import Reading, read_root
from anomaly_ft.data.lazy_images import view
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError, RunError
from anomaly_ft.evaluation.assess import Assessment, assess
from anomaly_ft.evaluation.conditions import Judged, by_condition
from anomaly_ft.evaluation.false_alarms import say_false_alarms, say_far_too_many
from anomaly_ft.evaluation.measure import prediction_table, threshold_numbers
from anomaly_ft.evaluation.report import ReportData, write_report
from anomaly_ft.evaluation.working_points import chi_square, observed
from anomaly_ft.model.inference import predict
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.by_condition import condition_metrics, condition_table, frozen_predictions
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.folder import finish_folder, start_folder
from anomaly_ft.run.open import open_run, open_summary
from anomaly_ft.run.own_images import read_images
from anomaly_ft.run.run_summary import EvaluationSummary
from anomaly_ft.run.setup import records_of
from anomaly_ft.run.summary import LIBRARIES
from anomaly_ft.run.tiles import NOTICE, in_tiles, predict_records
from anomaly_ft.run.today import ImageWatch
from anomaly_ft.run.updated_images import say_if_known
from anomaly_ft.system.files import write_json, write_text
from anomaly_ft.tracking.store import EVALUATION_TAG, refuse_new_database
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        root: labelled images, or good ones alone; unset: the data of the run itself.
        by: under which conditions images were taken, see `conditions_of`; empty: nobody asks.
        tile: longer side in pixels of tiles, see `in_tiles`; unset: images are seen whole.
    """

    root: str | None = None
    by: str = ""
    tile: int | None = None


def evaluate(
    folder: Path,
    terminal: Terminal,
    asked: Asked,
    *,
    output: Path | None = None,
    mlflow: bool = False,
) -> tuple[Path, EvaluationSummary]:
    """Measure the detector of a run folder on test images; returns the new folder
    and its summary.

    Args:
        folder: what `train` left.
        terminal: for progress.
        asked: on which images, and how.
        output: where the new folder `<run>-evaluation-001` goes; unset: beside the run.
        mlflow: whether MLflow gets it too, as a run below the one that is measured.

    Raises:
        RunError: a folder that is not a finished run, or, with `mlflow`, one that MLflow does not know; a run
            that cannot predict in tiles, where that is asked for.
        DataError: no labelled images, or conditions that are not there.
    """
    root, by = asked.root, asked.by
    recipe, run = open_run(folder)
    run = in_tiles(run, asked.tile)
    measured = _tracked_run(folder) if mlflow else None
    if mlflow:
        refuse_new_database(recipe.tracking.uri)
    source = root or recipe.data.root
    reading, records = _own_test(recipe) if root is None else _labelled(root)
    conditions = conditions_of(reading, records, by, _manifest(recipe, root)) if by and records else {}
    images = _load(source, records, recipe, run.decoder, terminal)
    refuse_unread(conditions, images.records)
    outputs = _predict(run, images)
    assessment = assess(images.records, outputs, run.point, run.decoder, run.detector.map_threshold())
    found: dict[str, Any] = {"data": _describe(source, reading.layout, images), "tile": asked.tile}
    known = [] if root is None else say_if_known(folder, recipe, images.records)
    found |= _whole(run, images, assessment, known)
    if by:
        rows, notices = _by_condition(run, assessment, conditions, own=root is None)
        found |= {"by": by, "conditions": rows, "notices": [*found["notices"], *notices]}
    summary = EvaluationSummary.model_validate({**_summary(recipe, run, assessment), **found})
    table = prediction_table(assessment.records, outputs.scores, run.score, run.point)
    if by:
        table.insert(3, "condition", [conditions[record.name] for record in assessment.records])
    partial = start_folder(output or folder.resolve().parent, f"{run.name}-evaluation")
    shown = ReportData(recipe.to_yaml(), assessment, run.point.threshold, np.empty(0), run.detector.labels)
    try:
        _write(partial, summary, shown, table)
        if by:
            condition_table(rows).to_csv(partial / "conditions.csv", index=False)
        finished = finish_folder(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    terminal.say(f"measured {len(images)} images of {source}; written to {finished.name}")
    if measured:
        _log(finished, summary, recipe, folder, measured)
    return finished, summary


def _write(partial: Path, summary: EvaluationSummary, shown: ReportData, table: DataFrame) -> None:
    """Write the files that every evaluation has."""
    write_text(partial / "recipe.yaml", shown.recipe)
    write_json(partial / "summary.json", summary.plain())
    table.to_csv(partial / "predictions.csv", index=False)
    write_report(partial / "report.html", summary.plain(), shown)


def _predict(run: LoadedRun, images: Images) -> Predictions:
    """Predict images in tiles, where the run is to, else whole."""
    return (
        predict_records(run, images.records) if run.tile else predict(run.detector, images.pixels, run.compute)
    )


def _tracked_run(folder: Path) -> str:
    """Look up the id of a finished run in MLflow.

    Raises:
        RunError: it has none.
    """
    run_id = open_summary(folder).mlflow_run_id
    if run_id is None:
        raise RunError(f"{folder} is no run in MLflow; anomaly-ft sync {folder} makes it one")
    return run_id


def _log(finished: Path, summary: EvaluationSummary, recipe: Recipe, folder: Path, measured: str) -> None:
    """Log a finished evaluation as a run in MLflow, below the run that was measured."""
    run, output = TrackedRun(recipe.tracking.experiment, finished.name), folder.resolve().parent
    with make_tracker(run, enabled=True, uri=recipe.tracking.uri, output=output) as tracker:
        tracker.tags(
            {
                "mlflow.parentRunId": measured,
                EVALUATION_TAG: measured,
                "dataset": Path(summary.data.root).name,
                "run_folder": str(finished.resolve()),
            }
        )
        tracker.params({"data.root": summary.data.root, "run": summary.run})
        tracker.metrics({f"test/{name}": value for name, value in (summary.test or {}).items()})
        for metrics in condition_metrics(summary.plain()["conditions"]):
            tracker.metrics(metrics)
        tracker.artifacts(finished)


def _own_test(recipe: Recipe) -> tuple[Reading, list[Record]]:
    """Read the run's own data, and which of it are test images."""
    reading = records_of(recipe)
    return reading, [record for record in reading.records if record.split == "test"]


def _labelled(root: str) -> tuple[Reading, list[Record]]:
    """Read other data, and everything in it that was not set aside for training; of a folder of good images
    alone everything."""
    reading = read_root(root)
    if reading.layout == "plain":
        return reading, [replace(record, split="test") for record in reading.records]
    return reading, [record for record in reading.records if record.split != "train"]


def _manifest(recipe: Recipe, root: str | None) -> str:
    """The table that lists the images, where it is named."""
    if root is None and recipe.data.manifest:
        return recipe.data.manifest
    named = root or recipe.data.root
    return named if Path(named).expanduser().is_file() else ""


def _whole(run: LoadedRun, images: Images, assessment: Assessment, known: list[str]) -> dict[str, Any]:
    """Whether the images as a whole are as they were, and what is to be said of that; `known` comes last."""
    good = [i for i, record in enumerate(images.records) if not record.anomalous]
    watch = ImageWatch(run.folder)
    if run.tile is None:  # else the encoder sees another scale than these show
        watch.look_at_all(view(images.pixels, good) if good else images.pixels)
    rates = observed(run.point.threshold, assessment.scores[good])
    difference = watch.difference
    notices = [say_false_alarms(rates, run.point)] if rates else []
    if rates and (many := say_far_too_many(rates.rejected, rates.images, run.point, known_good=True)):
        notices.append(many)
    notices += [NOTICE] if run.tile else []
    notices += [*watch.says("good images" if good else "images"), *known]
    if difference is None:
        return {"appearance": None, "notices": notices}
    plain = {"images": difference.images, "limit": difference.limit, "spreads": dict(difference.spreads)}
    return {"appearance": {**plain, "differs": difference.beyond}, "notices": notices}


def _by_condition(
    run: LoadedRun, assessment: Assessment, conditions: Mapping[str, str], *, own: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of both detectors for each condition, and why there are none of the frozen one."""
    frozen = frozen_predictions(run.folder, assessment.records, own)
    judged = Judged(assessment.scores, assessment.scores > run.point.threshold)
    names = [conditions[record.name] for record in assessment.records]
    if isinstance(frozen, str):
        return by_condition(assessment.records, names, judged), [frozen]
    return by_condition(assessment.records, names, judged, frozen), []


def _load(root: str, records: Sequence[Record], recipe: Recipe, decoder: Decoder, terminal: Terminal) -> Images:
    if not records:
        raise DataError(
            f"{root}: there are no labelled test images to measure on; put good ones into a folder good and "
            "others into folders beside it, or use predict, which needs no labels"
        )
    return read_images(records, recipe, decoder, terminal)


def _summary(recipe: Recipe, run: LoadedRun, assessment: Assessment) -> dict[str, Any]:
    normal = np.array([not record.anomalous for record in assessment.records])
    distances = assessment.outputs.distances[normal]
    points = chi_square(run.detector.distance_mean, run.point.target_fpr, distances)
    return {
        "name": recipe.name,
        "run": run.name,
        "folder_name": run.name,
        "seed": recipe.seed,
        "encoder": recipe.encoder.name,
        "score": run.score,
        **assessment.summary(),
        "thresholds": threshold_numbers(run.point),
        "chi_square": [asdict(point) for point in points],
        "versions": {"anomaly_ft": __version__} | {name: version(name) for name in LIBRARIES},
    }


def _describe(root: str, layout: str, images: Images) -> Mapping[str, Any]:
    anomalous = sum(record.anomalous for record in images.records)
    return {
        "root": root,
        "layout": layout,
        "test_normal": len(images) - anomalous,
        "test_anomalous": anomalous,
        "skipped": [{"path": str(record.path), "why": why} for record, why in images.skipped],
    }
