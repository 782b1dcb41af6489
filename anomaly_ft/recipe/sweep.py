"""Expand a sweep file to its runs: categories x settings x seeds, each a whole recipe.

recipe: mvtec.yaml              # beside this file; what all runs start from
categories:                     # data.root of each
  bottle: data/bottle
  screw: data/screw
settings:                       # what else differs
  default: {}
  late blocks: {encoder.train_blocks: [blocks.5, blocks.6]}
seeds: [0, 1, 2]
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from anomaly_ft.errors import RecipeError
from anomaly_ft.recipe.read import read_recipe, read_yaml, validate
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.section import Section


class Resources(Section):
    """What one run is given where runs are spread over machines."""

    cpus: float = Field(default=1, ge=0)
    """Processor cores."""
    gpus: float = Field(default=0, ge=0)
    """Graphics processors; 0.5 lets two runs share one."""


class SweepSettings(Section):
    """The keys of a sweep file."""

    recipe: str = Field(min_length=1)
    """The recipe that all runs start from; a path relative to this file."""
    name: str = Field(default="sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Of the sweep, its folder and the MLflow run above all others."""
    categories: dict[str, str] = Field(default={})
    """Name to `data.root`; none: that of the recipe."""
    settings: dict[str, dict[str, Any]] = Field(default={})
    """Name to overrides with dotted keys; none: the recipe as it is."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each is a run of everything above."""
    resources: Resources = Resources()
    """What one run is given on Ray."""


@dataclass(frozen=True)
class Job:
    """One run of a sweep. `recipe.name` is its own, made of category, setting and seed."""

    category: str
    setting: str
    recipe: Recipe


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, in the order of the file."""

    name: str
    jobs: tuple[Job, ...]
    resources: Resources


def read_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file; `overrides` such as `schedule.max_epochs=2` go to every run.

    Raises:
        RecipeError: everything that is wrong with the file and with any of its runs, at once.
    """
    sweep = validate(SweepSettings, read_yaml(path), str(path))
    jobs, mistakes = [], []
    for category, setting, seed, overrides_of_run in _expand(sweep):
        words = [word for word in (category, setting) if word]
        try:
            recipe = read_recipe(path.parent / sweep.recipe, [*overrides, *overrides_of_run, f"seed={seed}"])
        except RecipeError as error:
            mistakes += [f"{'/'.join(words) or sweep.recipe}: {mistake}" for mistake in error.mistakes]
            continue
        name = "-".join(re.sub(r"[^A-Za-z0-9._-]+", "_", word) for word in (*words, f"seed{seed}"))
        jobs.append(Job(category, setting, recipe.model_copy(update={"name": name})))
    names = [job.recipe.name for job in jobs]
    mistakes += [f"{name}: {names.count(name)} runs have this name" for name in names if names.count(name) > 1]
    if mistakes:
        raise RecipeError(str(path), list(dict.fromkeys(mistakes)))
    return Sweep(sweep.name, tuple(jobs), sweep.resources)


def _expand(sweep: SweepSettings) -> Iterator[tuple[str, str, int, list[str]]]:
    """Expand the sweep to category, setting, seed and overrides of each run."""
    settings: Mapping[str, Mapping[str, Any]] = sweep.settings or {"": {}}
    for category, root in (sweep.categories or {"": ""}).items():
        for setting, changes in settings.items():
            overrides = [f"data.root={json.dumps(root)}"] if category else []
            overrides += [f"{key}={json.dumps(value, default=str)}" for key, value in changes.items()]
            for seed in sweep.seeds:
                yield category, setting, seed, overrides
