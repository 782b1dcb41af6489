"""The frozen detector beside anomalib's PaDiM and PatchCore: same encoder, image size and machine.

    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results
    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results --sets bottle --models padim
    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results --varied --coreset 0.01

How anomalib's environment is made stands in `beside_anomalib.py`; without it only ours is measured, and the
exit code is 3. Each model is fitted and run as its own users do: ours like `anomaly-ft train` before its first
epoch (70 % of the normal images fitted, the others held back for scale and threshold), anomalib's by its Engine
on a Folder (all normal images fitted). Images are stretched to 224 pixels and normalised as the encoder wants.
Ours is measured with the default recipe, which fits varied copies too, and with statistics of images as they
are; its dense score has the levels that PaDiM is used with (strides 4, 8 and 16).

Maps are counted at the masks' own size, by the same counter for all. To check that counter, anomalib's
AUPRO measures the same maps once more at 224 pixels: `aupro 224` is ours, `anomalib aupro 224` theirs.
Seconds are of processor time for fitting and testing, decoding included, imports not.

With `--varied` all are measured on the test images as they are and once more with light, focus, noise,
compression and place varied as the recipe calls benign, each image alike for all; nobody trains on those.

Sets and where they lie: see `sets.py`. PatchCore keeps a share of all features,
`--coreset`; a tenth is customary and takes more than an hour on MTD with two cores.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from beside_anomalib import ABSENT, SIZE, Found, call, installed, numbers, run_model
from measuring import TEST
from PIL import Image
from sets import MISSING, grid, grid_options

from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.images import Decoder, resize_mask
from anomaly_ft.data.loaded import load_images
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import Variation
from anomaly_ft.evaluation.pixel_counts import PixelCounts
from anomaly_ft.model.inference import predict
from anomaly_ft.model.maps import upsample
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import METHODS

FEW = 200  # images up to which anomalib's AUPRO, which sorts all pixels at once, is asked


@click.command()
@grid_options(sets="bottle,screw,mtd", seeds=1, seeds_of="of the split")
@click.option("--anomalib", default="", help="python of the environment that has anomalib")
@click.option("--models", default="padim,patchcore", show_default=True)
@click.option("--varied", is_flag=True, help="Once more on test images that are varied, each alike for all.")
@click.option("--coreset", default=0.1, show_default=True, help="Share of features that PatchCore keeps.")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], **peer: Any) -> None:
    """Measure ours, and anomalib's models where they are."""
    theirs = installed(peer["anomalib"])
    if not theirs:
        print(ABSENT, file=sys.stderr)
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=Terminal().say):
        for images, cell in variants(recipe, output / f"varied-{name}-{seed}", varied=peer["varied"]):
            for row in compare(cell, theirs, peer):
                rows.append({"set": name, "seed": seed, "test": images, **row})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                pd.DataFrame(rows).to_csv(output / "peers.csv", index=False)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))
    sys.exit(0 if theirs else MISSING)


def variants(recipe: Recipe, folder: Path, *, varied: bool) -> Iterator[tuple[str, Recipe]]:
    """The recipe for the test images as they are, and for a copy of the set in `folder` that varies them."""
    yield "as they are", recipe
    root = Path(recipe.data.root)
    if varied and root.is_dir():
        write_varied(recipe, root, folder)
        yield "varied", recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(folder)})})


def placed(record: Record) -> str:
    """Where an image lies in a folder that is laid out as MVTec AD."""
    return f"{record.split}/{record.kind}/{Path(record.name).name}"


def write_varied(recipe: Recipe, root: Path, folder: Path) -> None:
    """Copy a set whose test images are resized and varied; all else are links to the folders in `root`."""
    records = [record for record in read_records(recipe.data.root).records if record.split == "test"]
    images = load_images(records, recipe.data.image_size)
    made = Variation(recipe.variation.strengths(), recipe.seed).copy(images, TEST)
    for record, pixels in zip(made.records, made.pixels, strict=True):
        path = (folder / placed(record)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    for name in ("train", "ground_truth"):
        if (root / name).is_dir() and not (folder / name).exists():
            (folder / name).symlink_to((root / name).resolve())


def compare(recipe: Recipe, theirs: bool, peer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each of our detectors and, where anomalib is, of its models."""
    root, python = Path(recipe.data.root), peer["anomalib"]
    records = [record for record in read_records(str(root)).records if record.split == "test"]
    clean = recipe.model_copy(update={"variation": recipe.variation.model_copy(update={"preset": "none"})})
    ours_by_title = {"ours": recipe, "ours, clean statistics": clean}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for title in [*ours_by_title, *(peer["models"].split(",") if theirs else ())]:
            if title in ours_by_title:
                found = ours(ours_by_title[title], work)
            else:
                encoder, seed = work / "encoder", recipe.seed
                (found,) = run_model(python, [root], encoder, title, coreset=peer["coreset"], seed=seed)
            row = {"model": title, **numbers(records, found.scores, found.maps)}
            if theirs and len(records) <= FEW:
                row |= counted_by_both(records, found.maps, python, work)
            yield row | {"seconds": found.seconds}


def ours(recipe: Recipe, work: Path) -> Found:
    """Scores and maps of the test images by our detector; leaves its encoder in `work`."""
    started = time.process_time()
    setup = prepare(recipe, Terminal())
    found = predict(METHODS["gaussian"](setup).fit(), setup.data.test.pixels, setup.compute)
    seconds = time.process_time() - started
    setup.encoder.save(work / "encoder")
    return Found(found.score, found.localises, seconds)


def counted_by_both(records: Any, maps: Any, python: str, work: Path) -> dict[str, float]:
    """AUPRO at 224 pixels by our counter and by anomalib's."""
    large = np.stack([upsample(each, SIZE, SIZE, Decoder(SIZE)) for each in maps])
    masks = np.zeros(large.shape, bool)
    for i, record in enumerate(records):
        if record.mask:
            masks[i] = resize_mask(read_mask(record.mask), SIZE, "stretch")
    counts = PixelCounts()
    for one, mask in zip(large, masks, strict=True):
        counts.add(one, mask)
    np.savez(work / "maps.npz", maps=large, masks=masks)
    theirs = call(python, {"task": "aupro", "work": str(work)})
    return {"aupro 224": counts.numbers()["pixel_aupro"], "anomalib aupro 224": float(theirs)}


if __name__ == "__main__":
    main()
