"""What if the light changes? Scores of the same images, varied more and more, one change at a time, and
several at once as in training.

Looks at a few images of each kind alone: the question is which changes hurt, not a third digit.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from anomaly_ft.data.lazy_images import view
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.variation import Variation
from anomaly_ft.evaluation.plots import ANOMALOUS_COLOUR, FROZEN_COLOUR
from anomaly_ft.metrics import Floats, image_auroc

MOST = 16  # images of each kind that are looked at
FACTORS = (1, 2)  # of the strengths
NUMBER = 500  # of the varied copy, which no image of the statistics is
SEVERAL, UNCHANGED = "one to three at once", "unchanged"  # changes of an image, drawn as in training
Row = Mapping[str, Any]


def few_of_each(images: Images) -> Images:
    """Choose at most `MOST` good and as many anomalous images, evenly."""
    anomalous = np.array([record.anomalous for record in images.records], bool)
    chosen: list[int] = []
    for places in (np.flatnonzero(~anomalous), np.flatnonzero(anomalous)):
        which = np.linspace(0, len(places) - 1, min(MOST, len(places))).round().astype(int)
        chosen += [int(i) for i in places[which]]
    return Images(view(images.pixels, chosen), tuple(images.records[i] for i in chosen))


def what_if(
    score: Callable[[Pixels], Floats],
    threshold: float,
    images: Images,
    stronger: Callable[[float], Mapping[str, float]],
    *,
    seed: int,
) -> list[Row]:
    """Measure a detector on images that vary more and more.

    Args:
        score: of images, `(n,)`, higher = more anomalous.
        threshold: above it an image is called anomalous.
        images: labelled; good ones alone give no AUROC.
        stronger: the strengths of all changes, times a factor.
        seed: of the variation.

    Returns:
        Rows with `change`, `factor`, `strength` (None for several at once), `auroc` (None without anomalous
        images) and `rejected`, the share of good images above the threshold.
    """
    anomalous = np.array([record.anomalous for record in images.records], bool)

    def row(change: str, factor: int, strengths: Mapping[str, float]) -> Row:
        scores = score(Variation(strengths, seed).copy(images, NUMBER).pixels if strengths else images.pixels)
        return {
            "change": change,
            "factor": factor,
            "strength": strengths.get(change),
            "auroc": image_auroc(anomalous, scores) if 0 < anomalous.sum() < len(anomalous) else None,
            "rejected": float((scores[~anomalous] > threshold).mean()) if not anomalous.all() else None,
        }

    rows = [row(UNCHANGED, 0, {})]
    for factor in FACTORS:
        strengths = stronger(factor)
        rows += [row(change, factor, {change: strengths[change]}) for change in strengths]
        rows.append(row(SEVERAL, factor, strengths))
    return rows


def beside(frozen: Sequence[Row], tuned: Sequence[Row]) -> list[Row]:
    """Join the rows of both detectors on the same images; the frozen one's numbers are called `frozen_…`, and
    are None where it has no rows."""
    frozen = frozen or [{"auroc": None, "rejected": None}] * len(tuned)
    return [
        {**after, "frozen_auroc": before["auroc"], "frozen_rejected": before["rejected"]}
        for before, after in zip(frozen, tuned, strict=True)
    ]


def what_if_figure(rows: Sequence[Row]) -> Figure:
    """Plot AUROC and share of good images rejected over growing strength: several changes at once thick, each
    alone thin; grey: frozen, in colour: fine-tuned, or the only detector there is."""
    figure = Figure(figsize=(8.4, 3.4), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2)
    titles = {"auroc": "image AUROC", "rejected": "share of good images rejected"}
    start = next(row for row in rows if row["change"] == UNCHANGED)
    alone = start["frozen_auroc"] is None and start["frozen_rejected"] is None
    detectors = (
        ("frozen", "frozen_", FROZEN_COLOUR),
        ("detector" if alone else "fine-tuned", "", ANOMALOUS_COLOUR),
    )
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for detector, prefix, colour in detectors:
            for change in dict.fromkeys(row["change"] for row in rows if row is not start):
                line = [start, *(row for row in rows if row["change"] == change)]
                if line[0][prefix + name] is None:
                    continue
                thick = change == SEVERAL
                axes.plot(
                    [row["factor"] for row in line],
                    [row[prefix + name] for row in line],
                    color=colour,
                    linewidth=2.4 if thick else 0.7,
                    alpha=1 if thick else 0.5,
                    label=f"{detector}, {SEVERAL}" if thick else None,
                )
        axes.set(xlabel="times the strength of the recipe", title=title, xticks=[0, *FACTORS])
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels[1].get_legend_handles_labels()
    panels[1].legend(handles, labels, fontsize=8, frameon=False)
    return figure
