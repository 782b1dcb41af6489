"""The functions inside the package whose time is counted, by account: the one list to mend when they move."""

import torch

from anomaly_ft.data import dataset
from anomaly_ft.finetune import loop, validation
from anomaly_ft.finetune.checkpoint import Checkpoints
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.records import Validation
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian import detector, fitting
from anomaly_ft.model.gaussian.statistics import Moments
from anomaly_ft.run import finish, setup, training
from anomaly_ft.run import train as run
from anomaly_ft.tracking.tracker import MlflowTracker
from speed_parts.clock import Account

PSEUDO = "pseudo-anomalies"
TRAINING, FORWARD = "encoder, training", "encoder, forward"


class Unmoved:
    """A validation monitor that measures nothing and finds nothing changed."""

    def __init__(self, images: int, method: Method) -> None:
        self.method = method
        self.sets: dict[str, object] = {}
        self._found = Validation(0.8, {}, {"scar": torch.zeros(images).numpy()}, 0.0)

    def validate(self) -> Validation:
        return self._found

    def validate_pretrained(self) -> Validation:
        return self._found

    def passes(self) -> int:
        return 0


def watch_making(account: Account) -> None:
    """Count making pseudo-anomalies."""
    account.watch(validation, "pseudo_anomalies", PSEUDO)


def watch_validation(account: Account) -> None:
    """Count what a validation does."""
    account.watch(Encoder, "forward", lambda: TRAINING if torch.is_grad_enabled() else FORWARD)
    account.watch(Moments, "absorb", "fit: sums")
    account.watch(fitting, "on_grid pool", "fit: features")
    account.watch(fitting, "fit", "fit: Gaussians")
    names = "scores dense_map contribution_map level_distances"
    account.watch(detector.GaussianDetector, names, "scores and maps")


def watch_training(account: Account) -> None:
    """Count what a whole `train` does."""
    account.watch(dataset, "load_cached", "decode")
    account.watch(setup, "load_encoder make_compute", "load the encoder")
    account.watch(loop.Fabric, "backward", TRAINING)
    for optimizer in training.OPTIMIZERS.values():
        account.watch(optimizer, "step", "optimiser")
    watch_making(account)
    watch_validation(account)
    account.watch(Checkpoints, "keep", "checkpoints")
    account.watch(loop, "snapshot", "checkpoints")
    account.watch(run, "replace_folder", "checkpoints")
    account.watch(MlflowTracker, "__init__ __enter__ __exit__ params tags metrics dataset image", "log")
    account.watch(MlflowTracker, "artifacts model", "log")
    account.watch(finish, "_draw _compare assess measure write_report", "test numbers and report")
