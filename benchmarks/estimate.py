"""Does `train --dry-run` say what a run takes?

    python benchmarks/estimate.py --output results --sets bottle,kolektor

Each set is estimated, then trained, each in a process of its own: minutes, the most memory that the process
held (MiB), and the size of the run folder (MiB of disk). With `--clock cpu` minutes are those of the processor,
for machines busy with other work. Sets and where they lie: see `sets.py`. Writes `estimate.csv`, prints
the table.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path

import click
import pandas as pd
from sets import grid, grid_options

from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.estimate import estimate
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import train
from anomaly_ft.system.memory import peak_memory

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Row = dict[str, float]


def estimated(recipe: Recipe, clock: str) -> Row:
    """Estimate a run; also how long that took."""
    began = CLOCKS[clock]()
    guessed = estimate(prepare(recipe, Terminal()), CLOCKS[clock])
    seconds = sum(guessed.seconds.values())
    took = (CLOCKS[clock]() - began) / 60
    return {"minutes": seconds / 60, "MiB": mib(guessed.memory), "disk": mib(guessed.folder), "took": took}


def trained(recipe: Recipe, clock: str) -> Row:
    """Train, and see what it takes."""
    began = CLOCKS[clock]()
    with tempfile.TemporaryDirectory(prefix="anomaly_ft") as scratch:
        run = train(prepare(recipe, Terminal()), Path(scratch))
        minutes = (CLOCKS[clock]() - began) / 60
        disk = sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    return {"minutes": minutes, "MiB": mib(peak_memory()), "disk": mib(disk), "epochs": run.summary.epochs}


def mib(count: int | None) -> float:
    """Convert bytes."""
    return float("nan") if count is None else count / 2**20


@click.command()
@grid_options(sets="bottle,kolektor", seeds=1)
@click.option("--clock", type=click.Choice(list(CLOCKS)), default="wall", show_default=True)
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], clock: str) -> None:
    """Estimate and train, set by set."""
    output.mkdir(parents=True, exist_ok=True)
    rows = []
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as alone:
        for name, seed, recipe in grid(sets, seeds, settings, data=data, say=Terminal().say):
            before = alone.apply(estimated, (recipe, clock))
            after = alone.apply(trained, (recipe, clock))
            row = {"set": name, "seed": seed, "epochs": after["epochs"], "estimating": before["took"]}
            for what in ("minutes", "MiB", "disk"):
                ratio = before[what] / after[what]
                row |= {f"{what} estimated": before[what], what: after[what], f"{what} ratio": ratio}
            rows.append(row)
            pd.DataFrame(rows).to_csv(output / "estimate.csv", index=False)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


if __name__ == "__main__":
    main()
