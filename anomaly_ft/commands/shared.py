"""What several commands need."""

import json
from pathlib import Path

import click

ANOMALY, DIVERGED = 3, 4  # exit codes beside 0 done, 1 a bug, 2 something the user can mend


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
