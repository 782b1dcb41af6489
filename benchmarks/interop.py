"""Does our fine-tuned encoder help anomalib's detectors? PaDiM and PatchCore on it and on the frozen one.

    python benchmarks/interop.py --anomalib venv-anomalib/bin/python --output results
    python benchmarks/interop.py --anomalib venv-anomalib/bin/python --sets screw --run runs/screw-001

Fine-tunes on each set as `anomaly-ft train` does (or takes the run given for it), exports the encoder with
`anomaly-ft export --format timm`, and hands the folder to anomalib as `backbone="local-dir:…"`; beside it the
pretrained encoder, written the same way. Everything else is equal: images, layers, seeds. PaDiM keeps 100
random channels and PatchCore's coreset begins anywhere, so each seed is a row of its own. Where the verdict
keeps the pretrained encoder there is nothing to compare, and it says so. How anomalib's environment is made
stands in `beside_anomalib.py`; without it nothing is measured.

Writes `interop.csv`, a line each time a model is done; prints a table.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from beside_anomalib import installed, numbers, run_model
from sets import FOLDERS

RECIPE = Path(__file__).parents[1] / "recipes" / "mvtec.yaml"
METRICS = ["image_auroc", "pixel_auroc", "pixel_aupro"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--anomalib", default="", help="python of the environment that has anomalib")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for interop.csv and runs/")
    parser.add_argument("--sets", default="screw,mtd")
    parser.add_argument("--models", default="padim,patchcore")
    parser.add_argument("--seeds", type=int, default=1, help="of anomalib's models")
    parser.add_argument("--coreset", type=float, default=0.01, help="share of features that PatchCore keeps")
    parser.add_argument("--run", type=Path, help="a finished run, in place of training; with one set")
    parser.add_argument("-s", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if not installed(options.anomalib):
        print("left out: --anomalib names no python that has anomalib 2.7")
        return
    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name in options.sets.split(","):
        for row in compare(name, options):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
            pd.DataFrame(rows).to_csv(options.output / "interop.csv", index=False)
    if rows:
        print(side_by_side(pd.DataFrame(rows)).to_string(float_format="%.4f"))


def compare(name: str, options: argparse.Namespace) -> Any:
    """A row for each seed, model and encoder of a set."""
    from anomaly_ft.data.dataset import read_records

    root = Path(os.environ["ANOMALY_FT_DATA"]) / FOLDERS[name]
    run = options.run or train(root, name, options)
    records = [record for record in read_records(str(root)).records if record.split == "test"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if not write_encoders(run, work):
            print(f"{name}: the pretrained encoder was kept, there is nothing to compare")
            return
        for seed in range(options.seeds):
            for model in options.models.split(","):
                for encoder in ("frozen", "fine-tuned"):
                    found = run_model(
                        options.anomalib, root, work / encoder, work, model, coreset=options.coreset, seed=seed
                    )
                    about = {"set": name, "model": model, "seed": seed, "encoder": encoder}
                    yield about | numbers(records, found.scores, found.maps) | {"seconds": found.seconds}


def train(root: Path, name: str, options: argparse.Namespace) -> Path:
    """The folder of a run that was fine-tuned on the set."""
    from anomaly_ft.recipe.read import read_recipe
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.setup import prepare
    from anomaly_ft.run.train import train

    settings = [f"data.root={root}", f"name={name}", "tracking.mlflow=false"]
    setup = prepare(read_recipe(RECIPE, [*settings, *options.settings]), Terminal())
    finished = train(setup, options.output / "runs")
    setup.terminal.results(finished)
    return finished.folder


def write_encoders(run: Path, work: Path) -> bool:
    """`frozen` and `fine-tuned`, encoders in timm's layout; False where they are the same."""
    from anomaly_ft.model.encoder.encoder import load_encoder
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.export import export
    from anomaly_ft.run.open import open_run

    about = open_run(run)[0]
    frozen = load_encoder(about.encoder.name, about.encoder.weights, image_size=about.data.image_size)
    frozen.save(work / "frozen", resize=about.data.resize)
    export(run, "timm", work / "fine-tuned", Terminal(), count=16)
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
