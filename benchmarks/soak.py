"""Does memory or the number of open files grow? Trains, checkpoints, validates and logs for a long time.

    python benchmarks/soak.py --minutes 30

Small made images, a small encoder with random weights, a checkpoint after each step, MLflow in a
database: what could leak is done as often as possible. Prints a line each minute, and ends with 1
when memory grew by more than a twentieth, or open files by more than two, between the first fifth and
the last fifth of the time.
"""

import logging
import os
import tempfile
import time
import warnings
from pathlib import Path

import click
import numpy as np
from PIL import Image

RECIPE = """
name: soak
data: {{root: "{root}", image_size: 64}}
encoder: {{name: test_efficientnet, weights: random}}
validation: {{augmentations: [scar]}}
schedule: {{max_epochs: 5}}
runtime: {{device: cpu, precision: fp32}}
expert:
  gaussian: {{grid: 4}}
  validation: {{severity: 0.5}}
  schedule: {{patience: 99, margin: 99}}
  runtime: {{checkpoint_minutes: 0}}
"""


def resident() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def make_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train/good", 64), ("test/good", 16), ("test/bad", 16)):
        (folder / part).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(folder / part / f"{i}.png")


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("-s", "settings", multiple=True, metavar="KEY=VALUE", help="Changes the recipe.")
def main(minutes: float, settings: tuple[str, ...]) -> None:
    """Run after run, at least two, until the time is over."""
    from anomaly_ft.recipe.read import read_recipe
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.setup import prepare
    from anomaly_ft.run.train import train

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    seen: list[tuple[float, float, int]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_images(folder / "images")
        (folder / "soak.yaml").write_text(RECIPE.format(root=folder / "images"))
        recipe, terminal = read_recipe(folder / "soak.yaml", settings), Terminal()
        terminal.console.quiet = True
        began = said = time.monotonic()
        while (passed := time.monotonic() - began) < 60 * minutes or len(seen) < 2:
            train(prepare(recipe, terminal), folder / "runs")
            seen.append((passed / 60, resident(), open_files()))
            if time.monotonic() - said >= 60 or len(seen) == 1:
                said = time.monotonic()
                print(
                    f"{seen[-1][0]:6.1f} min  {len(seen)} runs  {seen[-1][1]:.0f} MiB  {seen[-1][2]} open files"
                )
    early = [entry for entry in seen[1:] if entry[0] <= minutes / 5] or seen[:2]
    late = [entry for entry in seen if entry[0] >= 4 * minutes / 5] or seen[-1:]
    memory = float(np.median([m for _, m, _ in late]) / np.median([m for _, m, _ in early]) - 1)
    files = int(np.median([f for *_, f in late]) - np.median([f for *_, f in early]))
    print(f"{len(seen)} runs; memory {memory:+.1%}, open files {files:+d} from the first to the last fifth")
    raise SystemExit(memory > 0.05 or files > 2)


if __name__ == "__main__":
    main()
