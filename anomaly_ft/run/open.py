"""Open a finished run: its recipe, its summary, its detector."""

from pathlib import Path
from typing import Any

from anomaly_ft.data.pixels import RESIZE_OF
from anomaly_ft.errors import RunError
from anomaly_ft.model.loading import LoadedRun, load_run
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe


def open_run(folder: Path) -> tuple[Recipe, LoadedRun]:
    """The resolved recipe of a run folder, and its detector computing as the recipe says.

    Raises:
        RunError: a folder that is not a finished run.
    """
    if not (folder / "recipe.yaml").is_file():
        raise RunError(f"{folder} is not a finished run: there is no recipe.yaml")
    recipe = read_recipe(folder / "recipe.yaml", check_root=False)
    here = recipe.runtime.model_copy(update={"cache_dir": ""})  # a run does not say where others write
    recipe = recipe.model_copy(update={"runtime": here})
    return recipe, load_run(folder, **recipe.runtime.computing(), preprocessing=preprocessing(recipe))


def preprocessing(recipe: Recipe) -> dict[str, Any]:
    """How the run read its images, for `load_run`."""
    return {"resize": RESIZE_OF[recipe.data.resize], "range": recipe.data.range}
