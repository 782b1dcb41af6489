"""One vicinal validation taken apart."""

import argparse
import tempfile
from pathlib import Path

from anomaly_ft.finetune import validation
from anomaly_ft.finetune.watch import watchdog
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian import detector, fitting
from anomaly_ft.model.gaussian.statistics import Moments
from speed_parts.clock import CLOCKS, Account, show
from speed_parts.prepared import prepare_run


def watch(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        setup = prepare_run(options, Path(name), 120)
        account = Account(CLOCKS[options.clock], "everything else")
        account.watch(validation, "pseudo_anomalies", "pseudo-anomalies, once before training")
        dog = watchdog(setup)
        before = account.close()
        account.seconds.clear()
        account.watch(Encoder, "forward", "encoder, forward")
        account.watch(Moments, "absorb", "fit: sums")
        account.watch(fitting, "on_grid pool", "fit: features")
        account.watch(fitting, "fit", "fit: Gaussians")
        account.watch(detector.Detector, "score", "scores and maps")
        dog.validate()
        seconds = account.close()
    seen = {name: len(setup.data.normals(name)) for name in ("fit", "watch")}
    sets = [name for name, pseudo in dog.sets.items() if pseudo.informative]
    total = sum(seconds.values())
    rows = [(name, f"{spent:.2f}", f"{spent / total:.1%}") for name, spent in sorted(seconds.items())]
    made = before["pseudo-anomalies, once before training"]
    title = f"one validation, {options.clock} seconds: {seen}, pseudo-anomalies of {', '.join(sets)}"
    show(title, ("", "seconds", "share"), rows)
    print(f"\nmaking and calibrating pseudo-anomalies, once before training: {sum(before.values()):.1f} s")
    print(f"of that making them: {made:.2f} s")
