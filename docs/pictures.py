"""Make the two pictures of the README from ELPV solar cells: `python docs/pictures.py` (needs the extra `demo`).

`forgetting.png`: a run that is over-trained on purpose; `maps.png`: four cells beside their maps, from the pretrained
encoder. The images are CC BY-NC-SA 4.0, see the README.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.records import Record
from anomaly_ft.deploy.loading import load_run
from anomaly_ft.evaluation.pictures import overlay, scale_of
from anomaly_ft.model.examine import examine
from anomaly_ft.recipe_file import read_recipe
from anomaly_ft.run import train
from anomaly_ft.setup import prepare
from anomaly_ft.terminal import Terminal

HERE = Path(__file__).parent / "images"
RECIPE = """
name: picture
data: {{root: "demo:elpv-mono", manifest: "{manifest}", image_size: {size}, watch_share: 0.3}}
encoder: {{name: tf_efficientnet_lite0, weights: package}}
gaussian: {{grid: {grid}}}
validation: {{augmentations: [cutmix, cutpaste, scar]}}
tracking: {{mlflow: false}}
"""
OVERTRAINED = (
    "gaussian.final=induced", "gaussian.score=pooled", "optimizer.lr=5e-4",
    "schedule.max_epochs=8", "schedule.patience=100", "schedule.margin=1000", "schedule.tolerance=0",
)  # fmt: skip
SHOWN = {"good": [70, 75], "defective": [4, 9]}
SIDE = 190


def run(folder: Path, manifest: Path, *, size: int, grid: int, settings: tuple[str, ...]) -> Path:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(manifest=manifest, size=size, grid=grid))
    return Path(train(prepare(read_recipe(recipe, settings), Terminal()), folder / "runs")["folder"])


def save_manifest(records: list[Record], path: Path) -> None:
    rows = [(record.name, 0, "train") for record in records]
    pd.DataFrame(rows, columns=["image_path", "label_index", "split"]).to_csv(path, index=False)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    records = read_root("demo:elpv-mono").records
    normal = [record for record in records if not record.anomalous]
    wrong = [record for record in records if record.anomalous]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = folder / "cells.csv"
        save_manifest(normal[:240], manifest)
        overtrained = run(folder, manifest, size=64, grid=4, settings=OVERTRAINED)
        save(Image.open(overtrained / "forgetting.png"), HERE / "forgetting.png")
        save_manifest(normal[:60], manifest)
        frozen = load_run(run(folder, manifest, size=224, grid=14, settings=("schedule.max_epochs=0",)))
        chosen = [normal[i] for i in SHOWN["good"]] + [wrong[i] for i in SHOWN["defective"]]
        pixels = np.stack([Decoder(224)(record.path) for record in chosen])
        maps = examine(frozen.detector, pixels, frozen.compute).dense
        scale = scale_of(maps, np.array([True, True, False, False]))
        tiles = []
        for image, values in zip(pixels, maps, strict=True):
            large = np.asarray(Image.fromarray(values).resize((224, 224), Image.Resampling.BILINEAR))
            tiles += [image, overlay(image, large, scale)]
        small = [np.asarray(Image.fromarray(tile).resize((SIDE, SIDE))) for tile in tiles]
        save(Image.fromarray(np.vstack([np.hstack(small[:4]), np.hstack(small[4:])])), HERE / "maps.png")
        shutil.rmtree(folder / "runs")


def save(picture: Image.Image, path: Path) -> None:
    picture.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
