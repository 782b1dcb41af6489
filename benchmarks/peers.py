"""The frozen detector beside anomalib's PaDiM and PatchCore: same encoder, image size and machine.

    python -m venv venv-anomalib && venv-anomalib/bin/pip install "anomalib==2.7.*"
    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results
    python benchmarks/peers.py --anomalib venv-anomalib/bin/python --output results --sets bottle --models padim

anomalib has an environment of its own, because it pins what others need newer; where it is not installed
nothing is measured, and that is said. Each model is fitted and run as its own users do: ours like
`anomaly-ft train` before its first epoch (70 % of the normal images fitted, the others held back for scale
and threshold), anomalib's by its Engine on a Folder (all normal images fitted). Images are squashed to 224
pixels and normalised as the encoder wants. Ours is measured with the default recipe and with the levels that
PaDiM is used with (strides 4, 8 and 16).

Maps are counted at the masks' own size, by the same counter for all. To check that counter, anomalib's
AUPRO measures the same maps once more at 224 pixels: `aupro 224` is ours, `anomalib aupro 224` theirs.
Seconds are for fitting and testing, decoding included, imports not.

Sets: MVTec bottle and screw, and MTD, below $ANOMALY_FT_DATA. PatchCore keeps a share of all features,
`--coreset`; a tenth is customary and takes more than an hour on MTD with two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FOLDERS = {"bottle": "mvtec_bottle", "screw": "mvtec_screw", "mtd": "mtd"}
LAYERS = {"padim": ["blocks.1", "blocks.2", "blocks.4"], "patchcore": ["blocks.2", "blocks.4"]}
RECIPE = Path(__file__).parents[1] / "recipes" / "mvtec.yaml"
SIZE = 224
FEW = 200  # images up to which anomalib's AUPRO, which sorts all pixels at once, is asked


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--anomalib", default="", help="python of the environment that has anomalib")
    parser.add_argument("--output", type=Path, default=Path(), help="folder for peers.csv")
    parser.add_argument("--sets", default="bottle,screw,mtd")
    parser.add_argument("--models", default="padim,patchcore")
    parser.add_argument("--coreset", type=float, default=0.1, help="share of features that PatchCore keeps")
    parser.add_argument("-s", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        {"model": run_anomalib, "aupro": run_aupro}[job.pop("task")](**job)
    elif not installed(options.anomalib):
        print("left out: --anomalib names no python that has anomalib 2.7")
    else:
        compare(options)


def installed(python: str) -> bool:
    code = "from importlib.metadata import version; assert version('anomalib').startswith('2.7.')"
    return (
        bool(python) and not subprocess.run([python, "-c", code], capture_output=True, check=False).returncode
    )


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
                    scores, maps, more = ours(root, work, padim_levels if "PaDiM" in title else [])
                else:
                    scores, maps, more = theirs(options, root, work, title)
                row = {"set": name, "model": title, **numbers(records, scores, maps, options, work), **more}
                print(json.dumps(row), file=sys.stderr, flush=True)
                rows.append(row)
                pd.DataFrame(rows).to_csv(options.output / "peers.csv", index=False)
    print(pd.DataFrame(rows).to_string(index=False, float_format="%.4f"))


def ours(root: Path, work: Path, settings: list[str]) -> tuple[Any, Any, dict[str, float]]:
    """Scores and maps of the test images by our detector; leaves its encoder in `work`."""
    from anomaly_ft.model.examine import examine
    from anomaly_ft.recipe_file import read_recipe
    from anomaly_ft.run import fit
    from anomaly_ft.setup import prepare
    from anomaly_ft.terminal import Terminal

    recipe = read_recipe(RECIPE, [f"data.root={root}", "tracking.mlflow=false", *settings])
    started = time.perf_counter()
    setup = prepare(recipe, Terminal())
    found = examine(fit(setup), setup.data.test.pixels, setup.compute)
    seconds = time.perf_counter() - started
    setup.encoder.save(work / "encoder")
    return found.scores[recipe.gaussian.score], found.dense, {"seconds": seconds}


def theirs(
    options: argparse.Namespace, root: Path, work: Path, model: str
) -> tuple[Any, Any, dict[str, float]]:
    """Scores and maps of the test images, in the order of our records, by anomalib."""
    job = {"task": "model", "root": str(root), "work": str(work), "model": model, "coreset": options.coreset}
    call(options.anomalib, job)
    with np.load(work / "found.npz") as found:
        return found["scores"], found["maps"], {"seconds": float(found["seconds"])}


def call(python: str, job: dict[str, Any]) -> str:
    """What the last line says that this file prints as a worker in anomalib's environment."""
    command = [python, __file__, "--worker", json.dumps(job)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=job["work"])
    return done.stdout.strip().splitlines()[-1]


def numbers(records: Any, scores: Any, maps: Any, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    from anomaly_ft.data.images import Decoder, read_mask, resize_mask
    from anomaly_ft.evaluation.localisation import localise
    from anomaly_ft.metrics import PixelCounts, image_auroc
    from anomaly_ft.model.maps import upsample

    decoder = Decoder(SIZE)
    found = localise(records, maps, maps, decoder).numbers
    result: dict[str, Any] = {"image_auroc": image_auroc([record.anomalous for record in records], scores)}
    result |= {name: found[name] for name in ("pixel_auroc", "pixel_aupro")}
    if len(records) > FEW:
        return result
    large = np.stack([upsample(each, SIZE, SIZE, decoder) for each in maps])
    masks = np.zeros(large.shape, bool)
    for i, record in enumerate(records):
        if record.mask:
            masks[i] = resize_mask(read_mask(record.mask), SIZE, "squash")
    counts = PixelCounts()
    for one, mask in zip(large, masks, strict=True):
        counts.add(one, mask)
    np.savez(work / "maps.npz", maps=large, masks=masks)
    theirs = call(options.anomalib, {"task": "aupro", "work": str(work)})
    return result | {"aupro 224": counts.numbers()["pixel_aupro"], "anomalib aupro 224": float(theirs)}


def run_anomalib(root: str, work: str, model: str, coreset: float) -> None:
    """In anomalib's environment: fit, test, and leave scores, maps and seconds in `work`."""
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.models import Padim, Patchcore
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    folder = Path(root)
    kinds = sorted(p.name for p in (folder / "test").iterdir() if p.name != "good")
    data = Folder(
        name="peer", root=folder, normal_dir="train/good", normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds], mask_dir=[f"ground_truth/{kind}" for kind in kinds],
        val_split_mode="same_as_test",
        num_workers=0,
    )  # fmt: skip
    about = json.loads((Path(work) / "encoder" / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    steps = [Resize((SIZE, SIZE), antialias=True), Normalize(mean=about["mean"], std=about["std"])]
    plain: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}
    plain |= {"pre_processor": PreProcessor(transform=Compose(steps)), "layers": LAYERS[model]}
    plain |= {"backbone": f"local-dir:{work}/encoder"}
    made = (
        Padim(**plain, n_features=100)
        if model == "padim"
        else Patchcore(**plain, coreset_sampling_ratio=coreset)
    )
    engine = Engine(accelerator="cpu", devices=1, logger=False, limit_val_batches=0, default_root_dir=work)
    started = time.perf_counter()
    engine.fit(made, datamodule=data)
    data.setup("test")
    batches = engine.predict(made, dataloaders=data.test_dataloader())
    seconds = time.perf_counter() - started
    paths = [path for batch in batches for path in batch.image_path]
    order = np.argsort([str(Path(path).relative_to(folder)) for path in paths])
    scores = np.concatenate([np.asarray(batch.pred_score.float()).ravel() for batch in batches])
    maps = np.concatenate([np.asarray(b.anomaly_map.float()).reshape(-1, SIZE, SIZE) for b in batches])
    np.savez(
        Path(work) / "found.npz",
        scores=scores[order], maps=maps[order], seconds=seconds, paths=np.array(paths)[order],
    )  # fmt: skip


def run_aupro(work: str) -> None:
    """In anomalib's environment: print its AUPRO of the maps and masks that lie in `work`."""
    import torch
    from anomalib.metrics.aupro import _AUPRO

    with np.load(Path(work) / "maps.npz") as found:
        metric = _AUPRO()
        metric.update(torch.from_numpy(found["maps"]), torch.from_numpy(found["masks"].astype(np.int64)))
        print(float(metric.compute()))


if __name__ == "__main__":
    main()
