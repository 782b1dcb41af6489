"""What the benchmarks of a filter share: how one is trained, and what it is worth. Not a benchmark itself."""

import time
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.records import EpochRecord
from anomaly_ft.finetune.state import LoopState, snapshot
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.inference import predict, score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.run.finish import decoder_of
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.training import epochs, loop_state, make_monitor

FILTER = ("model.kind=filter", "optimizer.lr=1e-3")
INPUTS = {"features": (), "pixels": ("encoder.name=pixels", "data.image_size=128")}
METRICS = ("auroc", "pixel_auroc", "pixel_aupro")
Row = dict[str, Any]
Floats = NDArray[np.float64]


def inputs_of(names: str) -> list[str]:
    """List the inputs of a list with commas.

    Raises:
        click.BadParameter: none of them.
    """
    for name in names.split(","):
        if name not in INPUTS:
            raise click.BadParameter(f"no input {name!r}; expected some of {', '.join(INPUTS)}")
    return names.split(",")


@dataclass(frozen=True)
class Training:
    """What training was like: a record of each epoch, the net's tensors after the last one, minutes with all
    validations. In the net are those of the epoch that is kept."""

    records: list[EpochRecord]
    last: dict[str, Tensor]
    minutes: float

    @property
    def kept(self) -> int:
        """The epoch that is kept."""
        return self.records[-1].verdict.best_epoch


def train(setup: Setup, method: Method, induced: Detector, objective: nn.Module | None = None) -> Training:
    """Train what a method fitted, by its own loss or by another one."""
    started, net = time.perf_counter(), method.trained()
    last: dict[str, Tensor] = {}

    def keep(_: LoopState, ended: bool) -> None:  # of the last epoch, before the best one comes back
        if ended:
            last.update(snapshot(net))

    monitor = make_monitor(setup, method, induced)
    records = []
    for record in epochs(setup, loop_state(setup, method, objective), monitor, keep):
        setup.terminal.epoch(record, induced.decides)
        records.append(record)
    return Training(records, last, (time.perf_counter() - started) / 60)


def worth(setup: Setup, detector: Detector, name: str) -> tuple[Row, Floats]:
    """Numbers of a detector under a name, and its standard scores of the test images."""
    records, pixels = setup.data.test.records, setup.data.test.pixels
    outputs = predict(detector, pixels, setup.compute)
    first = next(iter(outputs.maps))
    maps = localise(records, {first: outputs.maps[first]}, decoder_of(setup)).numbers
    scores = standard(setup, detector, outputs)
    numbers = {"auroc": image_auroc(labels(setup), scores)} | maps
    return {f"{name}.{metric}": numbers[metric] for metric in METRICS}, scores


def standard(setup: Setup, detector: Detector, outputs: Predictions) -> Floats:
    """The score that decides, of test images, in standard deviations of held-out normal images."""
    normal = score_images(detector, setup.data.normals("val").pixels, setup.compute)[detector.decides]
    scores: Floats = (outputs.score - normal.mean()) / normal.std(ddof=1)
    return scores


def labels(setup: Setup) -> NDArray[np.bool_]:
    """Which test images are anomalous."""
    return np.array([record.anomalous for record in setup.data.test.records])
