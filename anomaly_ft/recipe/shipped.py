"""Recipes that come with the package, by name."""

import sysconfig
from pathlib import Path

from anomaly_ft.errors import RecipeError, did_you_mean

BESIDE = Path(__file__).parents[2] / "recipes"  # in a clone of the repository
INSTALLED = Path(sysconfig.get_path("data"), "share", "anomaly_ft", "recipes")


def shipped_recipes() -> dict[str, Path]:
    """Find the files by name, such as `quickstart`."""
    folder = BESIDE if BESIDE.is_dir() else INSTALLED
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def shipped_recipe(name: str) -> str:
    """Read the text of one.

    Raises:
        RecipeError: there is none of that name.
    """
    recipes = shipped_recipes()
    if name not in recipes:
        known = ", ".join(recipes) or "none: the package was installed without them"
        raise RecipeError("--recipe", [f"no recipe {name!r}{did_you_mean(name, recipes)}; there are {known}"])
    return recipes[name].read_text(encoding="utf-8")
