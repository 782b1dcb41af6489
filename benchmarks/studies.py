"""Two studies of runs, set by set and seed by seed: which directions tell defects, where the detector looks.

    python benchmarks/studies.py --output results/studies --sets mtd,bottle,kolektor --seeds 3 \\
        -s data.image_size=128 -s schedule.max_steps=45 -s runtime.precision=fp32

Each set and seed is a run with the recipe of all benchmarks, frozen and fine-tuned, then `anomaly-ft analyse
subspace` and `anomaly-ft analyse shortcuts` of it. Prints, over the seeds, mean and standard deviation of the
image AUROC of each subspace of the summed levels, and of where relevance lies. A run that is finished is not
trained again, and a study that was stopped goes on; test images choose nothing.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd
from sets import Cell, grid, grid_options

from anomaly_ft.analysis.subspaces import SUM
from anomaly_ft.cli.options import quieten_libraries
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.explain import Effort, explain_run
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.subspace import study_subspaces
from anomaly_ft.run.train import train

LOOKED_AT = ("inside", "area", "inside_over_area", "points", "points_chance", "frame_defective", "frame_good",
             "same_baselines", "same_random")  # fmt: skip
Row = dict[str, Any]


def run_of(cell: Cell, output: Path, terminal: Terminal) -> Path:
    """Give the folder of the finished run of a set and seed, trained now unless it is there."""
    place = output / f"{cell.name}-{cell.seed}"
    for summary in sorted(place.glob("*/summary.json")):
        return summary.parent
    return train(prepare(cell.recipe, terminal), place).folder


def study_rows(cell: Cell, output: Path, effort: Effort) -> Iterator[tuple[str, Row]]:
    """Study a run; rows of the tables `subspaces` and `relevance`."""
    terminal = Terminal()
    folder = run_of(cell, output, terminal)
    known = {"set": cell.name, "seed": cell.seed}
    _, table = study_subspaces(folder, terminal)
    for row in table:
        if row["level"] == SUM:
            kept = {name: row[name] for name in ("encoder", "subspace", "dimensions", "auroc")}
            yield "subspaces", known | kept
    _, looked, _ = explain_run(folder, terminal, effort)
    for row in looked:
        yield "relevance", known | {name: row[name] for name in ("encoder", "baseline", *LOOKED_AT)}


def over_seeds(rows: Sequence[Row], names: Sequence[str], values: Sequence[str]) -> str:
    """Average rows that are alike in `names` over seeds; a Markdown table, the deviation after the mean."""
    table = pd.DataFrame(rows)
    header = [*names, "seeds", *values]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for key, group in table.groupby(list(names), sort=False):
        cells = [*(str(part) for part in key), str(len(group)), *(_spread(group[name]) for name in values)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: "pd.Series[Any]") -> str:
    known = pd.to_numeric(values).dropna()
    if not len(known):
        return "-"
    return f"{known.mean():.3f}" + (f" ± {known.std(ddof=1):.3f}" if len(known) > 1 else "")


@click.command()
@grid_options(sets="mtd,bottle,kolektor", seeds=3)
@click.option("--images", default=16, show_default=True, help="Defective images to explain.")
@click.option("--steps", default=12, show_default=True, help="Of integrated gradients.")
def main(
    output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], images: int, steps: int
) -> None:
    """Print two Markdown tables, of subspaces and of relevance; the rows of each seed go into CSV files."""
    quieten_libraries()
    tables: dict[str, list[Row]] = {"subspaces": [], "relevance": []}
    for cell in grid(sets, seeds, settings, data=data, say=lambda text: click.echo(text, err=True)):
        for name, row in study_rows(cell, output, Effort(images, steps)):
            tables[name].append(row)
        for name, rows in tables.items():
            pd.DataFrame(rows).to_csv(output / f"{name}.csv", index=False)
    print(over_seeds(tables["subspaces"], ["set", "encoder", "subspace"], ["dimensions", "auroc"]))
    print()
    print(over_seeds(tables["relevance"], ["set", "encoder", "baseline"], LOOKED_AT))


if __name__ == "__main__":
    main()
