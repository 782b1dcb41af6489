"""The frozen detector beside anomalib's PaDiM and PatchCore: same encoder, image size and machine.

    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results
    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results --sets bottle --models padim

How anomalib's environment is made stands in `beside_anomalib.py`; without it nothing is measured, and that is
said. Each model is fitted and run as its own users do: ours like `anomaly-ft train` before its first epoch
(70 % of the normal images fitted, the others held back for scale and threshold), anomalib's by its Engine on
a Folder (all normal images fitted). Images are squashed to 224 pixels and normalised as the encoder wants.
Ours is measured with the default recipe and with the levels that PaDiM is used with (strides 4, 8 and 16).

Maps are counted at the masks' own size, by the same counter for all. To check that counter, anomalib's
AUPRO measures the same maps once more at 224 pixels: `aupro 224` is ours, `anomalib aupro 224` theirs.
Seconds are of processor time for fitting and testing, decoding included, imports not.

Sets: MVTec bottle and screw, and MTD, below $ANOMALY_FT_DATA. PatchCore keeps a share of all features,
`--coreset`; a tenth is customary and takes more than an hour on MTD with two cores.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from beside_anomalib import LAYERS, SIZE, Found, call, installed, numbers, run_model
from sets import FOLDERS

RECIPE = Path(__file__).parents[1] / "recipes" / "mvtec.yaml"
FEW = 200  # images up to which anomalib's AUPRO, which sorts all pixels at once, is asked


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--anomalib", default="", help="python of the environment that has anomalib")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for peers.csv")
    parser.add_argument("--sets", default="bottle,screw,mtd")
    parser.add_argument("--models", default="padim,patchcore")
    parser.add_argument("--coreset", type=float, default=0.1, help="share of features that PatchCore keeps")
    parser.add_argument("-s", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    if not installed(options.anomalib):
        print("left out: --anomalib names no python that has anomalib 2.7")
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    import pandas as pd

    from anomaly_ft.data.dataset import read_records

    options.output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    padim_levels = [f"gaussian.{part}_levels={json.dumps(LAYERS['padim'])}" for part in ("dense", "map")]
    for name in options.sets.split(","):
        root = Path(os.environ["ANOMALY_FT_DATA"]) / FOLDERS[name]
        records = [record for record in read_records(str(root)).records if record.split == "test"]
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            titles = ["ours", "ours, levels of PaDiM", *options.models.split(",")]
            for title in titles:
                if title.startswith("ours"):
                    levels = padim_levels if "PaDiM" in title else []
                    found = ours(root, work, [*levels, *options.settings])
                else:
                    python, encoder = options.anomalib, work / "encoder"
                    found = run_model(python, root, encoder, work, title, coreset=options.coreset)
                row: dict[str, Any] = {"set": name, "model": title}
                row |= numbers(records, found.scores, found.maps)
                if len(records) <= FEW:
                    row |= counted_by_both(records, found.maps, options.anomalib, work)
                row["seconds"] = found.seconds
                print(json.dumps(row), file=sys.stderr, flush=True)
                rows.append(row)
                pd.DataFrame(rows).to_csv(options.output / "peers.csv", index=False)
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.4f"))


def ours(root: Path, work: Path, settings: list[str]) -> Found:
    """Scores and maps of the test images by our detector; leaves its encoder in `work`."""
    from anomaly_ft.finetune.watch import fit
    from anomaly_ft.model.inference import examine
    from anomaly_ft.recipe.read import read_recipe
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.setup import prepare

    recipe = read_recipe(RECIPE, [f"data.root={root}", "tracking.mlflow=false", *settings])
    started = time.process_time()
    setup = prepare(recipe, Terminal())
    found = examine(fit(setup), setup.data.test.pixels, setup.compute)
    seconds = time.process_time() - started
    setup.encoder.save(work / "encoder")
    return Found(found.scores[recipe.gaussian.score], found.dense, seconds)


def counted_by_both(records: Any, maps: Any, python: str, work: Path) -> dict[str, float]:
    """AUPRO at 224 pixels by our counter and by anomalib's."""
    from anomaly_ft.data.images import Decoder, read_mask, resize_mask
    from anomaly_ft.metrics import PixelCounts
    from anomaly_ft.model.maps import upsample

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
