"""Resume unfinished runs: find the one meant, and check that recipe and data have not changed."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anomaly_ft.errors import RunError
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.begin import digests_then, shown_digests, split_table
from anomaly_ft.run.folder import finished_name
from anomaly_ft.run.open import finished_runs
from anomaly_ft.run.setup import Setup

SAFE = ("schedule.max_epochs", "tracking", "runtime")  # what may change when a run goes on, under expert too
SHOWN = 10


def unfinished(output: Path, name: str) -> Path:
    """Find the newest folder in `output` of a run `name` that has not ended.

    Raises:
        RunError: there is none.
    """
    pattern = re.compile(rf"\.{re.escape(name)}-(\d+)\.partial")
    folders = {int(match[1]): p for p in _entries(output) if (match := pattern.fullmatch(p.name))}
    begun = {number: path for number, path in folders.items() if (path / "recipe.yaml").is_file()}
    if begun:
        return begun[max(begun)]
    ended = [p.name for p in finished_runs(output) if re.fullmatch(rf"{re.escape(name)}-\d+", p.name)]
    hint = f"; finished is {', '.join(sorted(ended)[-SHOWN:])}" if ended else ""
    raise RunError(
        f"--resume: there is no unfinished run of the name {name!r} in {output}{hint}; "
        "a new run is started without --resume"
    )


def refuse_changes(partial: Path, setup: Setup) -> None:
    """Raise a RunError that lists what is not as it was when the run began: settings, or the data."""
    before = read_recipe(partial / "recipe.yaml", check_root=False)
    settings = list(_changed(before, setup.recipe))
    if settings:
        raise RunError(
            f"--resume: {finished_name(partial)} was begun with another recipe:\n  "
            + "\n  ".join(settings)
            + "\nset back what changed, or start a new run without --resume; "
            f"only {', '.join(SAFE)} may change, "
            "the last two under expert too"
        )
    now_shown = shown_digests(setup)
    for key, digest in digests_then(partial).items():
        if digest != now_shown.get(key):
            section, field = key.split(".")
            folder = getattr(getattr(setup.recipe, section), field)
            raise RunError(
                f"--resume: {finished_name(partial)} was begun with other images in {folder} ({key}); bring "
                "them back, or start a new run without --resume"
            )
    if (partial / "split.csv").is_file():
        then = set((partial / "split.csv").read_text(encoding="utf-8").splitlines())
        now = set(split_table(setup).splitlines())
        lines = [f"- {line}" for line in sorted(then - now)] + [f"+ {line}" for line in sorted(now - then)]
        if lines:
            more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            raise RunError(
                f"--resume: {finished_name(partial)} was begun with other data (- then, + now):\n  "
                + "\n  ".join([*lines[:SHOWN], *more])
                + "\nbring back what is missing, or start a new run without --resume"
            )


def _entries(output: Path) -> list[Path]:
    try:
        return list(output.iterdir())
    except OSError:
        return []


def _changed(before: Recipe, now: Recipe) -> Iterator[str]:
    then: Mapping[str, Any] = before.flat()
    for key, value in now.flat().items():
        topic = key.removeprefix("expert.")
        safe = any(topic == name or topic.startswith(f"{name}.") for name in SAFE)
        if not safe and then.get(key) != value:
            yield f"{key}: {then.get(key)!r} -> {value!r}"
