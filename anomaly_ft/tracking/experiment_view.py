"""The view of an experiment in MLflow: notes, columns and charts shown before anything is opened."""

import json
from typing import Any

from anomaly_ft.tracking.store import VIEW_TAG

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
- **val/vicinal_auroc**, the validation curve: held-out normal images against pseudo-anomalies. Rising: the
  encoder learns these parts. Falling: it forgets. Step 0 is the pretrained encoder.
- **gain/image_auroc**: fine-tuned less frozen on real test images; they chose nothing.
- **maps/…**: the same test images at every epoch, with what the detector sees.
"""


def experiment_tags() -> dict[str, str]:
    """Make the tags of a new experiment: a note, and the view that `anomaly-ft ui` opens."""
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
