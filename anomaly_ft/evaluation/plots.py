"""Figures of a run, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from anomaly_ft.finetune.forgetting import Verdict
from anomaly_ft.finetune.validation import Validation
from anomaly_ft.metrics import Floats


def forgetting_figure(path: Path, validations: Sequence[Validation], verdict: Verdict) -> None:
    """Vicinal AUROC over epochs: the watched mean, each augmentation, the best epoch and why it ended."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Axes = figure.subplots()
    epochs = range(len(validations))
    for name in validations[0].by_augmentation:
        values = [validation.by_augmentation[name] for validation in validations]
        axes.plot(epochs, values, linewidth=1, alpha=0.7, label=name)
    watched = [validation.auroc for validation in validations]
    axes.plot(epochs, watched, color="black", linewidth=2.2, marker="o", label="watched (mean)")
    best = verdict.best_epoch
    axes.axvline(best, color="tab:green", linestyle="--", label=f"best epoch: {best}")
    axes.set_xlabel("epoch (0 = pretrained)")
    axes.set_ylabel("vicinal AUROC")
    axes.set_title(
        f"Telling held-out normal images from pseudo-anomalies; ended: {verdict.reason}", fontsize=10
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def score_figure(path: Path, scores: Mapping[str, Floats], threshold: float) -> None:
    """Histograms of the scores of each kind of image, with the decision threshold."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes: Axes = figure.subplots()
    everything = np.concatenate(list(scores.values()))
    bins = np.histogram_bin_edges(np.clip(everything, None, np.quantile(everything, 0.99)), bins=40).tolist()
    for name, values in scores.items():
        label = f"{name} ({len(values)})"
        axes.hist(np.clip(values, None, bins[-1]), bins=bins, histtype="stepfilled", alpha=0.45, label=label)
    axes.axvline(threshold, color="black", linestyle="--", label="threshold")
    axes.set_xlabel("score (higher = more anomalous; the last bar holds all beyond)")
    axes.set_ylabel("images")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
