"""Metrics of a run as they are logged: by epoch, in the history, and of the final encoder."""

import math
from typing import Any

from anomaly_ft.finetune.records import EpochRecord
from anomaly_ft.run.run_summary import RunSummary

LIBRARIES = ("torch", "timm", "albumentations", "numpy", "scikit-learn", "mlflow", "lightning-fabric")


def epoch_metrics(record: EpochRecord) -> dict[str, float | None]:
    """Give the metrics of one epoch under the names of `metric_names`."""
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
    """Give one line of `history.jsonl`. Durations are elsewhere, so that equal runs have equal lines."""
    metrics = epoch_metrics(record)
    metrics.pop("train/images_per_second", None)
    if record.train_loss is not None and not math.isfinite(record.train_loss):
        metrics["train/loss"] = None  # the stop reason says so; JSON has no such number
    verdict = record.verdict
    return {"epoch": record.epoch, **metrics, "best_epoch": verdict.best_epoch, "stop_reason": verdict.reason}


DIGITS = 6  # after the point: a column of MLflow's table has room for no more


def final_metrics(summary: RunSummary) -> dict[str, float | None]:
    """Name what the restored encoder is worth as MLflow does; None where it was not measured."""
    kept = summary.kept_vicinal_auroc
    frozen, tuned = summary.frozen_test or {}, summary.test or {}
    metrics: dict[str, float | None] = {
        "best/epoch": summary.best_epoch,
        "best/vicinal_auroc": kept,
        "gain/vicinal_auroc": difference(kept, summary.vicinal_auroc[0]),
        **{f"frozen/{name}": value for name, value in frozen.items()},
        **{f"test/{name}": value for name, value in tuned.items()},
        **{f"gain/{name}": difference(tuned.get(name), value) for name, value in frozen.items()},
        "threshold/score": summary.thresholds.threshold,
        "threshold/guaranteed_fpr": summary.thresholds.guaranteed_fpr,
        "threshold/varied_fpr": summary.thresholds.varied_fpr,
        **_varied_metrics(summary),
        **_position_metrics(summary),
        **_known_metrics(summary),
    }
    return {name: None if value is None else round(value, DIGITS) for name, value in metrics.items()}


def _varied_metrics(summary: RunSummary) -> dict[str, float | None]:
    """Measure both detectors on images that vary as in training, at the strength of the recipe."""
    row = summary.variation.several() if summary.variation else None
    if row is None:
        return {}
    return {
        "varied/image_auroc": row.auroc,
        "varied/false_positive_rate": row.rejected,
        "frozen_varied/image_auroc": row.frozen_auroc,
        "frozen_varied/false_positive_rate": row.frozen_rejected,
    }


def _position_metrics(summary: RunSummary) -> dict[str, float | None]:
    """Give what fixed and free positions were worth before training; nothing where nobody compared them."""
    position = summary.position
    if position is None or position.fixed_vicinal_auroc is None:
        return {}
    return {
        "fixed_position/vicinal_auroc": position.fixed_vicinal_auroc,
        "free_position/vicinal_auroc": position.free_vicinal_auroc,
    }


def _known_metrics(summary: RunSummary) -> dict[str, float | None]:
    """Give what both detectors are worth on kinds of known defects and on others; nothing where there were
    none."""
    known, metrics = summary.known_defects, dict[str, float | None]()
    for name, group in (("seen", known.seen), ("unseen", known.unseen)) if known else ():
        if group:
            metrics[f"known_defects/{name}_image_auroc"] = group.image_auroc
            metrics[f"known_defects/frozen_{name}_image_auroc"] = group.frozen_image_auroc
    return metrics


def difference(after: float | None, before: float | None) -> float | None:
    """Subtract; None where one of them was not measured."""
    if after is None or before is None:
        return None
    return after - before
