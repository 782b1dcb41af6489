"""Options, exit codes and output that several commands share."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from anomaly_ft.data.checks.report import Report
    from anomaly_ft.run.console import Terminal

ANOMALY, DIVERGED, FAILED_RUNS, DISAGREES, UNDECIDED, INTERRUPTED = 3, 4, 5, 6, 7, 130
TILE = (
    "Look at images in overlapping tiles whose longer side has so many pixels; give that of the training "
    "images' files, before they were resized. For runs with free positions."
)
EXIT_CODES = {  # documentation is made from this
    0: "done",
    1: "a bug",
    2: "something you can mend",
    ANOMALY: "an anomaly was found (`predict --fail-on-anomaly`)",
    DIVERGED: "training diverged",
    FAILED_RUNS: "runs of a sweep failed",
    DISAGREES: "an export does not agree with its detector",
    UNDECIDED: "not every image got a decision (`predict --fail-on-anomaly`), whatever the others got",
    INTERRUPTED: "interrupted",
}


def echo_json(path: Path) -> None:
    """Print a JSON file on one line."""
    click.echo(json.dumps(json.loads(path.read_text(encoding="utf-8"))))


def look_at(root: str, layout: str, terminal: "Terminal", group_by: str = "") -> "Report":
    """Report what a folder holds, split as a recipe by `init` will, what numbers on it are worth, and what may
    differ between its parts."""
    from anomaly_ft.data.checks.report import inspect
    from anomaly_ft.data.splits import Shares
    from anomaly_ft.recipe.schema import Data
    from anomaly_ft.run.advice import with_advice
    from anomaly_ft.run.analyse import with_audit

    defaults = Data(root=".")  # of the recipe's defaults; whether there is a folder, `inspect` says better
    report = inspect(
        root,
        layout=layout,
        group_by=group_by,
        shares=Shares(defaults.val_share, defaults.calibration_share),
        threads=os.cpu_count() or 1,
        progress=terminal.track,
    )
    return with_advice(with_audit(report))


def quieten_libraries() -> None:
    """Silence libraries' chatter that a user can do nothing about; called after they are imported."""
    import logging
    import warnings

    for name in ("lightning_fabric", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")  # from half the limit on


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--output` and `--store`, which name the MLflow store."""
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
