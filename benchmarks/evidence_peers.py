"""anomalib's models in `evidence.py`: each is fitted once, and tested clean and varied. Not a benchmark itself.

How anomalib's environment is made stands in `beside_anomalib.py`. EfficientAD is not among the models: its
teacher is a net of its own, and neither that nor the images it needs beside ours come with the package.
"""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from beside_anomalib import numbers, run_model
from evidence_run import about
from peers import placed, write_varied

from anomaly_ft.data.dataset import read_records
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.encoder.weights import resolve_source
from anomaly_ft.recipe.schema import Recipe

# by title: the model, and the share of features that PatchCore keeps; those that end soon come first
MODELS = {
    "PaDiM": ("padim", 0.1),
    "PatchCore, 1 %": ("patchcore", 0.01),
    "STFPM, 100 epochs": ("stfpm", 0.1),
    "PatchCore, 10 %": ("patchcore", 0.1),
}
DINO = "AnomalyDINO"  # for a transformer of that family; see `encoders.py`


def run_peer(recipe: Recipe, title: str, python: str, limit: float) -> dict[str, Any]:
    """Measure one of `MODELS`, or `DINO`, on a set; where it does not end within `limit` seconds the row says
    so."""
    records = [record for record in read_records(recipe.data.root).records if record.split == "test"]
    records.sort(key=placed)
    model, coreset = {**MODELS, DINO: ("anomaly_dino", 1.0)}[title]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        clean, varied = as_folder(recipe, work / "clean"), work / "varied"
        write_varied(recipe, clean, varied)
        encoder = write_encoder(recipe, work / recipe.encoder.name)
        asked = {"coreset": coreset, "seed": recipe.seed, "limit": limit, "size": recipe.data.image_size}
        started = time.perf_counter()
        try:
            found, changed = run_model(python, [clean, varied], encoder, model, **asked)
        except subprocess.TimeoutExpired:
            return about() | {"outcome": f"did not end in {limit / 60:.0f} minutes"}
        except subprocess.CalledProcessError as failed:
            return about() | {"outcome": f"failed with exit code {failed.returncode}"}
        minutes = (time.perf_counter() - started) / 60
    measured = numbers(records, found.scores, found.maps)
    anomalous = [record.anomalous for record in records]
    return about() | {
        "outcome": "ended",
        "auroc.fused": measured.pop("image_auroc"),  # it has one score, which stands beside our fused one
        "varied.auroc.fused": image_auroc(anomalous, changed.scores),
        **measured,
        "cpu_seconds": found.seconds,
        "minutes": minutes,
        "ms_image": found.ms_image,
        "peak_mib": changed.peak_mib,
    }


def as_folder(recipe: Recipe, folder: Path) -> Path:
    """Give the set as a folder that is laid out as MVTec AD; images of a package are copied into `folder`."""
    root = Path(recipe.data.root)
    if root.is_dir():
        return root
    for record in read_records(recipe.data.root).records:
        path = folder / placed(record)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(record.path, path)
    return folder


def write_encoder(recipe: Recipe, folder: Path) -> Path:
    """Write the pretrained encoder in timm's layout; the folder."""
    section, data = recipe.encoder, recipe.data
    weights = resolve_source(section.name, section.weights)
    load_encoder(section.name, weights, image_size=data.image_size).save(folder, resize=data.resize)
    return folder
