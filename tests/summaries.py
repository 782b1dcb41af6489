"""A run summary in plain values, as `summary.json` holds it, for tests that change a part of it."""

from typing import Any

PLAIN: dict[str, Any] = {
    "name": "bottle",
    "seed": 0,
    "encoder": "test_efficientnet",
    "score": "fused",
    "folder_name": "bottle-001",
    "thresholds": {"threshold": 4.5, "target_fpr": 0.01, "guaranteed_fpr": 0.03125, "images": 31,
                   "confidence": None, "found_share": None, "decided_by": ""},
    "chi_square": [],
    "versions": {"anomaly_ft": "0"},
    "data": {
        "root": "bottle", "layout": "mvtec", "train": 100, "val": 20, "calibration": 31,
        "test_normal": 20, "test_anomalous": 63, "skipped": [],
    },
    "baseline": {"vicinal_auroc": 0.8, "severities": {"scar": 0.5}, "informative": ["scar"]},
    "vicinal_auroc": [0.8, 0.85],
    "best_epoch": 1,
    "stop_reason": "max_epochs",
    "epochs": 1,
    "test_by_statistics": {"pretrained": None, "refit": None},
    "statistics": "refit",
    "level_weights": [0.5, 0.5],
    "mixed": {},
    "seconds": {"train": 1.0},
    "images_per_second": {"train": 100.0},
    "git_commit": "none",
    "mlflow_run_id": None,
}  # fmt: skip
