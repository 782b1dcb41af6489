"""Do a few known defects of one kind help to find the other kinds?

    python benchmarks/known_defects.py --output results --seeds 3 -s data.image_size=128 \\
        -s schedule.max_steps=45 -s expert.variation.copies=0

For each set, seed and dose the encoder is fine-tuned for all steps without stopping, with 0, 1, 5 and 10
defects of one kind in the objective: those of the seed, drawn at random, the smaller doses among the larger.
All of them are taken out of the test split at every dose, so that all doses are measured on the same images.
Image AUROC of the detector that is fitted again, on the kind that was seen and on all other kinds, beside the
frozen encoder's; the score that decides, and of its parts the pooled one, which the known defects move, and
the dense one.

Writes `known_defects.csv` as it goes; what is there is not trained again. Prints the means over seeds. Sets and
where they lie: see `sets.py`; they need kinds of defects. No test image chooses anything.
"""

import logging
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from measuring import add_rows, read_table, train_unwatched
from sets import grid, grid_options, label_of

from anomaly_ft.data.known_defects import as_shown
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import NORMAL
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare, records_of
from anomaly_ft.run.train import METHODS

DOSES = (0, 1, 5, 10)
KEYS = ["set", "seed", "kind", "settings"]
Row = dict[str, Any]


def rows_of(recipe: Recipe, kind: str, doses: tuple[int, ...], terminal: Terminal) -> Iterator[Row]:
    """A row for the frozen encoder, and one for each dose."""
    setup = prepare(recipe, terminal)
    kinds = np.array([record.kind for record in setup.data.test.records])
    if kind not in kinds:
        raise click.BadParameter(
            f"no test images of kind {kind!r}; expected one of {', '.join(sorted(set(kinds)))}"
        )
    drawn = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(kinds == kind))[: max(doses)]
    frozen = {name: value.clone() for name, value in setup.encoder.state_dict().items()}
    method = METHODS["gaussian"](setup)
    assert isinstance(method, GaussianMethod)
    yield {"dose": "frozen", **aurocs(setup, method.fit(), kinds, drawn, kind)}
    for dose in doses:
        setup.encoder.load_state_dict(frozen)
        method.defects = defects(setup, drawn[:dose]) if dose else None
        loss = train_unwatched(setup, method)
        detector = method.refit("refit", watching=False).detector
        yield {"dose": str(dose), "loss": loss, **aurocs(setup, detector, kinds, drawn, kind)}


def defects(setup: Setup, rows: Any) -> Any:
    """Pixels of these test images and of their varied copies, as every step of a run shows them."""
    chosen = Images(setup.data.test.pixels[rows], tuple(setup.data.test.records[i] for i in rows))
    return as_shown(chosen, setup.variation)


def aurocs(setup: Setup, detector: Detector, kinds: Any, drawn: Any, kind: str) -> Row:
    """Image AUROC of the seen kind and of the others, without the images that were drawn."""
    scores = score_images(detector, setup.data.test.pixels, setup.compute)
    left = ~np.isin(np.arange(len(kinds)), drawn)
    numbers: Row = {}
    for group, chosen in (("seen", kinds == kind), ("unseen", (kinds != kind) & (kinds != NORMAL))):
        wanted = left & (chosen | (kinds == NORMAL))
        numbers[f"{group} images"] = int((left & chosen).sum())
        for name in (detector.decides, "pooled", "dense"):
            ready = (kinds[wanted] != NORMAL).any() and (kinds[wanted] == NORMAL).any()
            numbers[f"{group} {name}"] = (
                image_auroc(kinds[wanted] != NORMAL, scores[name][wanted]) if ready else None
            )
    return numbers


@click.command()
@grid_options(sets="mtd,screw", seeds=3, seeds_of="for each set")
@click.option(
    "--kinds", default="first", show_default=True, help="Of known defects, with commas; first: by name."
)
@click.option("--doses", default=",".join(map(str, DOSES)), show_default=True, help="Numbers of known defects.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **asked: str) -> None:
    """Train every dose and print the table."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "known_defects.csv", label_of(settings)
    table = read_table(path, KEYS)
    doses = tuple(int(dose) for dose in asked["doses"].split(","))
    cells = grid(sets, seeds, settings, data=data, say=terminal.say)
    for cell, wanted in product(cells, asked["kinds"].split(",")):
        kind = first_kind(cell.recipe) if wanted == "first" else wanted
        if (table[KEYS] == [cell.name, cell.seed, kind, label]).all(axis=1).any():
            continue
        key = dict(zip(KEYS, (cell.name, cell.seed, kind, label), strict=True))
        made = []
        for row in rows_of(cell.recipe, kind, doses, terminal):
            made.append(key | row)
            print(cell.name, cell.seed, kind, *(f"{k} {v}" for k, v in row.items()), flush=True)
        table = add_rows(path, table, pd.DataFrame(made), KEYS)
    means = table.drop(columns="seed").groupby(["set", "kind", "settings", "dose"], sort=False).mean()
    print(means.to_string(float_format="%.4f"))


def first_kind(recipe: Recipe) -> str:
    """The first of the test split's kinds of defects by name."""
    return min(r.kind for r in records_of(recipe).records if r.split == "test" and r.anomalous)


if __name__ == "__main__":
    main()
