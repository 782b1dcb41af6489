"""What a run writes down: metrics of an epoch, the lines of the history, the summary, what MLflow is told."""

import math
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from anomaly_ft import __version__
from anomaly_ft.finetune.records import EpochRecord, PseudoSet
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.run.setup import Setup

LIBRARIES = ("torch", "timm", "albumentations", "numpy", "scikit-learn", "mlflow", "lightning-fabric")


def epoch_metrics(record: EpochRecord) -> dict[str, float | None]:
    """The metrics of one epoch under the names of `metric_names`."""
    loss = record.train_loss if math.isfinite(record.train_loss or 0) else None  # of a diverged epoch
    metrics: dict[str, float | None] = {"train/loss": loss}
    if record.validation:
        metrics["val/vicinal_auroc"] = record.validation.auroc
        metrics["val/normal_score_mean"] = record.validation.normal_score_mean
        for name, auroc in record.validation.by_augmentation.items():
            metrics[f"val/vicinal_auroc.{name}"] = auroc
        metrics |= record.validation.watched
    if record.train_seconds:
        metrics["train/images_per_second"] = record.images / record.train_seconds
    return metrics


def history_line(record: EpochRecord) -> dict[str, Any]:
    """One line of `history.jsonl`: what the epoch gave. Durations are elsewhere: equal runs, equal lines."""
    metrics = epoch_metrics(record)
    metrics.pop("train/images_per_second", None)
    if record.train_loss is not None and not math.isfinite(record.train_loss):
        metrics["train/loss"] = None  # the stop reason says so; JSON has no such number
    verdict = record.verdict
    return {"epoch": record.epoch, **metrics, "best_epoch": verdict.best_epoch, "stop_reason": verdict.reason}


def summarise(
    setup: Setup, sets: Mapping[str, PseudoSet], records: Sequence[EpochRecord], run_id: str | None
) -> dict[str, Any]:
    """The part of a `RunSummary` that does not need the test split, as plain values."""
    data, recipe, verdict = setup.data, setup.recipe, records[-1].verdict
    trained = sum(record.train_seconds for record in records)
    seconds = {
        **setup.seconds,
        "validate_pretrained": records[0].validation_seconds,
        "train": trained,
        "validate": sum(record.validation_seconds for record in records[1:]),
    }
    return {
        "name": recipe.name,
        "seed": recipe.seed,
        "encoder": recipe.encoder.name,
        "score": recipe.gaussian.score,
        "data": {
            "root": recipe.data.root,
            "layout": data.layout,
            "fit": len(data.split.fit),
            "watch": len(data.split.watch),
            "calibrate": len(data.split.calibrate),
            "test_normal": sum(not record.anomalous for record in data.test.records),
            "test_anomalous": sum(record.anomalous for record in data.test.records),
            "skipped": [{"path": str(record.path), "why": why} for record, why in data.skipped],
        },
        "baseline": {
            "vicinal_auroc": records[0].validation.auroc if records[0].validation else None,
            "severities": {name: pseudo.severity for name, pseudo in sets.items()},
            "informative": [name for name, pseudo in sets.items() if pseudo.informative],
        },
        "vicinal_auroc": [record.validation.auroc if record.validation else None for record in records],
        "best_epoch": verdict.best_epoch,
        "stop_reason": verdict.reason,
        "epochs": len(records) - 1,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {
            "train": round(sum(record.images for record in records) / trained, 1) if trained else None
        },
        "versions": {"anomaly_ft": __version__} | {name: version(name) for name in LIBRARIES},
        "git_commit": git_commit(),
        "mlflow_run_id": run_id,
    }


def git_commit() -> str:
    """The commit of the working directory, where there is one."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return found.stdout.strip()


DIGITS = 6  # after the point: a column of MLflow's table has room for no more


def final_metrics(summary: RunSummary) -> dict[str, float | None]:
    """Name what the restored encoder is worth as MLflow does; None where it was not measured."""
    curve, best = summary.vicinal_auroc, summary.best_epoch
    frozen, tuned = summary.frozen_test or {}, summary.test or {}
    metrics: dict[str, float | None] = {
        "best/epoch": best,
        "best/vicinal_auroc": curve[best],
        "gain/vicinal_auroc": difference(curve[best], curve[0]),
        **{f"frozen/{name}": value for name, value in frozen.items()},
        **{f"test/{name}": value for name, value in tuned.items()},
        **{f"gain/{name}": difference(tuned.get(name), value) for name, value in frozen.items()},
        "threshold/score": summary.thresholds.threshold,
        "threshold/guaranteed_fpr": summary.thresholds.guaranteed_fpr,
    }
    return {name: None if value is None else round(value, DIGITS) for name, value in metrics.items()}


def difference(after: float | None, before: float | None) -> float | None:
    """Subtract; None where one of them was not measured."""
    return None if after is None or before is None else after - before
