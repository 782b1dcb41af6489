"""Sum up a run: counts, curve, stop decision, seconds, versions."""

import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from anomaly_ft import __version__
from anomaly_ft.data.records import PARTS
from anomaly_ft.finetune.records import EpochRecord, PseudoSet
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.summary import LIBRARIES


def summarise(
    setup: Setup,
    sets: Mapping[str, PseudoSet],
    records: Sequence[EpochRecord],
    names: tuple[str, str | None],
) -> dict[str, Any]:
    """Sum up the part of a `RunSummary` that does not need the test split, as plain values; `names` are the
    score that decides and the run in MLflow."""
    decides, run_id = names
    data, recipe, verdict = setup.data, setup.recipe, records[-1].verdict
    used = {i for part in PARTS for i in getattr(data.split, part)}
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
        "score": decides,
        "data": {
            "root": recipe.data.root,
            "layout": data.layout,
            "train": len(data.split.train),
            "val": len(data.split.val),
            "calibration": len(data.split.calibration),
            "test_normal": sum(not record.anomalous for record in data.test.records),
            "test_anomalous": sum(record.anomalous for record in data.test.records),
            "skipped": [{"path": str(record.path), "why": why} for record, why in data.skipped],
        },
        "left_out": [record.name for i, record in enumerate(data.undivided.records) if i not in used],
        "baseline": {
            "vicinal_auroc": records[0].validation.auroc if records[0].validation else None,
            "severities": {name: pseudo.severity for name, pseudo in sets.items()},
            "informative": [name for name, pseudo in sets.items() if pseudo.informative],
        },
        "vicinal_auroc": [record.validation.auroc if record.validation else None for record in records],
        "best_epoch": verdict.best_epoch,
        "stop_reason": verdict.reason,
        "stop_why": verdict.why,
        "epochs": len(records) - 1,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "images_per_second": {
            "train": round(sum(record.images for record in records) / trained, 1) if trained else None
        },
        "versions": {"anomaly_ft": __version__} | {name: version(name) for name in LIBRARIES},
        "git_commit": git_commit(),
        "mlflow_run_id": run_id,
        "teacher": setup.teacher.plain() if setup.teacher else None,
    }


def git_commit() -> str:
    """Read the commit of the working directory, where there is one."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "none"
    return answer.stdout.strip()
