"""Is the false positive rate that a threshold guarantees the rate that is observed?

    python benchmarks/guarantee.py --output results

For each set and seed: the frozen encoder's detector, its default threshold set on held-out normal images, and
what that rejects of the normal test images, which had no part in anything. The seed changes the split of the
training images; the test images stay, so that seeds are not independent of one another.

Under exchangeability the number rejected of m new normal images, by the k-th smallest of n scores, follows a
beta-binomial distribution (Vovk, ACML 2012); `at most` is the number it stays below in 95 % of cases, stated
before a test image is looked at, and `within` says whether it did.

Sets and where they lie: see `sets.py`. Writes `guarantee.csv`, prints the table.
"""

from pathlib import Path

import click
import numpy as np
import pandas as pd
from scipy.stats import betabinom
from sets import COMMON, grid, grid_options

from anomaly_ft.evaluation.working_points import conformal, observed
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import METHODS


def row_of(recipe: Recipe, terminal: Terminal) -> dict[str, float | int | bool]:
    """Compare the guaranteed with the observed rate of one split."""
    setup = prepare(recipe, terminal)
    detector, score = METHODS["gaussian"](setup).fit(), recipe.gaussian.score
    held_out = score_images(detector, setup.data.normals("calibration").pixels, setup.compute)[score]
    point = conformal(held_out, recipe.evaluation.false_positive_rate)
    normal = np.array([not record.anomalous for record in setup.data.test.records])
    tested = score_images(detector, setup.data.test.pixels[np.flatnonzero(normal)], setup.compute)[score]
    seen = observed(point.threshold, tested)
    if seen is None:
        raise click.ClickException(f"{recipe.data.root} has no normal test images")
    above = round(point.guaranteed_fpr * (point.images + 1))  # ranks above the threshold's, of n + 1
    most = int(betabinom.ppf(0.95, seen.images, above, point.images + 1 - above))
    return {
        "held out": point.images,
        "guaranteed": point.guaranteed_fpr,
        "rejected": seen.rejected,
        "test normals": seen.images,
        "observed": seen.rate,
        "low": seen.low,
        "high": seen.high,
        "at most": most,
        "within": seen.rejected <= most,
    }


@click.command()
@grid_options(sets=COMMON, seeds=5)
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Set a threshold on each split and see what it does."""
    output.mkdir(parents=True, exist_ok=True)
    terminal, rows = Terminal(), []
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        rows.append({"set": name, "seed": seed, **row_of(recipe, terminal)})
        pd.DataFrame(rows).to_csv(output / "guarantee.csv", index=False)
    table = pd.DataFrame(rows).sort_values(["set", "seed"])
    print(table.to_string(index=False, float_format="{:.4f}".format))
    means = table.groupby("set", sort=False).agg(
        {"guaranteed": "mean", "observed": "mean", "within": "sum", "seed": "count"}
    )
    print(means.rename(columns={"seed": "seeds"}).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
