"""Which dense score, and how it joins the pooled one: a search in which no set judges what was chosen on it.

    python benchmarks/scores.py --output results
    python benchmarks/scores.py --output results --sets screw,bottle --seeds 1

Frozen encoder, default split. For each set and seed the images go through the encoder once; then every choice
of levels, grid, variance floor and smoothing is fitted and scored (`scores.npz`, resumable set by set). From
these every way to join pooled and dense score is tried. Leave one set out: for each set the choice that is
best on the mean of the *other* sets is judged on it, and stands beside the best choice in hindsight, which
nobody could have known. Settings are chosen with test labels of other sets, never of the set itself.

Sets and where they lie: see `sets.py`. Prints the tables and writes `scores.csv`.
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from sets import COMMON, grid, grid_options
from torch import Tensor

from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.levels import kept_channels
from anomaly_ft.model.gaussian.statistics import fit, moments, squared_distance
from anomaly_ft.model.maps import on_grid, smooth
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare

LEVELS = "1+2+4,2+3+4,2+4,3+4,3+4+5,4+5"  # blocks of the encoder that are joined
GRIDS = "8,10,12,14,16"
FLOORS = (0.01, 0.1, 0.3, 1.0)
SMOOTHINGS = (0.0, 0.5, 1.0)
WEIGHTS = (1.0, 2.0, 3.0, 5.0, 8.0)
CHANNELS = 256
Scores = dict[str, NDArray[np.float64]]  # by choice: held-out normal images, then those of the test split


def scores_of(setup: Setup, joins: Sequence[str], grids: Sequence[int]) -> Scores:
    """Pooled score and every dense score, `(val + test,)` each; `labels` of the test split beside them."""
    features = {part: feature_maps(setup, setup.data.normals(part).pixels) for part in ("train", "val")}
    features["test"] = feature_maps(setup, setup.data.test.pixels)
    found: Scores = {
        "labels": np.array([record.anomalous for record in setup.data.test.records], float),
        "pooled": pooled(setup, features),
    }
    for levels, side in itertools.product(joins, grids):
        for choice, scores in dense(setup, features, levels, side):
            found[choice] = scores
        setup.terminal.say(f"{levels} on {side} x {side}")
    return found


def feature_maps(setup: Setup, pixels: NDArray[np.uint8]) -> list[Tensor]:
    """The maps of all images, one tensor for each level, in the encoder's precision."""
    parts = []
    for images in setup.compute.batches(pixels):
        with torch.inference_mode(), setup.compute.fabric.autocast():
            parts.append([*setup.encoder(images)])
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def pooled(setup: Setup, features: dict[str, list[Tensor]]) -> NDArray[np.float64]:
    """Mean over levels of the distance of averaged features."""
    total = torch.zeros(len(features["val"][0]) + len(features["test"][0]), dtype=torch.float64)
    for i in range(len(setup.encoder.levels)):
        gaussian = fit(moments(pool([features["train"][i]])[0]))
        seen = torch.cat([pool([features[part][i]])[0] for part in ("val", "test")])
        total += squared_distance(seen, gaussian.mean, gaussian.whitening).sqrt()
    return (total / len(setup.encoder.levels)).numpy()


def dense(
    setup: Setup, features: dict[str, list[Tensor]], levels: str, side: int
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The largest distance of any position, for each variance floor and smoothing."""
    chosen = [setup.encoder.levels.index(f"blocks.{block}") for block in levels.split("+")]
    kept = kept_channels(setup.encoder, chosen, CHANNELS)
    on = {part: on_grid([maps[i] for i in chosen], side, kept) for part, maps in features.items()}
    sums, seen = moments(on["train"]), torch.cat([on["val"], on["test"]])
    for floor in FLOORS:
        gaussian = fit(sums, floor=floor, dtype=torch.float32)
        distances = squared_distance(seen, gaussian.mean, gaussian.whitening).sqrt().view(-1, side, side)
        for smoothing in SMOOTHINGS:
            scores = smooth(distances, smoothing).flatten(1).amax(1)
            yield f"levels {levels}, grid {side}, floor {floor}, smoothing {smoothing}", scores.numpy()


def joined(
    pooled_z: NDArray[np.float64], dense_z: NDArray[np.float64]
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Every way to make one score of two, both in standard deviations of held-out normal images."""
    yield "pooled alone", pooled_z
    yield "dense alone", dense_z
    yield "the larger", np.maximum(pooled_z, dense_z)
    yield "tail probabilities", -(norm.logsf(pooled_z) + norm.logsf(dense_z))
    for weight in WEIGHTS:
        yield f"sum, dense x {weight:g}", pooled_z + weight * dense_z


def standardised(scores: NDArray[np.float64], held_out: int) -> NDArray[np.float64]:
    """The test split's scores in standard deviations of the held-out normal images before them."""
    normal = scores[:held_out]
    return (scores[held_out:] - normal.mean()) / normal.std(ddof=1)


def table_of(found: Scores) -> dict[tuple[str, str], float]:
    """Test AUROC of every choice and every way to join."""
    labels = found["labels"] > 0
    held_out = len(found["pooled"]) - len(labels)
    pooled_z = standardised(found["pooled"], held_out)
    table = {}
    for choice, scores in found.items():
        if choice.startswith("levels"):
            for way, values in joined(pooled_z, standardised(scores, held_out)):
                table[choice, way] = image_auroc(labels, values)
    return table


def leave_one_out(table: pd.DataFrame, ways: list[str]) -> pd.DataFrame:
    """For each set: what the choice that is best on the others reaches on it, and the best in hindsight."""
    some = table[table.index.get_level_values("join").isin(ways)]
    lines = []
    for name in table.columns:
        choice = some.drop(columns=name).mean(axis=1).idxmax()
        lines.append(
            {
                "set": name, "chosen on the others": ", ".join(choice), "AUROC": some.loc[choice, name],
                "best in hindsight": some[name].max(), "pooled": pooled_of(table, name),
                "dense": table.loc[(choice[0], "dense alone"), name],
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def pooled_of(table: pd.DataFrame, name: str) -> float:
    return float(table.xs("pooled alone", level="join")[name].iloc[0])


@click.command()
@grid_options(sets=COMMON, seeds=3)
@click.option("--levels", default=LEVELS, show_default=True, help="Blocks to join, in each choice.")
@click.option("--grids", default=GRIDS, show_default=True, help="Positions along a side.")
def main(
    output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], levels: str, grids: str
) -> None:
    """Score every choice, then choose with one set left out."""
    output.mkdir(parents=True, exist_ok=True)
    terminal, columns = Terminal(), []
    sides = [int(side) for side in grids.split(",")]
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        path = output / f"scores-{name}-{seed}.npz"
        if not path.exists():
            np.savez(path, **scores_of(prepare(recipe, terminal), levels.split(","), sides))
        with np.load(path) as stored:
            columns.append(pd.Series(table_of(dict(stored)), name=name))
    table = pd.concat(columns, axis=1).T.groupby(level=0, sort=False).mean().T
    table.index = table.index.set_names(["choice", "join"])
    table.to_csv(output / "scores.csv")
    ways = list(table.index.get_level_values("join").unique())
    titles = {"dense score alone": ["dense alone"], "any join": ways}
    for title, some in titles.items() if len(table.columns) > 1 else ():
        print(f"\n{title}, mean over {seeds} seeds, each set left out in turn")
        print(leave_one_out(table, some).to_string(index=False, float_format="{:.4f}".format))
    best = table.assign(mean=table.mean(axis=1)).sort_values("mean", ascending=False)
    print("\nbest on the mean of all sets")
    print(best.head(15).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
