"""How much does `predict` add to the encoder's forward pass?

    python benchmarks/predict.py RUN --images 1000

Scores made images with the detector of a finished run as `anomaly-ft predict --output` does (threads, batches,
three scores, a CSV row for each), and runs the bare encoder on the same pixels as tensors in memory, in turn.
Decoding is in neither: both get pixels that are decoded already. Prints images per second of both and the
ratio of each pair of turns.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch

from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.run.open import open_run
from anomaly_ft.run.prediction_files import Destination, predict_to


def predicted(run: LoadedRun, names: list[str]) -> float:
    """Seconds that `predict` takes, rows written."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        predict_to(Destination(Path(folder), "csv"), run, names, stdin=())
    return time.perf_counter() - started


def forward(run: LoadedRun, pixels: np.ndarray) -> float:
    """Seconds of the encoder alone."""
    batches = list(run.compute.batches(pixels))
    started = time.perf_counter()
    with torch.inference_mode(), run.compute.fabric.autocast():
        for images in batches:
            run.detector.encoder(images)
    return time.perf_counter() - started


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--images", default=1000, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--threads", default=0, show_default=True, help="0: as many as there are cores.")
def main(folder: Path, images: int, turns: int, threads: int) -> None:
    """Time both in turn."""
    if threads:
        torch.set_num_threads(threads)
    loaded = open_run(folder)[1]
    side = loaded.detector.encoder.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    run = replace(loaded, decoder=lambda path: pixels[int(path.stem)])
    names = [f"{number}.png" for number in range(images)]
    predicted(run, names[:64]), forward(run, pixels[:64])  # warm
    pairs = [(predicted(run, names), forward(run, pixels)) for _ in range(turns)]
    ours, bare = np.array(pairs).T
    ratios = bare / ours
    for what, seconds in (("predict", ours), ("encoder alone", bare)):
        print(f"{what}: {images / np.median(seconds):.1f} images per second")
    print(f"ratio {np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f}) over {turns} turns")


if __name__ == "__main__":
    main()
