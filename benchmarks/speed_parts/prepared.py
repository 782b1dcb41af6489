"""A prepared run on generated images, or on those of a data root."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare


def generate(folder: Path, count: int, side: int) -> Path:
    """Smooth random pictures, all different, as a folder of normal images."""
    folder.mkdir(parents=True)
    for i in range(count):
        spots = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(spots).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:06}.png")
    return folder


def prepare_run(options: argparse.Namespace, folder: Path, images: int, *settings: str) -> Setup:
    """The recipe, set up for ROOT or, without one, for so many generated images."""
    root = options.data or generate(folder / "images", images, 256)
    recipe = read_recipe(Path(options.recipe), [f"data.root={root}", *options.set, *settings])
    return prepare(recipe, Terminal(quiet=True))
