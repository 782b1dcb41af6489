"""What a person reads of a run in MLflow before opening anything: notes, and the columns shown first."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_ft.store import VIEW_TAG
from anomaly_ft.terminal import story

COLUMNS = {  # of the table, with their width in pixels
    "tags.`verdict`": 230,
    "metrics.`gain/image_auroc`": 130,
    "metrics.`frozen/image_auroc`": 135,
    "metrics.`test/image_auroc`": 130,
    "metrics.`gain/vicinal_auroc`": 140,
    "params.`optimizer.lr`": 100,
    "attributes.`Dataset`": 200,
    "params.`encoder.name`": 160,
}
# the charts of the view: by section, the type of each chart and its metric
CHARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "Did it forget? Step 0 is the pretrained encoder": (
        ("LINE", "val/vicinal_auroc"),
        ("LINE", "train/loss"),
    ),
    "What was gained on test images": (
        ("BAR", "gain/image_auroc"),
        ("BAR", "frozen/image_auroc"),
        ("BAR", "test/image_auroc"),
    ),
}
BAR: dict[str, Any] = {"runsCountToCompare": 20}
LINE: dict[str, Any] = BAR | {
    "lineSmoothness": 0,
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "xAxisScaleType": "linear",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
}
EXPERIMENT_NOTE = """Encoders fine-tuned by anomaly_ft on images of good parts.

- **verdict**: whether the encoder forgot, and which epoch was kept; 0 is the pretrained encoder.
- **val/vicinal_auroc**, the watched curve: held-out normal images against pseudo-anomalies. Rising: the encoder
  learns these parts. Falling: it forgets. Step 0 is the pretrained encoder.
- **gain/image_auroc**: fine-tuned less frozen on real test images; they chose nothing.
- **maps/…**: the same test images at every epoch, with what the detector sees.
"""


def experiment_tags() -> dict[str, str]:
    """Of a new experiment: a note, and the view that `anomaly-ft ui` opens."""
    sections = [
        {"uuid": f"section-{i}", "name": name, "display": True, "deleted": False, "isReordered": True}
        for i, name in enumerate(CHARTS)
    ]
    charts = [
        {
            "uuid": f"chart-{i}-{metric}",
            "metricSectionId": f"section-{i}",
            "type": kind,
            "metricKey": metric,
            "displayName": metric,
            "deleted": False,
            "isGenerated": False,
            **(LINE if kind == "LINE" else BAR),
        }
        for i, those in enumerate(CHARTS.values())
        for kind, metric in those
    ]
    view = {
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": COLUMNS,
        "compareRunSections": sections,
        "compareRunCharts": charts,
        "isAccordionReordered": True,
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": EXPERIMENT_NOTE,
        VIEW_TAG: json.dumps(view),
    }


def verdict(summary: Mapping[str, Any]) -> str:
    """What became of the encoder in a few words, for a column of a table.

    >>> verdict({"best_epoch": 2, "epochs": 5, "stop_reason": "forgetting"})
    'forgot after epoch 2 of 5, kept 2'
    """
    best, last = summary["best_epoch"], summary["epochs"]
    if last == 0:
        return "pretrained, not trained"
    if summary["stop_reason"] == "diverged":
        return f"diverged in epoch {last}, kept {best or 'pretrained'}"
    if summary["stop_reason"] == "forgetting":
        return f"forgot after epoch {best} of {last}, kept {best or 'pretrained'}"
    return f"kept epoch {best} of {last}" if best else "no gain, kept pretrained"


def run_note(summary: Mapping[str, Any], folder: Path) -> str:
    """Markdown: what happened, frozen against fine-tuned, the threshold, and how to use the encoder."""
    return "\n\n".join(
        [
            story(summary),
            _result_table(summary),
            _threshold(summary),
            f"Run folder: `{folder}` with `report.html`; the same files are among the artifacts.",
            "The encoder is a timm model:",
            f'```python\nimport timm\n\nmodel = timm.create_model(\n    "local-dir:{folder / "encoder"}", '
            "pretrained=True, features_only=True\n)\n```",
            f"The detector scores images:\n\n```\nanomaly-ft predict {folder} new/\n```",
        ]
    )


def _result_table(summary: Mapping[str, Any]) -> str:
    frozen, tuned = summary["frozen_test"], summary["test"]
    if frozen is None or tuned is None:
        return "There was no test split, so there is no test number."
    score, data = summary["score"], summary["data"]
    rows = [
        f"| {data['test_normal']} normal, {data['test_anomalous']} anomalous test images "
        "| frozen | fine-tuned | gain |",
        "|---|---|---|---|",
    ]
    labels = {
        "image_auroc": f"image AUROC ({score} score)",
        "image_ap": "average precision",
        "image_tpr_at_1pct_fpr": "found at 1 % false positives",
        "pixel_auroc": "pixel AUROC",
    }
    for key, label in labels.items():
        before, after = frozen.get(key), tuned.get(key)
        if before is None or after is None:
            continue
        ends = summary["gain_intervals"].get(key)
        between = f" (95 %: {ends[0]:+.4f} to {ends[1]:+.4f})" if ends else ""
        rows.append(f"| {label} | {before:.4f} | {after:.4f} | {after - before:+.4f}{between} |")
    return "\n".join(rows)


def _threshold(summary: Mapping[str, Any]) -> str:
    point, test = summary["thresholds"], summary["test"] or {}
    said = (
        f"Threshold {point['threshold']:.4g}: at most {point['promised_fpr']:.2%} of normal images are to be "
        f"rejected, from {point['images']} held-out ones."
    )
    false, true = test.get("false_positive_rate"), test.get("true_positive_rate")
    if false is not None and true is not None:
        said += f" On the test split: {false:.2%} of normal, {true:.2%} of anomalous images."
    return said
