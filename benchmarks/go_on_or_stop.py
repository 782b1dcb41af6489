"""Draw runs that forgetting.py recorded: what validation saw, what was true, and the epoch to keep.

    python benchmarks/go_on_or_stop.py results macaroni1:0 kolektor:1 --output docs/images/go-on-or-stop.png

A panel for each set and seed, of the first settings that the table has; the picture of the README is of runs of
180 steps. What is watched, and the epoch that is kept, are those of the default rule, see `witnesses.py`.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd
from choices import RUN, scores_name
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from witnesses import RULES, Trajectory

SEEN, TRUE, KEPT = "#3b7dd8", "#d9822b", "tab:green"
RULE = "faint, fused, better by 2"


def panel(axes: Axes, run: Trajectory, score: str) -> None:
    """Plot the vicinal AUROC and, on an axis of its own, the test AUROC over the images seen in training."""
    seen, truth = run.rows["images"].cumsum(), run.rows[f"test.{score}"].to_numpy()
    watched, kept = RULES[RULE](run)
    twin = axes.twinx()
    axes.plot(seen, watched, color=SEEN, marker="o", linewidth=2)
    twin.plot(seen, truth, color=TRUE, marker="s", linewidth=2)
    twin.axhline(truth[0], color=TRUE, linestyle=":", linewidth=1)
    axes.axvline(seen.iloc[kept], color=KEPT, linestyle="--", linewidth=1.5)
    what = (
        "right to go on" if kept == len(truth) - 1 else "right to stop" if truth[kept] > truth[-1] else "wrong"
    )
    axes.set_title(
        f"{run.rows['set'].iloc[0]}: {what}\ntest AUROC {truth[0]:.3f} frozen (dotted), "
        f"{truth[kept]:.3f} kept (dashed), {truth[-1]:.3f} at the end",
        fontsize=9,
    )
    axes.set_xlabel("images seen in training")
    axes.set_ylabel("vicinal AUROC, no real defect", color=SEEN)
    twin.set_ylabel(f"test AUROC, {score} score", color=TRUE)
    for each in (axes, twin):
        each.margins(y=0.15)
        each.spines["top"].set_visible(False)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("runs", nargs=-1, required=True, metavar="SET:SEED...")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The picture, a PNG.")
@click.option("--score", default="fused", show_default=True, help="Of test images.")
def main(folder: Path, runs: tuple[str, ...], output: Path, score: str) -> None:
    """Draw RUNS from the table in FOLDER."""
    recorded: dict[str, Trajectory] = {}
    for (name, settings, seed), rows in pd.read_csv(folder / "forgetting.csv").groupby(RUN, sort=False):
        with np.load(folder / scores_name(name, seed, settings)) as scores:
            recorded.setdefault(f"{name}:{seed}", Trajectory(rows.reset_index(drop=True), dict(scores)))
    if missing := [run for run in runs if run not in recorded]:
        raise click.ClickException(f"no run {', '.join(missing)}; there is {', '.join(recorded)}")
    figure = Figure(figsize=(5 * len(runs), 3.5), layout="constrained")
    for axes, run in zip(figure.subplots(1, len(runs), squeeze=False)[0], runs, strict=True):
        panel(axes, recorded[run], score)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    main()
