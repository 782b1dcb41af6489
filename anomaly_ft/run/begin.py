"""Write what identifies an unfinished run: its recipe, its split, its MLflow run."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from anomaly_ft.data.corruption import read_textures
from anomaly_ft.data.known_defects import known_digest
from anomaly_ft.data.pixels import sides
from anomaly_ft.run.setup import Setup
from anomaly_ft.system.files import write_json, write_text

KNOWN = "known_defects.txt"
TEXTURES = "textures.txt"  # beside the checkpoint of an unfinished run


def write_start(partial: Path, setup: Setup) -> None:
    """Write what identifies a run, before anything takes time."""
    write_text(partial / "split.csv", split_table(setup))
    write_text(partial / "recipe.yaml", setup.recipe.to_yaml())
    if setup.recipe.filter.textures:
        (partial / "checkpoint").mkdir(exist_ok=True)
        write_text(partial / "checkpoint" / TEXTURES, textures_digest(setup))
    if setup.known:
        (partial / "checkpoint").mkdir(exist_ok=True)
        write_text(partial / "checkpoint" / KNOWN, known_digest(setup.known))


def split_table(setup: Setup) -> str:
    """Tabulate which image is in which split, as CSV."""
    return str(pd.DataFrame(setup.data.manifest()).to_csv(index=False, lineterminator="\n"))


def split_digest(setup: Setup) -> str:
    """Hash which image is in which split (BLAKE2b), in whatever order they are listed."""
    rows = "\n".join(sorted(split_table(setup).splitlines()))
    return hashlib.blake2b(rows.encode(), digest_size=16).hexdigest()


def textures_digest(setup: Setup) -> str:
    """Hash the user's textures (BLAKE2b), as a filter is shown them."""
    textures = read_textures(setup.recipe.filter.textures, sides(setup.recipe.data.image_size)[0])
    return hashlib.blake2b(np.ascontiguousarray(textures).data, digest_size=16).hexdigest()


def textures_then(partial: Path) -> str | None:
    """Read the hash of the textures that an unfinished run began with; None where it has none."""
    return _then(partial / "checkpoint" / TEXTURES)


def known_then(partial: Path) -> str | None:
    """Read the hash of the known defects that an unfinished run began with; None where it has none."""
    return _then(partial / "checkpoint" / KNOWN)


def _then(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


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
