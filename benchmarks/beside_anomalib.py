"""anomalib beside this package: what `peers.py`, `interop.py` and `export.py` share. Not a benchmark itself.

anomalib has an environment of its own, because it pins what others need newer:

    python -m venv venv-anomalib && venv-anomalib/bin/pip install "anomalib==2.7.*"

The benchmarks import this file; in anomalib's environment it runs as a program, one job after another, and
leaves arrays in a folder. Each model is fitted and run as its own users do, by an Engine on a Folder: all
normal images of `train/good` are fitted, images are stretched to 224 pixels and normalised for the encoder.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from speed_parts.memory import peak_mib

ABSENT = "left out: --anomalib names no python that has anomalib 2.7"
LAYERS = {
    "padim": ["blocks.1", "blocks.2", "blocks.4"],
    "patchcore": ["blocks.2", "blocks.4"],
    "stfpm": ["blocks.1", "blocks.2", "blocks.4"],
}
EPOCHS = {"stfpm": 100}  # as in its paper; which one is best nobody asks of test images
SIZE = 224


class Found(NamedTuple):
    """Scores `(n,)` and maps `(n, size, size)` of the test images in the order of their paths; seconds of
    processor time for fitting and testing, decoding included, milliseconds of it to test an image, and the MiB
    that the process took at most."""

    scores: Any
    maps: Any
    seconds: float
    ms_image: float = np.nan
    peak_mib: float = np.nan


def installed(python: str) -> bool:
    """Is this the python of an environment that has anomalib 2.7?"""
    code = "from importlib.metadata import version; assert version('anomalib').startswith('2.7.')"
    found = shutil.which(python) if python else None
    return bool(found) and not subprocess.run([found, "-c", code], capture_output=True, check=False).returncode


def run_model(
    python: str,
    roots: Sequence[Path],
    encoder: Path,
    model: str,
    *,
    coreset: float = 0.1,
    seed: int = 0,
    size: int = SIZE,
    limit: float | None = None,
) -> list[Found]:
    """Fit `padim`, `patchcore`, `stfpm` or `anomaly_dino` on an encoder in timm's layout to the first of the
    folders, and test it on each of them, at so many pixels. What comes between is left beside the encoder.

    Raises:
        subprocess.TimeoutExpired: it took longer than `limit` seconds.
        subprocess.CalledProcessError: it failed.
    """
    work = encoder.resolve().parent
    job = {"task": "model", "roots": [str(root.absolute()) for root in roots], "work": str(work)}
    job |= {"encoder": str(encoder.resolve()), "model": model, "coreset": coreset, "seed": seed, "size": size}
    call(python, job, limit)
    found = []
    for place in range(len(roots)):
        with np.load(work / f"found-{place}.npz") as left:
            numbers_left = [float(left[name]) for name in Found._fields[2:]]
            found.append(Found(left["scores"], left["maps"], *numbers_left))
    return found


def export_padim(python: str, root: Path, encoder: Path, work: Path) -> Path:
    """The ONNX file that anomalib's own export makes of a fitted `padim`; it normalises within."""
    call(python, {"task": "export", "root": str(root), "work": str(work), "encoder": str(encoder.resolve())})
    return work / "weights" / "onnx" / "model.onnx"


def call(python: str, job: dict[str, Any], limit: float | None = None) -> str:
    """What the last line says that this file prints as a program in anomalib's environment."""
    command = [python, __file__, json.dumps(job)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=job["work"], timeout=limit
    )
    return done.stdout.strip().splitlines()[-1]


def numbers(records: Any, scores: Any, maps: Any) -> dict[str, float]:
    """Image AUROC, pixel AUROC and AUPRO; maps `(n, size, size)` are counted at the masks' own size, by one
    counter for all."""
    from anomaly_ft.data.images import Decoder
    from anomaly_ft.evaluation.localisation import localise
    from anomaly_ft.metrics import image_auroc

    found = localise(records, {"anomaly": maps}, Decoder(maps.shape[-1])).numbers
    pixels = {name: float(found[name] or np.nan) for name in ("pixel_auroc", "pixel_aupro")}
    return {"image_auroc": image_auroc([record.anomalous for record in records], scores), **pixels}


def _model(
    roots: list[str], work: str, encoder: str, model: str, *, coreset: float, seed: int, size: int
) -> None:
    """In anomalib's environment: fit, test, and leave scores, maps and what they cost in `work`."""
    from anomalib.engine import Engine

    made, data = _made(Path(roots[0]), Path(encoder), model, coreset=coreset, seed=seed, size=size)
    trains = {"max_epochs": EPOCHS[model]} if model in EPOCHS else {}
    engine = Engine(
        accelerator="cpu", devices=1, logger=False, limit_val_batches=0, default_root_dir=work, **trains
    )
    started = time.process_time()
    engine.fit(made, datamodule=data)
    fitted = time.process_time() - started
    for place, root in enumerate(roots):
        data = _images(Path(root))
        started = time.process_time()
        data.setup("test")
        batches = engine.predict(made, dataloaders=data.test_dataloader())
        seconds = time.process_time() - started
        paths = [path for batch in batches for path in batch.image_path]
        order = np.argsort([str(Path(path).relative_to(root)) for path in paths])
        scores = np.concatenate([np.asarray(batch.pred_score.float()).ravel() for batch in batches])
        maps = np.concatenate([np.asarray(b.anomaly_map.float()).reshape(-1, size, size) for b in batches])
        about = {"seconds": fitted + seconds, "ms_image": 1000 * seconds / len(paths), "peak_mib": peak_mib()}
        np.savez(Path(work) / f"found-{place}.npz", scores=scores[order], maps=maps[order], **about)
    print("done")


def _export(root: str, work: str, encoder: str) -> None:
    """In anomalib's environment: fit PaDiM and write it as ONNX."""
    from anomalib.engine import Engine

    made, data = _made(Path(root), Path(encoder), "padim")
    engine = Engine(accelerator="cpu", devices=1, logger=False, limit_val_batches=0, default_root_dir=work)
    engine.fit(made, datamodule=data)
    made.to_onnx(work, input_size=(SIZE, SIZE), opset_version=18)
    print("done")


def _made(
    folder: Path, encoder: Path, model: str, *, coreset: float = 0.1, seed: int = 0, size: int = SIZE
) -> tuple[Any, Any]:
    from anomalib.models import AnomalyDINO, Padim, Patchcore, Stfpm
    from anomalib.pre_processing import PreProcessor
    from lightning import seed_everything
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    seed_everything(seed)  # which channels PaDiM keeps, where PatchCore's coreset begins
    data = _images(folder)
    about = json.loads((encoder / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    steps = [Resize((size, size), antialias=True), Normalize(mean=about["mean"], std=about["std"])]
    plain: dict[str, Any] = {"post_processor": False, "evaluator": False, "visualizer": False}
    plain |= {"pre_processor": PreProcessor(transform=Compose(steps))}
    if model == "anomaly_dino":  # the folder's name has to say that it is one, and how large
        return AnomalyDINO(**plain, encoder_name=f"local-dir:{encoder}"), data
    plain |= {"layers": LAYERS[model], "backbone": f"local-dir:{encoder}"}
    if model == "padim":
        return Padim(**plain, n_features=100), data
    if model == "stfpm":
        return Stfpm(**plain), data
    return Patchcore(**plain, coreset_sampling_ratio=coreset), data


def _images(folder: Path) -> Any:
    from anomalib.data import Folder

    kinds = sorted(p.name for p in (folder / "test").iterdir() if p.name != "good")
    return Folder(  # without masks, which it stacks as they are and fails where they differ in size
        name="peer", root=folder, normal_dir="train/good", normal_test_dir="test/good",
        abnormal_dir=[f"test/{kind}" for kind in kinds],
        val_split_mode="same_as_test",
        num_workers=0,
    )  # fmt: skip


def _aupro(work: str) -> None:
    """In anomalib's environment: print its AUPRO of the maps and masks that lie in `work`."""
    import torch
    from anomalib.metrics.aupro import _AUPRO

    with np.load(Path(work) / "maps.npz") as found:
        metric = _AUPRO()
        metric.update(torch.from_numpy(found["maps"]), torch.from_numpy(found["masks"].astype(np.int64)))
        print(float(metric.compute()))


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    {"model": _model, "export": _export, "aupro": _aupro}[asked.pop("task")](**asked)
