"""The sets that several benchmarks measure on, by name."""

import os
from collections.abc import Callable, Sequence

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
