"""What several commands need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

# exit codes beside 0 done, 1 a bug, 2 something the user can mend
ANOMALY, DIVERGED, FAILED_RUNS, DISAGREES = 3, 4, 5, 6


def echo_summary(folder: str) -> None:
    """`summary.json` on one line."""
    click.echo(json.dumps(json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))))


def quieten_libraries() -> None:
    """Silence libraries' chatter that a user can do nothing about; called after they are imported."""
    import logging
    import warnings

    for name in ("lightning_fabric", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")  # from half the limit on


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--output` and `--store`: which MLflow store is meant."""
    output = click.option(
        "--output",
        type=click.Path(path_type=Path),
        default=Path("runs"),
        show_default=True,
        help="The output folder of train, whose database is the store when no other is named.",
    )
    store = click.option(
        "--store", metavar="URI", help="MLflow server or database; unset: MLFLOW_TRACKING_URI, else --output's."
    )
    return output(store(command))
