"""Figures of a run, drawn without a display."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from anomaly_ft.evaluation.metric_names import METRICS
from anomaly_ft.metrics import Curve, Floats

NORMAL_COLOUR, ANOMALOUS_COLOUR, FROZEN_COLOUR = "#3b7dd8", "#d9822b", "#8a8f98"


class Validation(Protocol):
    """What is drawn of a validation."""

    @property
    def auroc(self) -> float:
        """Mean over the informative augmentations."""

    @property
    def by_augmentation(self) -> Mapping[str, float]:
        """The same for each augmentation."""


class StopDecision(Protocol):
    """What is drawn of the end of training."""

    @property
    def best_epoch(self) -> int:
        """The epoch that is kept."""

    @property
    def reason(self) -> str | None:
        """Why training ended."""

    @property
    def why(self) -> str:
        """The same in words."""


def forgetting_figure(validations: Sequence[Validation], verdict: StopDecision) -> Figure:
    """Plot vicinal AUROC over epochs: the validated mean, each augmentation, the kept epoch and why it
    ended."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Axes = figure.subplots()
    epochs = range(len(validations))
    for name in validations[0].by_augmentation:
        values = [validation.by_augmentation[name] for validation in validations]
        axes.plot(epochs, values, linewidth=1, alpha=0.7, marker=".", label=name)
    means = [validation.auroc for validation in validations]
    axes.plot(epochs, means, color="black", linewidth=2.2, marker="o", label="mean (decides)")
    best = verdict.best_epoch
    axes.axvline(best, color="tab:green", linestyle="--", label=f"kept epoch: {best}")
    axes.set_xlim(-0.3, len(validations) - 0.7)
    axes.set_xlabel("epoch (0 = pretrained)")
    axes.set_ylabel(METRICS["val/vicinal_auroc"].label)
    said = f"Telling held-out normal images from pseudo-anomalies; ended: {verdict.reason}\n{verdict.why}"
    figure.suptitle(said, fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def score_figure(scores: Mapping[str, Floats], threshold: float, normal: Sequence[str] = ()) -> Figure:
    """Plot a row of bars for each kind of image, all on one axis of scores, with the decision threshold.

    Args:
        scores: of each kind, `(n,)`, higher = more anomalous.
        threshold: above it an image is called anomalous.
        normal: the kinds that should stay below it.
    """
    engine = ConstrainedLayoutEngine(h_pad=0.01, hspace=0)
    figure = Figure(figsize=(7, 0.9 + 0.55 * len(scores)), layout=engine)
    rows: list[Axes] = list(figure.subplots(len(scores), sharex=True, squeeze=False)[:, 0])
    everything = np.append(np.concatenate(list(scores.values())), threshold)
    top = max(float(np.quantile(everything, 0.98)), threshold + 0.25 * (threshold - everything.min()))
    bins = np.linspace(everything.min(), top, 50).tolist()
    for axes, (name, values) in zip(rows, scores.items(), strict=True):
        colour = NORMAL_COLOUR if name in normal else ANOMALOUS_COLOUR
        axes.hist(np.clip(values, None, top), bins=bins, color=colour)
        axes.axvline(threshold, color="black", linestyle="--", linewidth=1)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_ylabel(f"{name} ({len(values)})", rotation=0, ha="right", va="center", fontsize=9)
        above = f"{np.mean(values > threshold):.0%} above"
        axes.text(1.01, 0.5, above, transform=axes.transAxes, va="center", fontsize=8)
    rows[0].text(threshold, 1.02, "threshold", transform=rows[0].get_xaxis_transform(), fontsize=8, ha="center")
    rows[-1].set_xlabel("score, higher = more anomalous (the last bar holds all beyond)", fontsize=9)
    return figure


def roc_pr_figure(curves: Mapping[str, Curve], point: tuple[float, float, float] | None = None) -> Figure:
    """Plot ROC and precision against recall of each detector by name.

    Args:
        curves: by name; the first is drawn grey if there are several, the last in colour.
        point: false positive rate, recall and precision at the threshold, marked on both.
    """
    figure = Figure(figsize=(8.4, 3.7), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    colours = [FROZEN_COLOUR, ANOMALOUS_COLOUR][-len(curves) :]
    for (name, points), colour in zip(curves.items(), colours, strict=True):
        recall, false = points.true_positive_rate, points.false_positive_rate
        roc.plot(false, recall, color=colour, label=f"{name}, AUROC {float(points.auroc()):.4f}")
        precision = (points.caught / np.maximum(points.caught + points.rejected, 1))[1:]
        pr.step(
            recall[1:], precision, where="pre", color=colour,
            label=f"{name}, AP {float(points.average_precision()):.4f}",
        )  # fmt: skip
    if point:
        roc.plot(*point[:2], "ko", label="threshold")
        pr.plot(*point[1:], "ko", label="threshold")
    roc.plot([0, 1], [0, 1], color="#cccccc", linewidth=0.8, zorder=0)
    for axes, x, y in ((roc, "false positive rate", "true positive rate"), (pr, "recall", "precision")):
        axes.set(xlabel=x, ylabel=y, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.legend(fontsize=8, frameon=False, loc="lower left" if axes is pr else "lower right")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def figure_uri(figure: Figure) -> str:
    """Encode the figure as a PNG in a `data:` address, for a page that needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
