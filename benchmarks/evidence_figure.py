"""The picture of `evidence.py`: what if the light changes? Not a benchmark itself."""

from pathlib import Path

import pandas as pd
from evidence_run import CLEAN, FROZEN, TUNED
from evidence_tables import TITLES
from matplotlib.figure import Figure

from anomaly_ft.evaluation.plots import ANOMALOUS_COLOUR, FROZEN_COLOUR, NORMAL_COLOUR

DRAWN = {
    CLEAN: ("frozen, statistics of images as they are", FROZEN_COLOUR, "s:"),
    FROZEN: ("frozen, statistics of varied copies too", NORMAL_COLOUR, "^--"),
    TUNED: ("fine-tuned, the default", ANOMALOUS_COLOUR, "o-"),
}
PANELS = {"auroc.fused": "image AUROC, fused score", "rejected": "good test images rejected, %"}


def draw(growing: pd.DataFrame, name: str, path: Path) -> None:
    """Draw AUROC and good images rejected of a set's first seed over the strength of variation."""
    rows = growing[(growing["set"] == name) & (growing["seed"] == 0) & growing["auto"]]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, 2), PANELS.items(), strict=True):
        for detector, (label, colour, style) in DRAWN.items():
            line = rows[rows["detector"] == detector].sort_values("strength")
            scale = 100 if column == "rejected" else 1
            axes.plot(line["strength"], scale * line[column], style, color=colour, linewidth=2, label=label)
        axes.axvline(1, color="#cccccc", linewidth=1, zorder=0)
        axes.set(title=f"{TITLES[name]}: {title}", xlabel="variation, times what the recipe calls benign")
        axes.margins(y=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8, loc="best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
