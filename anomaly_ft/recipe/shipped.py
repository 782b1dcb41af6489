"""Recipes that come with the package, by name."""

import sysconfig
from pathlib import Path

from anomaly_ft.errors import RecipeError, did_you_mean

BESIDE = Path(__file__).parents[2] / "recipes"  # in a clone of the repository
SHARE = Path("share", "anomaly_ft", "recipes")
INSTALLED = sysconfig.get_path("data") / SHARE
FOR_USER = sysconfig.get_path("data", sysconfig.get_preferred_scheme("user")) / SHARE  # pip install --user


def shipped_recipes() -> dict[str, Path]:
    """Find the files by name, such as `quickstart`."""
    clone = BESIDE.is_dir() and (BESIDE.parent / "setup.cfg").is_file()  # not what some other wheel left there
    folder = BESIDE if clone else INSTALLED if INSTALLED.is_dir() else FOR_USER
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
