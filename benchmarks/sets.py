"""The sets that several benchmarks measure on, by name."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import product

FOLDERS = {"mtd": "mtd", "screw": "mvtec_screw", "bottle": "mvtec_bottle"}
DEMOS = {"elpv-mono": "demo:elpv-mono", "elpv-poly": "demo:elpv-poly"}


def roots_of(names: Sequence[str], say: Callable[[str], None]) -> dict[str, str]:
    """Where the images of each set are, in the order asked for; a set below $ANOMALY_FT_DATA is left out,
    and `say` is told so, where that is not set."""
    data = os.environ.get("ANOMALY_FT_DATA")
    roots = DEMOS | ({name: f"{data}/{folder}" for name, folder in FOLDERS.items()} if data else {})
    for name in names:
        if name not in roots:
            say(f"{name} is left out: ANOMALY_FT_DATA is not set, or it is none of the sets")
    return {name: roots[name] for name in names if name in roots}


def splits(
    names: str, seeds: int, settings: Sequence[str], say: Callable[[str], None]
) -> Iterator[tuple[str, int, list[str]]]:
    """Each seed of each set of a list with commas, and the settings of its recipe, `settings` last."""
    for seed, (name, root) in product(range(seeds), roots_of(names.split(","), say).items()):
        yield name, seed, [f"data.root={root}", f"seed={seed}", "tracking.mlflow=false", *settings]
