"""One vicinal validation taken apart."""

import argparse
import tempfile
from pathlib import Path

from anomaly_ft.run.train import METHODS
from anomaly_ft.run.training import make_monitor
from speed_parts.clock import CLOCKS, Account, show
from speed_parts.prepared import prepare_run
from speed_parts.watched import PSEUDO, watch_making, watch_validation


def watch(options: argparse.Namespace) -> None:
    """Count the seconds of making pseudo-anomalies once, and of one validation."""
    with tempfile.TemporaryDirectory() as name:
        setup = prepare_run(options, Path(name), 120)
        with Account(CLOCKS[options.clock], "everything else") as account:
            watch_making(account)
            method = METHODS["gaussian"](setup)
            monitor = make_monitor(setup, method, method.fit())
            before = account.close()
        with Account(CLOCKS[options.clock], "everything else") as account:
            watch_validation(account)
            monitor.validate()
            seconds = account.close()
        seen = {name: len(setup.data.normals(name)) for name in ("train", "val")}
    sets = [name for name, pseudo in monitor.sets.items() if pseudo.informative]
    total = sum(seconds.values())
    rows = [(name, f"{spent:.2f}", f"{spent / total:.1%}") for name, spent in sorted(seconds.items())]
    title = f"one validation, {options.clock} seconds: {seen}, pseudo-anomalies of {', '.join(sets)}"
    show(title, ("", "seconds", "share"), rows)
    print(f"\nmaking and calibrating pseudo-anomalies, once before training: {sum(before.values()):.1f} s")
    print(f"of that making them: {before[PSEUDO]:.2f} s")
