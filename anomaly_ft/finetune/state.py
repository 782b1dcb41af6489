"""The training state: everything that changes while training goes on, so that it can be stored and restored."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import Precision
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from anomaly_ft.finetune.brakes.weight_average import WeightAverage
from anomaly_ft.finetune.records import EpochRecord, StopDecision, Validation


@dataclass
class LoopState:
    """What trains, and how far it has come. What is not stored by `state_dict` must follow from the recipe.

    Attributes:
        objective: its forward pass of a batch is the loss to lower; already set up by Fabric.
        optimizer: steps the objective's trainable parameters; already set up by Fabric.
        scheduler: sets the learning rate, once a step.
        records: of the epochs that have ended, epoch 0 (the pretrained encoder) first.
        best: the objective's tensors at the best epoch so far.
        epoch_steps: in each epoch; as when training began, whatever is counted when it goes on.
        first_loss: of the very first batch.
        step: batches of the present epoch that are done.
        images: in those batches.
        loss: summed over those images.
        seconds: that they took.
        average: validate and keep the mean of the weights over epochs.
        precision: in which gradients are computed; in half precision it has a scale that changes.
        mean: those weights; nothing unless `average`.
    """

    objective: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    records: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    epoch_steps: int = 0
    first_loss: float | Tensor = float("inf")
    step: int = 0
    images: int = 0
    loss: Tensor | None = None
    seconds: float = 0.0
    average: bool = False
    precision: Precision = field(default_factory=Precision)
    mean: WeightAverage = field(init=False)

    def __post_init__(self) -> None:
        self.mean = WeightAverage(self.objective if self.average else nn.Module())

    @property
    def history(self) -> list[Validation]:
        """The validations there are, epoch 0 first."""
        return [record.validation for record in self.records if record.validation]

    def count(self, loss: Tensor, images: int, seconds: float) -> None:
        """Take note of one step."""
        if self.loss is None and len(self.records) == 1:
            self.first_loss = loss
        weighted = loss * images
        self.loss = weighted if self.loss is None else self.loss + weighted
        self.step += 1
        self.images += images
        self.seconds += seconds

    def end_epoch(self) -> tuple[int, float]:
        """Make ready for the next epoch; images and seconds of the one that ended."""
        ended = self.images, self.seconds
        self.step, self.images, self.loss, self.seconds = 0, 0, None, 0.0
        return ended

    def state_dict(self) -> dict[str, Any]:
        """Give everything as tensors, numbers and texts in dictionaries and lists."""
        return {
            "objective": dict(self.objective.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "records": [asdict(record) for record in self.records],
            "best": self.best,
            "epoch_steps": self.epoch_steps,
            "first_loss": self.first_loss,
            "step": self.step,
            "images": self.images,
            "loss": self.loss,
            "seconds": self.seconds,
            "mean": {"weights": self.mean.mean, "count": self.mean.count},
            "precision": self.precision.state_dict(),
            "random": _random_state(),
        }

    def load_state_dict(self, stored: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` gave; objective and optimiser must be made alike."""
        self.objective.load_state_dict(stored["objective"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.scheduler.load_state_dict(stored["scheduler"])
        for (
            parameter,
            moments,
        ) in self.optimizer.state.items():  # in memory as the parameter is, or last bits differ
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)
        self.records = [_record(record) for record in stored["records"]]
        self.best, self.first_loss = stored["best"], stored["first_loss"]
        self.epoch_steps = stored["epoch_steps"]
        self.step, self.images = stored["step"], stored["images"]
        self.loss, self.seconds = stored["loss"], stored["seconds"]
        self.mean.mean, self.mean.count = stored["mean"]["weights"], stored["mean"]["count"]
        if scale := stored.get("precision"):  # nothing but in half precision, and in states older than that
            self.precision.load_state_dict(scale)
        _set_random_state(stored["random"])


def snapshot(objective: nn.Module) -> dict[str, Tensor]:
    """Copy a module's tensors as they are now."""
    return {key: value.detach().clone() for key, value in objective.state_dict().items()}


def _record(stored: Mapping[str, Any]) -> EpochRecord:
    validation = Validation(**stored["validation"]) if stored["validation"] else None
    return EpochRecord(**{**stored, "validation": validation, "verdict": StopDecision(**stored["verdict"])})


def _random_state() -> dict[str, Any]:
    """Read the state of every generator that code below may draw from."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def _set_random_state(stored: Mapping[str, Any]) -> None:
    torch.set_rng_state(stored["torch"].cpu())
    if len(stored["cuda"]) == torch.cuda.device_count() > 0:
        torch.cuda.set_rng_state_all(stored["cuda"])
    np.random.set_state(stored["numpy"])
    random.setstate(stored["python"])
