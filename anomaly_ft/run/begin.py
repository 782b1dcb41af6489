"""Write what identifies an unfinished run: its recipe, its split, its MLflow run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from anomaly_ft.data.corruption import read_textures
from anomaly_ft.data.pixels import sides
from anomaly_ft.run.setup import Setup
from anomaly_ft.system.files import write_json, write_text

# files beside the checkpoint of an unfinished run, by the key whose images they have the hash of
SHOWN = {"filter.textures": "textures.txt", "data.known_defects": "known_defects.txt"}


def write_start(partial: Path, setup: Setup) -> None:
    """Write what identifies a run, before anything takes time."""
    write_text(partial / "split.csv", split_table(setup))
    write_text(partial / "recipe.yaml", setup.recipe.to_yaml())
    for key, digest in shown_digests(setup).items():
        (partial / "checkpoint").mkdir(exist_ok=True)
        write_text(partial / "checkpoint" / SHOWN[key], digest)


def split_table(setup: Setup) -> str:
    """Tabulate which image is in which split, as CSV."""
    return str(pd.DataFrame(setup.data.manifest()).to_csv(index=False, lineterminator="\n"))


def split_digest(setup: Setup) -> str:
    """Hash which image is in which split (BLAKE2b), in whatever order they are listed."""
    rows = "\n".join(sorted(split_table(setup).splitlines()))
    return hashlib.blake2b(rows.encode(), digest_size=16).hexdigest()


def shown_digests(setup: Setup) -> dict[str, str]:
    """Hash (BLAKE2b) the images that a run is shown beside its data set, as it is shown them, by the key of the
    recipe that names their folder."""
    shown = {"data.known_defects": setup.known.pixels} if setup.known else {}
    if folder := setup.recipe.filter.textures:
        shown["filter.textures"] = read_textures(folder, sides(setup.recipe.data.image_size)[0])
    return {
        key: hashlib.blake2b(np.ascontiguousarray(images).data, digest_size=16).hexdigest()
        for key, images in shown.items()
    }


def digests_then(partial: Path) -> dict[str, str]:
    """Read those hashes as they were when an unfinished run began."""
    files = {key: partial / "checkpoint" / name for key, name in SHOWN.items()}
    return {key: path.read_text(encoding="utf-8") for key, path in files.items() if path.is_file()}


def remember_run(partial: Path, run_id: str | None) -> None:
    """Keep the MLflow run's id from the beginning on."""
    if run_id and run_id != remembered_run(partial):
        (partial / "checkpoint").mkdir(exist_ok=True)
        write_json(partial / "checkpoint" / "run.json", {"mlflow_run_id": run_id})


def remembered_run(partial: Path) -> str | None:
    """Read the MLflow run's id, if there was one."""
    try:
        run_id = json.loads((partial / "checkpoint" / "run.json").read_text(encoding="utf-8"))["mlflow_run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run_id if isinstance(run_id, str) else None
