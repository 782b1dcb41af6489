"""From how many good images on does fine-tuning pay?

    python benchmarks/few.py --output results --seeds 3 -s data.image_size=128

For each set and seed so many of its good training images are drawn, where a larger number holds the smaller
one's, and divided as `anomaly-ft init` would; all test images are kept. A run follows, with its own early
stopping. A row has image AUROC of the frozen or of the fine-tuned detector, of test images as they are and
varied as the recipe calls benign, and the step that is kept; the rest as in `encoders.py`.

Writes `few.csv` as it goes; what is there is not run again. Prints for each number of images the mean over sets
and seeds, the worst gain, and how many runs kept an epoch of training. No test image chooses anything.
"""

import logging
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from encoders import FROZEN, run
from measuring import add_rows, read_table
from sets import grid, grid_options, label_of

from anomaly_ft.data.dataset import read_records
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.advice import fitting_shares
from anomaly_ft.run.console import Terminal

COUNTS = "8,12,16,24,48,96"
TUNED = "fine-tuned"
RUN = ["set", "seed", "settings", "images"]
COLUMNS = ["image_path", "label_index", "split", "mask_path", "kind"]


def of_few(recipe: Recipe, count: int, manifest: Path) -> Recipe:
    """Give the recipe of so many good training images, listed in a manifest and divided as `init` would.

    Raises:
        click.ClickException: the set has fewer.
    """
    records = read_records(recipe.data.root).records
    good = [record for record in records if record.split == "train"]
    if len(good) < count:
        raise click.ClickException(f"{recipe.data.root} has {len(good)} good training images, not {count}")
    drawn = sorted(np.random.default_rng(recipe.seed).permutation(len(good))[:count])
    used = [*(good[i] for i in drawn), *(record for record in records if record.split == "test")]
    rows = [(r.name, int(r.anomalous), r.split, r.mask_name, r.kind) for r in used]
    manifest.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(manifest, index=False)
    shares = fitting_shares(count)
    changed = {"manifest": str(manifest), "layout": "auto"}
    held = {"val_share": shares.val, "calibration_share": shares.calibration}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=changed | held)})


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """For each number of images means over sets and seeds, the worst gain, and the runs that kept an epoch."""
    frozen, tuned = (table[table["way"] == way] for way in (FROZEN, TUNED))
    beside = frozen.drop(columns="step").merge(tuned, on=RUN, suffixes=("", "_tuned"))
    beside["gain"] = beside["auroc_tuned"] - beside["auroc"]
    beside["varied_gain"] = beside["varied_tuned"] - beside["varied"]
    groups = beside.groupby("images")
    summary = groups[["auroc", "varied", "gain", "varied_gain"]].mean()
    kept = groups["step"].agg(lambda steps: int((steps > 0).sum()))
    return summary.assign(worst=groups["gain"].min(), kept=kept, runs=groups.size())


@click.command()
@grid_options(sets="kolektor,macaroni1,mtd", seeds=3, seeds_of="for each set")
@click.option("--counts", default=COUNTS, show_default=True, help="Numbers of good training images.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], counts: str) -> None:
    """Run what is missing, and print the means."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "few.csv", label_of(settings)
    table = read_table(path, RUN)
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        for count in map(int, counts.split(",")):
            if (table[RUN] == [name, seed, label, count]).all(axis=1).any():
                continue
            terminal.say(f"{name}, seed {seed}: {count} images")
            few = of_few(recipe, count, output / f"{name}-{seed}-{count}.csv")
            rows: list[dict[str, Any]] = run(few, (FROZEN, TUNED), terminal)
            known: dict[str, Any] = {"set": name, "seed": seed, "settings": label, "images": count}
            table = add_rows(path, table, pd.DataFrame(rows).assign(**known), RUN)
    print(summary_of(table[table["settings"] == label]).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
