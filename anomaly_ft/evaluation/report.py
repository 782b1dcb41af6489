"""`report.html`: one file that opens offline and is read by people who were not there.

Numbers come from the summary as it is written to disk, so that page and file cannot disagree;
pictures are read again from the images, scaled down.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from anomaly_ft.data.images import Decoder, read_image
from anomaly_ft.data.masks import read_mask
from anomaly_ft.evaluation.assess import Assessment
from anomaly_ft.evaluation.chance import Chance
from anomaly_ft.evaluation.metric_names import PHASES, on_test
from anomaly_ft.evaluation.pictures import (
    REGION,
    TRUTH,
    ColourScale,
    outlined,
    overlay,
    picture_uri,
    scale_of,
    scale_picture,
    shrunk,
)
from anomaly_ft.evaluation.plots import (
    StopDecision,
    Validation,
    figure_uri,
    forgetting_figure,
    roc_pr_figure,
    score_figure,
)
from anomaly_ft.evaluation.regions import find_regions, place
from anomaly_ft.evaluation.what_if import what_if_figure
from anomaly_ft.metrics import Floats, curve
from anomaly_ft.model.maps import upsample
from anomaly_ft.model.outputs import Labels

SIDE = 224  # pixels of a picture's longer side
SHOWN = 6  # pictures in each gallery
HELD_OUT = "held-out normal"
MISSING = "-"
EPSILON = 0.1  # false alarms a good image that outlined regions may have


@dataclass(frozen=True)
class ReportData:
    """What a report shows beyond the numbers of the summary.

    Attributes:
        recipe: the resolved recipe, YAML.
        assessment: the detector on labelled images, where there are any.
        threshold: the score above which an image is called anomalous.
        held_out: scores of the normal images that set it, `(n,)`; empty where they are not at hand.
        labels: explain the detector's scores and maps.
        frozen: scores of the pretrained encoder's detector on the same labelled images.
        validations: of each epoch, the pretrained encoder's first; empty where nothing was trained here.
        verdict: why training ended.
        what_if: rows of `evaluation.what_if`, frozen beside fine-tuned; empty where nothing was trained here.
        root: of the training images that the summary calls suspicious; None where it names none.
        decoder: by which these were read.
        missing: held-out good images that are missing for the false positive rate asked for.
        chance: what it does in maps of good images, for regions; None: none are outlined.
        known: what known defects did, in sentences.
    """

    recipe: str
    assessment: Assessment | None
    threshold: float
    held_out: Floats
    labels: Labels
    frozen: Floats | None = None
    validations: Sequence[Validation] = ()
    verdict: StopDecision | None = None
    what_if: Sequence[Mapping[str, Any]] = ()
    root: Path | None = None
    decoder: Decoder | None = None
    missing: int = 0
    chance: Chance | None = None
    known: Sequence[str] = ()


def write_report(path: Path, summary: Mapping[str, Any], data: ReportData) -> None:
    """Write the page to `path`; pictures of images that cannot be read any more are left out.

    Args:
        path: of the file.
        summary: plain values, as `summary.json` holds them.
        data: what else is shown.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "interval": interval}
    page = environment.get_template("report.html.j2").render(
        s=summary,
        labels=_labels(summary["test"] or {}),
        explained=data.labels,
        phases=PHASES,
        maps=list(data.assessment.outputs.maps) if data.assessment else [],
        recipe=data.recipe,
        figures=_figures(data),
        examples=_examples(summary.get("shortcuts"), data.assessment),
        missing=data.missing,
        decider=_decider(summary["thresholds"], data),
        suspicious=_suspicious(summary.get("suspicious", ()), data),
        galleries=_galleries(data.assessment, data.chance) if data.assessment else None,
        epsilon=EPSILON if data.chance else None,
        known=data.known,
    )
    path.write_text(page, encoding="utf-8")


def _labels(numbers: Mapping[str, float | None]) -> dict[str, str]:
    """Name the metrics that both encoders have, in the order they come."""
    entries = {name: on_test(name) for name in numbers}
    return {name: entry.label for name, entry in entries.items() if not entry.at_threshold}


def number(value: float | None, digits: int = 4) -> str:
    """Format with fixed digits; a dash for what was not measured."""
    return MISSING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    """Format a share in [0, 1] as a percentage; a dash for what was not measured."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def interval(ends: Sequence[float] | None, sign: str = "") -> str:
    """Format both ends of an interval, or nothing."""
    if not ends:
        return ""
    return f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}"


def _figures(data: ReportData) -> dict[str, str]:
    figures: dict[str, str] = {}
    assessment = data.assessment
    kinds = score_kinds(data.held_out, assessment)
    if kinds:
        normal = [kind for kind in kinds if kind in (HELD_OUT, "good")]
        figures["scores"] = figure_uri(score_figure(kinds, data.threshold, normal))
    if len(data.validations) > 1 and data.verdict:
        figures["forgetting"] = figure_uri(forgetting_figure(data.validations, data.verdict))
    if data.what_if:
        figures["what_if"] = figure_uri(what_if_figure(data.what_if))
    if assessment:
        labels = np.array([record.anomalous for record in assessment.records])
        if labels.any() and not labels.all():
            detectors = {} if data.frozen is None else {"frozen": data.frozen}
            detectors["fine-tuned" if detectors else "detector"] = assessment.scores
            curves = {name: curve(labels, scores) for name, scores in detectors.items()}
            above = assessment.scores > assessment.point.threshold
            precision = float(labels[above].mean()) if above.any() else 1.0
            point = (float(above[~labels].mean()), float(above[labels].mean()), precision)
            figures["roc_pr"] = figure_uri(roc_pr_figure(curves, point))
    return figures


def score_kinds(held_out: Floats, assessment: Assessment | None) -> dict[str, Floats]:
    """Group scores by kind of image for the histograms: held-out normals, then `good`, then the defect
    types."""
    kinds: dict[str, Floats] = {HELD_OUT: held_out} if len(held_out) else {}
    if assessment:
        names = np.array([record.kind for record in assessment.records])
        for kind in sorted(set(names.tolist()), key=lambda kind: (kind != "good", kind)):
            kinds[kind] = assessment.scores[names == kind]
    return kinds


def _galleries(assessment: Assessment, chance: Chance | None) -> dict[str, Any]:
    """Choose and draw the images to look at: the extremes, where mistakes and successes show."""
    labels = np.array([record.anomalous for record in assessment.records])
    missed = np.flatnonzero(labels & (assessment.scores <= assessment.point.threshold))
    by_score = np.argsort(assessment.scores)
    by_map = sorted(assessment.localisation.by_image, key=lambda i: -assessment.localisation.by_image[i])
    scales = {name: scale_of(values, ~labels) for name, values in assessment.outputs.maps.items()}
    chosen = {
        "suspicious": [i for i in by_score[::-1] if not labels[i]][:SHOWN],
        "missed": [i for i in by_score if i in set(missed.tolist())][:SHOWN],
        "best": by_map[:SHOWN],
        "worst": by_map[max(SHOWN, len(by_map) - SHOWN) :][::-1],
    }
    drawn: dict[str, Any] = {
        name: [card for i in places if (card := _card(assessment, int(i), scales, chance))]
        for name, places in chosen.items()
    }
    drawn["missed_count"] = len(missed)
    drawn["scales"] = [
        {"name": f"{name} map", "low": scale.low, "high": scale.high} for name, scale in scales.items()
    ]
    drawn["strip"] = picture_uri(scale_picture())
    return drawn


def _examples(audit: Mapping[str, Any] | None, assessment: Assessment | None) -> list[dict[str, str]]:
    """Draw the images of a shortcut audit; they lie below the root of the labelled images."""
    shown: list[dict[str, str]] = []
    if not audit or not assessment:
        return shown
    for example in audit["examples"]:
        path = assessment.records[0].root / example["name"]
        try:
            image = shrunk(np.asarray(read_image(path, assessment.decoder.value_range)), SIDE)
        except Exception:  # the file was there a moment ago; decoders raise nearly anything
            continue
        shown.append({**example, "picture": picture_uri(image)})
    return shown


def _suspicious(listed: Sequence[Mapping[str, Any]], data: ReportData) -> list[dict[str, Any]]:
    """Draw the suspicious training images; one that cannot be read any more has no picture."""
    return [{**row, "picture": _picture(row["name"], data)} for row in listed]


def _decider(thresholds: Mapping[str, Any], data: ReportData) -> str:
    """Draw the calibration image whose score alone is the threshold; nothing where there is no such image."""
    return _picture(thresholds["decided_by"], data) if thresholds.get("decided_by") else ""


def _picture(name: str, data: ReportData) -> str:
    """Draw an image below the root, small; nothing where it cannot be read any more."""
    if data.root and data.decoder:
        with suppress(Exception):  # the file was there a moment ago; decoders raise nearly anything
            image = np.asarray(read_image(data.root / name, data.decoder.value_range))
            return picture_uri(shrunk(image, SIDE))
    return ""


def _card(
    assessment: Assessment, i: int, scales: Mapping[str, ColourScale], chance: Chance | None
) -> dict[str, Any] | None:
    record = assessment.records[i]
    try:
        image = shrunk(np.asarray(read_image(record.path, assessment.decoder.value_range)), SIDE)
    except Exception:  # the file was there a moment ago; decoders raise nearly anything
        return None
    height, width = image.shape[:2]
    pictures = [
        image,
        *(
            overlay(image, upsample(assessment.outputs.maps[name][i], height, width, assessment.decoder), scale)
            for name, scale in scales.items()
        ),
    ]
    for region in find_regions(assessment.outputs.localises[i], chance, EPSILON) if chance else ():
        if placed := place(region, height, width, assessment.decoder):
            pictures[1] = outlined(pictures[1], placed.inside, REGION)
    if i in assessment.localisation.by_image and record.mask:
        mask = shrunk(np.repeat(read_mask(record.mask)[..., None], 3, axis=2).astype(np.uint8) * 255, SIDE)
        if mask.shape == image.shape:
            pictures = [outlined(picture, mask[..., 0] > 127, TRUTH) for picture in pictures]
    return {
        "name": record.name,
        "kind": record.kind,
        "score": float(assessment.scores[i]),
        "above": bool(assessment.scores[i] > assessment.point.threshold),
        "auroc": assessment.localisation.by_image.get(i),
        "pictures": [picture_uri(picture) for picture in pictures],
    }
