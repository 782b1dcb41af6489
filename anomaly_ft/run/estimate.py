"""Estimate what a run takes on this machine: time, memory and disk, from a few of its own batches.

A few images go through the steps that a run consists of: a fit, passes that score, training steps. What one
image costs is multiplied by how often the run will see one, which follows from the recipe but for two things:
how often severities are tried, and when training stops. Memory is what this process held at most, plus what
grows with the number of images. Nothing is written, and the encoder is not to be used afterwards: it was
trained.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.evaluation.what_if import FACTORS, few_of_each
from anomaly_ft.finetune.loop import Backward, train_epoch
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.methods.gaussian import DRIFT_IMAGES
from anomaly_ft.finetune.validation import HALVINGS, SEARCHED
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import sums_of
from anomaly_ft.model.gaussian.statistics import Moments
from anomaly_ft.model.interface import Detector
from anomaly_ft.recipe.variation import PRESETS
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.train import chooses_position, make_method
from anomaly_ft.run.training import loop_state, rule_of, steps_of_an_epoch, training_batches
from anomaly_ft.system.memory import peak_memory

FEW = 16  # images of each kind that are measured on, without their varied copies
WARM = 1  # training steps that are not measured, of STEPS
STEPS = 3
TRIES = 1 + HALVINGS // 2  # severities that are tried until one comes near enough to the target, usually
REST = 8 * 2**20  # bytes of what else a run writes: report, figures, tables; the code in the logged model
Clock = Callable[[], float]


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        seconds: by what they go into; of training and validating where it goes on to the end.
        memory: bytes at most; None where the system does not say.
        folder: bytes of the run folder.
        logged: bytes in MLflow; 0 where it is not logged there.
        images: that were measured on.
    """

    seconds: dict[str, float]
    memory: int | None
    folder: int
    logged: int
    images: int

    def __str__(self) -> str:
        minutes = {name: seconds / 60 for name, seconds in self.seconds.items()}
        parts = ", ".join(f"{value:.1f} {name}" for name, value in minutes.items())
        memory = "" if self.memory is None else f"{self.memory / 2**30:.1f} GiB of memory, "
        logged = f" and {self.logged / 2**20:.0f} MiB in MLflow" if self.logged else ""
        return (
            f"estimate about {max(1, round(sum(minutes.values())))} minutes if nothing ends training early "
            f"({parts}), {memory}{self.folder / 2**20:.0f} MiB on disk{logged}; measured on {self.images} "
            "images"
        )


@dataclass(frozen=True)
class Counts:
    """How often a run gives images to the encoder and fits Gaussians, and its training steps."""

    before: int  # images, until training begins
    validation: int  # images in each validation
    after: int  # images, once training has ended
    exact: int  # images whose sums are kept
    epochs: int
    steps: int


@dataclass(frozen=True)
class _Costs:
    """Seconds of an image that is scored, of a fit beside that, of an image whose sums are kept, and of a
    training step; bytes of detector, encoder and sums; images that were measured on."""

    image: float
    fit: float
    exact: float
    step: float
    detector: int
    sums: int
    images: int


def estimate(setup: Setup, clock: Clock = time.perf_counter) -> Estimate:
    """Estimate what a run takes; see the module.

    Args:
        setup: the run; its encoder is trained a little.
        clock: seconds.
    """
    counts, costs = count(setup), _measure(_few(setup), clock)
    logged = setup.recipe.tracking.mlflow
    if logged:
        from anomaly_ft.tracking import logged_models  # a run holds this in memory too

        del logged_models
    training = counts.steps * costs.step
    watching = counts.epochs * (counts.validation * costs.image + costs.fit)
    seconds = {
        "before training": setup.seconds.get("prepare", 0.0) + counts.before * costs.image + costs.fit,
        "training": training,
        "validating": watching,
        "threshold and test": counts.after * costs.image + costs.fit + counts.exact * costs.exact,
    }
    peak = peak_memory()
    return Estimate(
        seconds,
        None if peak is None else peak + _growing(setup),
        costs.detector + costs.sums + REST,
        costs.detector + REST if logged else 0,
        costs.images,
    )


def count(setup: Setup) -> Counts:
    """Count what a run will do, as far as the recipe tells."""
    train, val, calibration = (len(setup.varied(part).pixels) for part in ("train", "val", "calibration"))
    held_out, test, normal = len(setup.data.split.val), len(setup.data.test), len(setup.data.undivided)
    sets, searched = len(setup.recipe.watched), min(held_out, SEARCHED)
    refit, pseudo = train + val, sets * held_out
    if isinstance(setup.recipe.validation.severity, str):
        search = sets * TRIES * searched + (pseudo if held_out > searched else 0)
    else:
        search = pseudo
    varied = setup.recipe.variation.strengths() or PRESETS["camera"]
    shown = setup.data.test if test else setup.data.normals("val")
    what_if = len(few_of_each(shown)) * (1 + len(FACTORS) * (1 + len(varied)))
    tested = calibration + 2 * test + what_if  # measuring a test image takes about as long as seeing it
    method = make_method(setup)
    position = val + pseudo if chooses_position(setup) else 0
    first = min(train, DRIFT_IMAGES) + val + pseudo
    schedule = setup.recipe.schedule
    an_epoch = steps_of_an_epoch(setup, refit + pseudo)
    epochs = rule_of(schedule, an_epoch).max_epochs if schedule.max_epochs else 0
    after = refit + tested + (len(method.kinds) - 1) * (val + calibration + 2 * test)
    return Counts(
        before=refit + val + position + search + tested + normal + first,
        validation=refit + pseudo,
        after=after if epochs else val + calibration,  # an encoder that stays was measured before
        exact=train if _keeps_sums(setup, method) else 0,
        epochs=epochs,
        steps=epochs * an_epoch,
    )


def _keeps_sums(setup: Setup, method: Method) -> bool:
    """Tell whether a run keeps sums for updates, see `finish.save`."""
    return setup.recipe.gaussian.keep_sums and method.keeps != method.kinds[0]


def _few(setup: Setup) -> Setup:
    """Make a run of a few of the images, with nothing computed before."""
    split = setup.data.split
    few = replace(split, train=split.train[:FEW], val=split.val[:FEW], calibration=split.calibration[:FEW])
    gaussian = setup.recipe.gaussian
    if chooses_position(setup):
        gaussian = gaussian.model_copy(update={"position": "fixed"})
    return replace(
        setup,
        recipe=setup.recipe.model_copy(update={"gaussian": gaussian}),
        data=replace(setup.data, split=few),
        early=replace(setup.early, _made={}),
    )


def _measure(setup: Setup, clock: Clock) -> _Costs:
    """Fit, score and train on a few images."""
    method = make_method(setup)
    train, images = setup.inputs("train"), method.images(method.keeps)
    method.fit()  # what is computed once, or slow the first time
    step = _step(setup, method, clock)  # moves the encoder; else nothing would be fitted again
    began = clock()
    detector = method.refit(method.keeps, watching=False).detector
    fitted = clock()
    method.score(detector, train)
    image = (clock() - fitted) / len(train)
    sums, exact = _sums(setup, detector, train, clock) if _keeps_sums(setup, method) else (0, 0.0)
    return _Costs(
        image,
        max(0.0, fitted - began - images * image),
        exact,
        step,
        _bytes(detector.state_dict().values()),
        sums,
        images + len(train) + STEPS * setup.recipe.optimizer.batch_size,
    )


def _sums(setup: Setup, detector: Detector, train: Pixels, clock: Clock) -> tuple[int, float]:
    """Measure the sums that a run keeps for updates: their bytes, and the seconds of an image."""
    if not isinstance(detector, GaussianDetector):
        return 0, 0.0
    began = clock()
    sums = sums_of(setup.encoder, train, setup.compute, detector.settings, exact=True)
    return sum(map(_packed, sums)), (clock() - began) / len(train)


def _packed(moments: Moments) -> int:
    """Count the bytes of sums on disk, where half of each matrix is kept."""
    others = (moments.shift, moments.first, moments.third, moments.fourth)
    return _bytes(others) + _bytes([moments.second]) // 2


def _step(setup: Setup, method: Method, clock: Clock) -> float:
    """Measure the seconds of a training step."""
    state, make_batch = loop_state(setup, method), training_batches(setup, method)
    backward = Backward(setup.compute.fabric, setup.recipe.runtime.micro_batch_size)
    times = [clock()]
    batches = (make_batch(step) for step in range(STEPS))
    train_epoch(state, backward, batches, lambda state, ended: times.append(clock()))
    return float(np.mean(np.diff(times)[WARM:]))


def _growing(setup: Setup) -> int:
    """Count the bytes that a run holds beside those that were measured: pseudo-anomalies, early activations."""
    pseudo = 0
    if setup.data.cache == "memory":
        one = math.prod(setup.data.undivided.pixels.shape[1:])
        pseudo = len(setup.recipe.watched) * len(setup.data.split.val) * one
    return pseudo + (setup.early.room if setup.encoder.tail else 0)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
