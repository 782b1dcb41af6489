"""The sets that several benchmarks measure on, by name, and the loop over sets and seeds that they share.

The folders lie below $ANOMALY_FT_DATA, or below the folder given with `--data`, each laid out like MVTec AD;
the ELPV cells come with the extra `demo`. A set that is not there is left out, and the benchmark says so.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import click

from anomaly_ft.errors import AnomalyFtError
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "mvtec.yaml"
FOLDERS = {
    "mtd": "mtd",
    "screw": "mvtec_screw",
    "bottle": "mvtec_bottle",
    "macaroni1": "visa_macaroni1",
    "kolektor": "kolektor",
    "ballscrew": "bsdata_ballscrew",
}
DEMOS = {"elpv-mono": "demo:elpv-mono", "elpv-poly": "demo:elpv-poly"}
COMMON = "mtd,screw,bottle,elpv-mono,elpv-poly"  # those that RESULTS.md has tables of
MISSING = 3  # exit code of a benchmark that lacks another program; 2 is a mistake in the command


class Cell(NamedTuple):
    """A set, a seed, and the recipe of their run."""

    name: str
    seed: int
    recipe: Recipe


def grid_options(*, sets: str, seeds: int, seeds_of: str = "of the split") -> Callable[[Any], Any]:
    """Decorate a click command with `--output`, `--data`, `--sets`, `--seeds` and `-s`."""
    options = (
        click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for results."),
        click.option("--data", default="", help="Folder of the sets; default: $ANOMALY_FT_DATA."),
        click.option("--sets", default=sets, show_default=True, help=f"Of {', '.join([*FOLDERS, *DEMOS])}."),
        click.option("--seeds", default=seeds, show_default=True, help=f"Seeds 0, 1, … {seeds_of}."),
        click.option("-s", "settings", multiple=True, metavar="KEY=VALUE", help="Changes the recipe."),
    )

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def label_of(settings: Sequence[str]) -> str:
    """Name changed settings in a table; the number of threads changes no result."""
    return " ".join(s for s in settings if not s.startswith("expert.runtime.threads=")) or "default"


def roots_of(names: str, data: str, say: Callable[[str], None]) -> dict[str, str]:
    """Find where the images of each set are, in the order of `names`, a list with commas.

    Raises:
        click.BadParameter: a name that is none of the sets.
        click.ClickException: none of the sets is there.
    """
    roots = {}
    folder = data or os.environ.get("ANOMALY_FT_DATA", "")
    for name in names.split(","):
        if name not in FOLDERS | DEMOS:
            raise click.BadParameter(f"no set {name!r}; expected some of {', '.join([*FOLDERS, *DEMOS])}")
        root = DEMOS.get(name) or str(Path(folder) / FOLDERS[name])
        if name in DEMOS or (folder and Path(root).is_dir()):
            roots[name] = root
        else:
            say(f"{name} is left out: no folder {FOLDERS[name]} below --data or $ANOMALY_FT_DATA")
    if not roots:
        raise click.ClickException(f"none of the sets {names} is there")
    return roots


def grid(
    names: str, seeds: int, settings: Sequence[str], *, data: str, say: Callable[[str], None]
) -> Iterator[Cell]:
    """Yield each set for seed 0, then for seed 1, …, with the recipe `settings` change."""
    for seed, (name, root) in product(range(seeds), roots_of(names, data, say).items()):
        yield Cell(name, seed, recipe_for(root, [f"seed={seed}", *settings]))


def recipe_for(root: str, settings: Sequence[str]) -> Recipe:
    """Read the benchmarks' recipe for a data root, without MLflow; a mistake in `settings` ends the program."""
    try:
        return read_recipe(RECIPE, [f"data.root={root}", "tracking.mlflow=false", *settings])
    except AnomalyFtError as mistake:
        raise click.ClickException(str(mistake)) from None
