"""Where the time of a whole `train` goes; every function that is named below counts for itself alone."""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from anomaly_ft.run.run_summary import RunSummary
from speed_parts.clock import CLOCKS, Account, show

ENCODER = ("encoder, training", "encoder, forward")


def train(options: argparse.Namespace) -> None:
    clock = CLOCKS[options.clock]
    account = Account(clock, "everything else")
    with account.within("import"):
        import torch

        from anomaly_ft.data import dataset
        from anomaly_ft.finetune import loop, validation
        from anomaly_ft.finetune.checkpoint import Checkpoints
        from anomaly_ft.model.encoder.encoder import Encoder
        from anomaly_ft.model.gaussian import detector, fitting
        from anomaly_ft.model.gaussian.statistics import Moments
        from anomaly_ft.recipe.read import read_recipe
        from anomaly_ft.run import setup
        from anomaly_ft.run import train as run
        from anomaly_ft.run import training as tuning
        from anomaly_ft.run.console import Terminal
        from anomaly_ft.tracking import model_registry as mlflow_model
        from anomaly_ft.tracking.tracker import MlflowTracker

        del mlflow_model  # what logging a model needs
    account.watch(dataset, "load_cached", "decode")
    account.watch(setup, "load_encoder make_compute", "load the encoder")
    account.watch(Encoder, "forward", lambda: ENCODER[0] if torch.is_grad_enabled() else ENCODER[1])
    account.watch(loop.Fabric, "backward", ENCODER[0])
    for name in tuning.OPTIMIZERS:
        account.watch(tuning.OPTIMIZERS[name], "step", "optimiser")
    account.watch(Moments, "absorb", "fit: sums")
    account.watch(fitting, "on_grid pool", "fit: features")
    account.watch(fitting, "fit", "fit: Gaussians")
    account.watch(detector.Detector, "score contribution_map level_distances", "scores and maps")
    account.watch(validation, "pseudo_anomalies", "pseudo-anomalies")
    account.watch(Checkpoints, "keep", "checkpoints")
    account.watch(loop, "snapshot", "checkpoints")
    account.watch(run, "replace_folder", "checkpoints")
    account.watch(MlflowTracker, "__init__ __enter__ __exit__ params tags metrics dataset image", "log")
    account.watch(MlflowTracker, "artifacts model", "log")
    account.watch(run, "_draw _compare assess measure write_report", "test numbers and report")
    with tempfile.TemporaryDirectory() as folder:
        recipe = read_recipe(Path(options.recipe), [f"data.root={options.data}", *options.set])
        prepared = setup.prepare(recipe, Terminal())
        prepared = replace(prepared, augment=account.timed(prepared.augment, "augment"))
        summary = run.train(prepared, Path(folder)).summary
    seconds = account.close()
    _show(options, seconds, summary)


def _show(options: argparse.Namespace, seconds: dict[str, float], summary: RunSummary) -> None:
    total = sum(seconds.values())
    rows = [
        (name, f"{spent:.1f}", f"{spent / total:.1%}")
        for name, spent in sorted(seconds.items(), key=lambda item: -item[1])
    ]
    title = f"train on {Path(options.data).name}, {options.clock} seconds, {total:.0f} in all"
    show(title, ("", "seconds", "share"), rows)
    most = max((spent / total, name) for name, spent in seconds.items() if name not in ENCODER)
    print(f"\nlargest beside the encoder's arithmetic: {most[1]}, {most[0]:.1%}")
    phases = summary.seconds
    print(f"phases as summary.json has them (wall seconds): {phases}")
    print(f"validations took {phases['validate'] / (phases['train'] + phases['validate']):.1%} of fine-tuning")
    print(f"epochs {summary.epochs}, stop {summary.stop_reason}, best {summary.best_epoch}")
