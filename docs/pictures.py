"""Make the two pictures of the README: `python docs/pictures.py` (needs the extra `demo` and $ANOMALY_FT_DATA/mtd).

`forgetting.png`: a run on a third of the Magnetic Tile Defects that is over-trained on purpose; `maps.png`: four ELPV
solar cells beside their maps, from the pretrained encoder (images CC BY-NC-SA 4.0, see the README).
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.pictures import overlay, scale_of
from anomaly_ft.model.inference import predict
from anomaly_ft.model.loading import load_run
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import train

HERE = Path(__file__).parent / "images"
RECIPE = """
name: picture
data: {{root: "{root}", manifest: "{manifest}", image_size: {size}}}
encoder: {{name: tf_efficientnet_lite0, weights: package}}
validation: {{augmentations: [cutmix, cutpaste, scar]}}
tracking: {{mlflow: false}}
expert:
  data: {{val_share: 0.4}}
  gaussian: {{grid: {grid}}}
"""
OVERTRAINED = (
    "expert.gaussian.statistics=pretrained", "expert.gaussian.score=pooled", "expert.schedule.epoch_steps=15", "schedule.max_steps=120",
    "schedule.max_epochs=8", "expert.schedule.patience=100", "expert.schedule.margin=1000", "expert.schedule.tolerance=0",
)  # fmt: skip
SHOWN = {"good": [70, 75], "defective": [4, 9]}
SIDE = 190
CELLS = "demo:elpv-mono"


def run(folder: Path, root: str, records: list[Record], **how: Any) -> Path:
    """The folder of a run on these normal images."""
    manifest, recipe = folder / "images.csv", folder / "recipe.yaml"
    rows = [(record.name, 0, "train") for record in records]
    pd.DataFrame(rows, columns=["image_path", "label_index", "split"]).to_csv(manifest, index=False)
    settings = how.pop("settings")
    recipe.write_text(RECIPE.format(root=root, manifest=manifest, **how))
    return Path(train(prepare(read_recipe(recipe, settings), Terminal()), folder / "runs")["folder"])


def forgetting(folder: Path) -> Image.Image:
    root = str(Path(os.environ["ANOMALY_FT_DATA"], "mtd"))
    tiles = [record for record in read_root(root).records if record.split == "train"][::3]
    overtrained = run(folder, root, tiles, size=96, grid=6, settings=OVERTRAINED)
    with Image.open(overtrained / "forgetting.png") as picture:
        return picture.convert("RGB")


def maps(folder: Path) -> Image.Image:
    records = read_root(CELLS).records
    normal = [record for record in records if not record.anomalous]
    wrong = [record for record in records if record.anomalous]
    frozen = load_run(run(folder, CELLS, normal[:60], size=224, grid=14, settings=("schedule.max_epochs=0",)))
    chosen = [normal[i] for i in SHOWN["good"]] + [wrong[i] for i in SHOWN["defective"]]
    pixels = np.stack([Decoder(224)(record.path) for record in chosen])
    seen = predict(frozen.detector, pixels, frozen.compute).localises
    scale = scale_of(seen, np.array([True, True, False, False]))
    tiles = []
    for image, values in zip(pixels, seen, strict=True):
        large = np.asarray(Image.fromarray(values).resize((224, 224), Image.Resampling.BILINEAR))
        tiles += [image, overlay(image, large, scale)]
    small = [np.asarray(Image.fromarray(tile).resize((SIDE, SIDE))) for tile in tiles]
    return Image.fromarray(np.vstack([np.hstack(small[:4]), np.hstack(small[4:])]))


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for make in (forgetting, maps):
        with tempfile.TemporaryDirectory() as folder:
            picture = make(Path(folder))
        picture.quantize(128).save(HERE / f"{make.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
