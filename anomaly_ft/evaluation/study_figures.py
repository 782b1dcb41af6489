"""Figures of the studies, drawn without a display from the rows that their tables hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.evaluation.pictures import TRUTH, ColourScale, Pixels, outlined, overlay
from anomaly_ft.evaluation.plots import ANOMALOUS_COLOUR, FROZEN_COLOUR
from anomaly_ft.model.maps import Map

Row = Mapping[str, Any]
COLOURS = {"all": "black", "PCA": FROZEN_COLOUR, "NPCA": ANOMALOUS_COLOUR, "random": "#9bbf6a"}
STYLES = ("-", ":", "-.")  # of subspaces of one colour, one after another


def subspace_figure(rows: Sequence[Row], shown: Sequence[str]) -> Figure:
    """Plot AUROC of some subspaces over levels, an axis for each encoder; bars are standard errors.

    Args:
        rows: with encoder, level, subspace, auroc and sem; the sum is the last level.
        shown: names of subspaces.
    """
    encoders = list(dict.fromkeys(row["encoder"] for row in rows))
    levels = list(dict.fromkeys(row["level"] for row in rows))
    figure = Figure(figsize=(1.5 + 4.2 * len(encoders), 3.8), layout="constrained")
    all_axes: Sequence[Axes] = figure.subplots(1, len(encoders), sharey=True, squeeze=False)[0]
    for axes, encoder in zip(all_axes, encoders, strict=True):
        families = [name.split()[0] for name in shown]
        for place, name in enumerate(shown):
            by_level = {r["level"]: r for r in rows if r["encoder"] == encoder and r["subspace"] == name}
            places = [i for i, level in enumerate(levels) if by_level.get(level, {}).get("auroc") is not None]
            there = [by_level[levels[i]] for i in places]
            axes.errorbar(
                places,
                [row["auroc"] for row in there],
                yerr=[row["sem"] or 0 for row in there],
                label=name,
                color=COLOURS.get(families[place], "black"),
                linestyle=STYLES[families[:place].count(families[place]) % len(STYLES)],
                marker="o",
                markersize=3,
                capsize=2,
            )
        axes.set_xticks(range(len(levels)), levels, rotation=60, fontsize=8)
        axes.set_title(encoder, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("image AUROC")
    all_axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def direction_figure(rows: Sequence[Row]) -> Figure:
    """Plot what share of a level's change lies in which band of the frozen components, beside the variance
    there.

    Args:
        rows: with level, band, variance, moved and moved_defective.
    """
    levels = list(dict.fromkeys(row["level"] for row in rows))
    bands = sorted({row["band"] for row in rows}, key=lambda band: float(band.split()[0]))
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    kinds = {
        "variance": "variance of normal images",
        "moved": "change of good test images",
        "moved_defective": "change of defective images",
    }
    all_axes: Sequence[Axes] = figure.subplots(1, len(kinds), sharey=True)
    for axes, (key, title) in zip(all_axes, kinds.items(), strict=True):
        below = np.zeros(len(levels))
        for i, band in enumerate(bands):
            by_level = {row["level"]: row[key] for row in rows if row["band"] == band}
            heights = np.array([by_level.get(level, 0.0) for level in levels])
            shade = str(0.85 - 0.8 * i / max(1, len(bands) - 1))
            axes.bar(range(len(levels)), heights, bottom=below, color=shade, label=band)
            below += heights
        axes.set_xticks(range(len(levels)), levels, rotation=60, fontsize=8)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("share")
    all_axes[-1].legend(
        fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), title="explained variance"
    )
    return figure


@dataclass(frozen=True)
class Shown:
    """An explained image `(h, w, 3)`, where its defect is, and a small map of relevance by each encoder."""

    name: str
    image: Pixels
    mask: NDArray[np.bool_] | None
    maps: Mapping[str, Map]


def relevance_figure(images: Sequence[Shown]) -> Figure:
    """Draw a row for each image: as it is with its defect outlined, then what raises its score by each
    encoder, on one scale a map for what it holds of relevance that raises."""
    encoders = list(dict.fromkeys(name for each in images for name in each.maps))
    figure = Figure(figsize=(2.3 * (1 + len(encoders)), 2.4 * len(images)), layout="constrained")
    grid = figure.subplots(len(images), 1 + len(encoders), squeeze=False)
    for line, each in zip(grid, images, strict=True):
        drawn = each.image if each.mask is None else outlined(each.image, each.mask, TRUTH)
        line[0].imshow(drawn)
        line[0].set_title(each.name, fontsize=7)
        for axes, name in zip(line[1:], encoders, strict=True):
            raising = np.maximum(each.maps.get(name, np.zeros((1, 1), np.float32)), 0)
            large = np.asarray(Image.fromarray(raising).resize(each.image.shape[1::-1]))
            scale = ColourScale(0.0, float(np.quantile(raising, 0.99)))
            picture = overlay(each.image, large, scale)
            axes.imshow(picture if each.mask is None else outlined(picture, each.mask, TRUTH))
            axes.set_title(name, fontsize=8)
        for axes in line:
            axes.axis("off")
    return figure


def contamination_figure(rows: Sequence[Row]) -> Figure:
    """Plot over the share of defective training images: AUROC, defects found and false alarms at the
    threshold, and how well the planted images are found again, a line for each treatment.

    Args:
        rows: with share, treatment and the numbers.
    """
    kinds = {
        "image_auroc": "image AUROC",
        "true_positive_rate": "defects found at the threshold",
        "false_positive_rate": "false alarms at the threshold",
        "found_auroc": "planted images found again, AUROC",
    }
    treatments = list(dict.fromkeys(row["treatment"] for row in rows))
    figure = Figure(figsize=(12.5, 3.7), layout="constrained")
    all_axes: Sequence[Axes] = figure.subplots(1, len(kinds))
    for axes, (key, title) in zip(all_axes, kinds.items(), strict=True):
        for name in treatments:
            treated = [row for row in rows if row["treatment"] == name and row.get(key) is not None]
            axes.plot([row["share"] for row in treated], [row[key] for row in treated], marker="o", label=name)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("share of the training set")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in all_axes[1:3]:
        axes.set_ylim(bottom=0)  # shares
    all_axes[3].set_ylim(0, 1.02)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure
