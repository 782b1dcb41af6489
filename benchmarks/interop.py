"""Does our fine-tuned encoder help anomalib's detectors? PaDiM and PatchCore on it and on the frozen one.

    python benchmarks/interop.py --anomalib venv-anomalib/bin/python --output results
    python benchmarks/interop.py --anomalib venv-anomalib/bin/python --output results --sets screw \\
        --run runs/screw-001

Fine-tunes on each set as `anomaly-ft train` does (or takes the run given for it), exports the encoder with
`anomaly-ft export --format timm`, and hands the folder to anomalib as `backbone="local-dir:…"`; beside it the
pretrained encoder, written the same way. Everything else is equal: images, layers, seeds. PaDiM keeps 100
random channels and PatchCore's coreset begins anywhere, so each seed is a row of its own. Where the verdict
keeps the pretrained encoder there is nothing to compare, and it says so. How anomalib's environment is made
stands in `beside_anomalib.py`; without it nothing is measured, and the exit code is 3.

Writes `interop.csv`, a line each time a model is done; prints a table.
"""

import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import click
import pandas as pd
from beside_anomalib import ABSENT, installed, numbers, run_model
from sets import MISSING, grid, grid_options

from anomaly_ft.data.dataset import read_records
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.export import Comparison, export
from anomaly_ft.run.open import open_run
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import train

METRICS = ["image_auroc", "pixel_auroc", "pixel_aupro"]


@click.command()
@grid_options(sets="screw,mtd", seeds=1, seeds_of="of anomalib's models")
@click.option("--anomalib", default="", help="python of the environment that has anomalib")
@click.option("--models", default="padim,patchcore", show_default=True)
@click.option("--coreset", default=0.01, show_default=True, help="Share of features that PatchCore keeps.")
@click.option("--run", type=click.Path(path_type=Path), help="A finished run, not to train; with one set.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **peer: Any) -> None:
    """Fine-tune, export, and measure anomalib's models on both encoders."""
    if not installed(peer["anomalib"]):
        print(ABSENT, file=sys.stderr)
        sys.exit(MISSING)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, _, recipe in grid(sets, 1, settings, data=data, say=Terminal().say):
        run = peer["run"] or fine_tuned(recipe.model_copy(update={"name": name}), output)
        for row in compare(recipe.data.root, run, seeds, peer):
            rows.append({"set": name, **row})
            print(rows[-1], file=sys.stderr, flush=True)
            pd.DataFrame(rows).to_csv(output / "interop.csv", index=False)
    if rows:
        print(side_by_side(pd.DataFrame(rows)).to_string(float_format="{:.4f}".format))


def compare(root: str, run: Path, seeds: int, peer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each seed, model and encoder of a set."""
    records = [record for record in read_records(root).records if record.split == "test"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if not write_encoders(run, work):
            print(f"{root}: the pretrained encoder was kept, there is nothing to compare")
            return
        for seed, model, encoder in product(range(seeds), peer["models"].split(","), ("frozen", "fine-tuned")):
            python, coreset = peer["anomalib"], peer["coreset"]
            (found,) = run_model(python, [Path(root)], work / encoder, model, coreset=coreset, seed=seed)
            about = {"model": model, "seed": seed, "encoder": encoder}
            yield about | numbers(records, found.scores, found.maps) | {"seconds": found.seconds}


def fine_tuned(recipe: Recipe, output: Path) -> Path:
    """The folder of a run that was fine-tuned as the recipe says."""
    setup = prepare(recipe, Terminal())
    finished = train(setup, output / "runs")
    setup.terminal.results(finished)
    return finished.folder


def write_encoders(run: Path, work: Path) -> bool:
    """`frozen` and `fine-tuned`, encoders in timm's layout; False where they are the same."""
    about = open_run(run)[0]
    frozen = load_encoder(about.encoder.name, about.encoder.weights, image_size=about.data.image_size)
    frozen.save(work / "frozen", resize=about.data.resize)
    export(run, "timm", work / "fine-tuned", Terminal(), comparison=Comparison(count=16))
    before, after = ((work / each / "model.safetensors").read_bytes() for each in ("frozen", "fine-tuned"))
    return before != after


def side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds: frozen, fine-tuned, and the gain of each metric."""
    means = rows.groupby(["set", "model", "encoder"], sort=False)[METRICS].mean().unstack("encoder")
    columns: dict[str, Any] = {}
    for metric in METRICS:
        before, after = means[metric, "frozen"], means[metric, "fine-tuned"]
        columns |= {f"{metric} frozen": before, "fine-tuned " + metric: after, f"gain {metric}": after - before}
    return pd.DataFrame(columns)


if __name__ == "__main__":
    main()
