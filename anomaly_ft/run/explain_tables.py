"""Tables of an explained run: means over images by encoder and baseline, and what fine-tuning changes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anomaly_ft.analysis.relevance import mean_difference
from anomaly_ft.run.study import Row

# of each image, and whether more of it means that the detector looks more at the defect
COMPARED = {
    "inside": "share of relevance inside the mask",
    "points": "most relevant block touches the mask",
    "frame": "relevance on the border frame over its share",
    "deletion": "area under the score while relevant blocks are deleted",
}


def summary_rows(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Average each encoder and baseline, a row each; None where nothing could be measured."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["encoder"], row["baseline"]), []).append(row)
    return [
        {
            "encoder": encoder,
            "baseline": baseline,
            "images": sum(row["anomalous"] for row in group),
            "masks": sum(row["inside"] is not None for row in group),
            "inside": _mean(group, "inside", True),
            "area": _mean(group, "area", True),
            "inside_over_area": _ratio(_mean(group, "inside", True), _mean(group, "area", True)),
            "points": _mean(group, "points", True),
            "points_chance": _mean(group, "touched", True),
            "frame_defective": _mean(group, "frame", True),
            "frame_good": _mean(group, "frame", False),
            "deletion": _mean(group, "deletion", True),
            "deletion_chance": _mean(group, "deletion_chance", True),
            "completeness_error": _median(group, "error"),
            "same_baselines": _mean(group, "same_baselines", True),
            "same_random": _mean(group, "same_random", True),
        }
        for (encoder, baseline), group in groups.items()
    ]


def differences(rows: Sequence[Mapping[str, Any]], before: str, after: str) -> list[Row]:
    """Average the change from one encoder to the other over the same defective images, with its standard
    error; none where one of the two was not measured."""
    by_image = {(row["encoder"], row["baseline"], row["image"]): row for row in rows if row["anomalous"]}
    baselines = list(dict.fromkeys(row["baseline"] for row in rows))
    table: list[Row] = []
    for baseline in baselines:
        images = [image for encoder, other, image in by_image if (encoder, other) == (after, baseline)]
        for name, meaning in COMPARED.items():
            pairs = [
                (by_image[before, baseline, image][name], by_image[after, baseline, image][name])
                for image in images
            ]
            known = [(float(a), float(b)) for a, b in pairs if a is not None and b is not None]
            if known:
                change, error = mean_difference(*zip(*known, strict=True))
                table.append(
                    {
                        "baseline": baseline,
                        "what": meaning,
                        "images": len(known),
                        "change": change,
                        "sem": error if np.isfinite(error) else None,
                    }
                )
    return table


SHOWN = {
    "relevance inside the mask": ("inside", ".3f"),
    "share of the image that the mask covers": ("area", ".3f"),
    "most relevant block touches the mask": ("points", ".2f"),
    "the same at random": ("points_chance", ".2f"),
    "frame over its share, defective": ("frame_defective", ".2f"),
    "frame over its share, good": ("frame_good", ".2f"),
    "area under deletion": ("deletion", ".3f"),
    "the same at random ": ("deletion_chance", ".3f"),
    "completeness error": ("completeness_error", ".1%"),
    "rank correlation with random weights": ("same_random", ".2f"),
}


def shown_rows(table: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Turn the table for the terminal: a row for each number, a column for each encoder and baseline."""

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        {"": label.strip()} | {f"{row['encoder']}: {row['baseline']}": text(row[name], form) for row in table}
        for label, (name, form) in SHOWN.items()
    ]


def shown_changes(changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what fine-tuning changes, a line each; `more` and `less` only beyond two standard errors."""
    lines = []
    for row in changes:
        sure = row["sem"] is not None and abs(row["change"]) > 2 * row["sem"]
        word = ("more" if row["change"] > 0 else "less") if sure else "no clear change"
        error = f" ± {row['sem']:.3f}" if row["sem"] is not None else ""
        lines.append(f"fine-tuning, {row['baseline']}: {row['what']} {row['change']:+.3f}{error}: {word}")
    return lines


def _values(group: Sequence[Mapping[str, Any]], name: str, anomalous: bool) -> list[float]:
    return [float(row[name]) for row in group if row["anomalous"] == anomalous and row[name] is not None]


def _mean(group: Sequence[Mapping[str, Any]], name: str, anomalous: bool) -> float | None:
    values = _values(group, name, anomalous)
    return float(np.mean(values)) if values else None


def _median(group: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(np.median([float(row[name]) for row in group]))


def _ratio(inside: float | None, area: float | None) -> float | None:
    return None if inside is None or not area else inside / area
