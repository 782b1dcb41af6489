"""Where the time of a whole `train` goes; every function that is named below counts for itself alone."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from anomaly_ft.run.run_summary import RunSummary
from speed_parts.clock import CLOCKS, Account, show


def train(options: argparse.Namespace) -> None:
    """Count the seconds of a run from its imports to its report."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Account(CLOCKS[options.clock], "everything else") as account,
    ):
        with account.within("import"):
            from anomaly_ft.run import train as run
            from anomaly_ft.tracking import model_registry  # what logging a model needs
            from speed_parts.prepared import prepare_run
            from speed_parts.watched import FORWARD, TRAINING, watch_training

            del model_registry
        watch_training(account)
        prepared = prepare_run(options, Path(folder), 120)
        prepared = replace(prepared, augment=account.timed(prepared.augment, "augment"))
        summary = run.train(prepared, Path(folder) / "runs").summary
        seconds = account.close()
    _show(options, seconds, summary, (TRAINING, FORWARD))


def _show(
    options: argparse.Namespace, seconds: dict[str, float], summary: RunSummary, encoder: tuple[str, ...]
) -> None:
    total = sum(seconds.values())
    rows = [
        (name, f"{spent:.1f}", f"{spent / total:.1%}")
        for name, spent in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    where = Path(options.data).name or "generated images"
    title = f"train on {where}, {options.clock} seconds, {total:.0f} in all"
    show(title, ("", "seconds", "share"), rows)
    most = max((spent / total, name) for name, spent in seconds.items() if name not in encoder)
    print(f"\nlargest beside the encoder's arithmetic: {most[1]}, {most[0]:.1%}")
    phases = summary.seconds
    print(f"phases as summary.json has them (wall seconds): {phases}")
    print(f"validations took {phases['validate'] / (phases['train'] + phases['validate']):.1%} of fine-tuning")
    print(f"epochs {summary.epochs}, stop {summary.stop_reason}, best {summary.best_epoch}")
