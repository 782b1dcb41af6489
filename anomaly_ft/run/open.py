"""Open finished runs, the one place that knows which folders are one and what a run holds.

A run is written aside and renamed when it is complete, so a finished run is a folder whose name does not begin
with a dot and that has all of `FILES` and an encoder. The detector alone, without its run, is opened by
`model.loading`.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from anomaly_ft.errors import RunError
from anomaly_ft.model.loading import LoadedRun, load_run
from anomaly_ft.model.run_encoder import SharedEncoder
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.run_summary import RunSummary
from anomaly_ft.tracking.store import choose_store, existing

FILES = ("recipe.yaml", "summary.json", "history.jsonl", "detector.json", "detector.safetensors")
ENCODERS = ("encoder", "adapter")  # one of them
Epoch = tuple[int, dict[str, float | None]]  # its number, and its metrics by name
SHOWN = 3  # mistakes of a summary in one message


def is_finished(folder: Path) -> bool:
    """Tell whether a folder is a finished run: all files are there, and it is not being written any more."""
    return not _why_unfinished(folder)


def refuse_unfinished(folder: Path) -> None:
    """Raise a RunError that names what is missing, unless the folder is a finished run."""
    if why := _why_unfinished(folder):
        raise RunError(f"{folder} is not a finished run: {why}")


def finished_runs(folder: Path) -> list[Path]:
    """List the finished runs in a folder, by name; none where it cannot be read."""
    try:
        return [path for path in sorted(folder.iterdir()) if is_finished(path)]
    except OSError:
        return []


def open_recipe(folder: Path) -> Recipe:
    """Read the resolved recipe of a finished run; its data may have moved.

    Raises:
        RunError: a folder that is not a finished run.
        RecipeError: a recipe that this version cannot read.
    """
    refuse_unfinished(folder)
    return read_recipe(folder / "recipe.yaml", check_root=False)


def open_summary(folder: Path) -> RunSummary:
    """Read `summary.json` of a finished run.

    Raises:
        RunError: a folder that is not a finished run, a summary that is damaged or not of a run.
    """
    refuse_unfinished(folder)
    try:
        return RunSummary.model_validate_json((folder / "summary.json").read_bytes())
    except ValidationError as cause:
        mistakes = [_mistake(error) for error in cause.errors(include_url=False, include_context=False)]
        more = f"; and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        text = "; ".join(mistakes[:SHOWN]) + more
        raise RunError(f"{folder} is not a finished run: no usable summary.json ({text:.300})") from cause
    except OSError as cause:
        raise RunError(f"{folder} is not a finished run: no usable summary.json ({cause})") from cause


def open_history(folder: Path) -> list[Epoch]:
    """Read the metrics of each epoch of a finished run, epoch 0 first.

    Raises:
        RunError: a folder that is not a finished run, a history that is damaged.
    """
    refuse_unfinished(folder)
    try:
        lines = (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
        return [(int(line["epoch"]), _points(line)) for line in map(json.loads, lines)]
    except Exception as cause:  # it may hold anything
        reason = f"{type(cause).__name__}: {cause}"
        raise RunError(f"{folder} is not a finished run: no usable history.jsonl ({reason:.200})") from cause


def open_run(folder: Path, shared: SharedEncoder | None = None) -> tuple[Recipe, LoadedRun]:
    """Open the resolved recipe of a finished run, and its detector computing as the recipe says; see
    `encoder_of` for what is `shared`.

    Raises:
        RunError: a folder that is not a finished run, or whose detector is damaged.
    """
    recipe = open_recipe(folder)
    here = recipe.runtime.model_copy(update={"cache_dir": ""})  # a run does not say where others write
    recipe = recipe.model_copy(update={"runtime": here})
    return recipe, load_run(folder, **recipe.runtime.computing(), shared=shared)


def open_exact(folder: Path) -> LoadedRun:
    """Open the detector of a finished run computing on the CPU in float32, as exports are compared with.

    Raises:
        RunError: as `open_run`.
    """
    refuse_unfinished(folder)
    return load_run(folder, device="cpu", precision="fp32", channels_last=False)


def _why_unfinished(folder: Path) -> str:
    """Say what keeps a folder from being a finished run; empty where nothing does."""
    try:
        if not folder.is_dir():
            return "there is no such folder"
        if folder.resolve().name.startswith("."):
            return "it was not written to its end; go on with train --resume"
        missing = [name for name in FILES if not (folder / name).exists()]
        if not any((folder / name).exists() for name in ENCODERS):
            missing.append(ENCODERS[0])
    except (OSError, RuntimeError, ValueError) as cause:  # no right to look, a loop of links
        return f"it cannot be read ({cause})"
    if not missing:
        return ""
    return f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"


def _mistake(error: Any) -> str:
    """Format one mistake in a summary: where, and what was expected there."""
    place = ".".join(map(str, error["loc"]))
    expected = "unknown key" if error["type"] == "extra_forbidden" else str(error["msg"])
    if not place:
        return expected
    return f"{place}: {expected}"


def _points(line: dict[str, Any]) -> dict[str, float | None]:
    return {key: None if value is None else float(value) for key, value in line.items() if "/" in key}


def store_of_run(folder: Path, named: str | None) -> str:
    """Find the MLflow store of a finished run: the one named, that of its recipe, MLFLOW_TRACKING_URI, or the
    database beside it.

    Raises:
        RunError: no finished run, or a database that is not there, which MLflow would make.
    """
    try:
        return existing(choose_store(named or open_recipe(folder).tracking.uri, folder.resolve().parent))
    except FileNotFoundError as cause:
        raise RunError(f"{cause}; name the MLflow store of the run with --store") from cause
