"""Make the pictures of README and docs: `python docs/pictures.py` (needs the extra `demo` and $ANOMALY_FT_DATA/mtd).

`forgetting.png`: a run on a third of the Magnetic Tile Defects that is over-trained on purpose; `maps.png`: four ELPV
solar cells beside their maps, from the pretrained encoder (images CC BY-NC-SA 4.0, see the README); `worth.png`: a
made set whose good test images are darker. `python docs/pictures.py worth` makes that one alone.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
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
    "expert.objective.floor=false",
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


def worth(folder: Path) -> Image.Image:
    """A part of each group of a made set, and the brightness of all of its parts."""
    rng, side = np.random.default_rng(4), 180
    groups = {
        "good, training": (60, 0, False),
        "good, test": (30, -22, False),
        "defective, test": (30, 0, True),
    }
    figure = Figure(figsize=(9.2, 3.0), layout="constrained")
    axes = figure.subplot_mosaic([[*groups, "light"]], width_ratios=[1, 1, 1, 1.5])
    y, x = np.mgrid[:side, :side] - side / 2
    for row, (name, (count, darker, wrong)) in enumerate(groups.items()):
        light = 150 + darker + 5 * rng.normal(size=count)
        shown = np.where(np.hypot(x, y) < 0.42 * side, light[0], 0.55 * light[0]) + rng.normal(
            0, 5, (side, side)
        )
        if wrong:
            shown[70:74, 95:125] -= 30
        axes[name].imshow(np.clip(shown, 0, 255), cmap="gray", vmin=0, vmax=220)
        axes[name].set_title(name, fontsize=10)
        axes[name].axis("off")
        axes["light"].scatter(light, -row + rng.uniform(-0.22, 0.22, count), s=9, color=f"C{row}")
    axes["light"].set_yticks([0, -1, -2], list(groups), fontsize=9)
    axes["light"].set_title("brightness of each image", fontsize=10)
    axes["light"].spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "worth.png", dpi=110)
    with Image.open(folder / "worth.png") as picture:
        return picture.convert("RGB")


def main() -> None:
    HERE.mkdir(exist_ok=True)
    wanted = sys.argv[1:] or ["forgetting", "maps", "worth"]
    for make in (each for each in (forgetting, maps, worth) if each.__name__ in wanted):
        with tempfile.TemporaryDirectory() as folder:
            picture = make(Path(folder))
        picture.quantize(128).save(HERE / f"{make.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
