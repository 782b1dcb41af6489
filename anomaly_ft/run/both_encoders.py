"""A finished run with the encoder it began with and the one it ended with, on the images it was made from."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.data.duplicates import digest
from anomaly_ft.data.lazy_images import view
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError, RunError
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.begin import split_digest, split_table
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.open import open_run, open_summary
from anomaly_ft.run.setup import Setup, prepare

FROZEN, TUNED = "frozen", "fine-tuned"


@dataclass(frozen=True)
class BothEncoders:
    """A run prepared again, whose encoder is the pretrained one, beside what it left."""

    setup: Setup
    run: LoadedRun
    recipe: Recipe
    kept_epoch: int

    @property
    def encoders(self) -> dict[str, Encoder]:
        """By name; the pretrained one alone where the run kept it."""
        frozen = {FROZEN: self.setup.encoder}
        return frozen | {TUNED: self.run.detector.encoder} if self.kept_epoch else frozen


@dataclass(frozen=True)
class Images:
    """Images of a run that a study looks at: training images first, then test images.

    Attributes:
        records: of each image.
        train: `(n,)`, which are training images that statistics were estimated from.
        anomalous: `(n,)`, which are defective.
    """

    records: tuple[Record, ...]
    train: NDArray[np.bool_]
    anomalous: NDArray[np.bool_]


def open_both(folder: Path, terminal: Terminal, root: str | None = None) -> BothEncoders:
    """Open a finished run and the images it was made from.

    Args:
        folder: of the run.
        terminal: for progress.
        root: where the images are now; unset: where they were.

    Raises:
        RunError: no finished run, or its images are gone or are not those it was made from.
    """
    recipe, run = open_run(folder)
    if root:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": root})})
    untaught = recipe.objective.model_copy(update={"teacher": ""})  # nothing is trained, and it may be gone
    try:
        setup = prepare(recipe.model_copy(update={"objective": untaught}), terminal)
    except DataError as cause:
        raise RunError(
            f"{folder}: the images it was made from cannot be read: {cause}; bring them back, or say with "
            "--data where they are now"
        ) from cause
    _refuse_other_images(folder, setup)
    return BothEncoders(setup, run, recipe, open_summary(folder).best_epoch)


def gaussian_of(folder: Path, run: LoadedRun, study: str) -> GaussianDetector:
    """Give the detector of a run whose kind a study is about.

    Raises:
        RunError: it is of another kind.
    """
    if isinstance(run.detector, GaussianDetector):
        return run.detector
    raise RunError(
        f"{folder}: {study} looks into distances to Gaussians of an encoder's features, and this run is of "
        "another model.kind; give a run with model.kind: gaussian"
    )


def digests(folder: Path, setup: Setup) -> dict[str, str]:
    """Hash detector and split of a run, which tell it from another one that later got the same name."""
    return {"detector": digest(folder / "detector.safetensors"), "split": split_digest(setup)}


def images_of(setup: Setup) -> Images:
    """List the images that statistics were estimated from, and the test images."""
    known, test = setup.data.normals("train").records, setup.data.test.records
    return Images(
        (*known, *test),
        np.arange(len(known) + len(test)) < len(known),
        np.array([False] * len(known) + [record.anomalous for record in test]),
    )


def pixels_of(setup: Setup) -> tuple[Pixels, Pixels]:
    """Give the pixels of the images of `images_of`, still not fetched: the training ones, and the test
    ones."""
    return setup.data.normals("train").pixels, view(setup.data.test.pixels, list(range(len(setup.data.test))))


def refuse_without_test(folder: Path, setup: Setup, study: str, good: int) -> None:
    """Raise a RunError unless there are defective test images, and as many good ones as a study needs."""
    records = setup.data.test.records
    there = sum(not record.anomalous for record in records), sum(record.anomalous for record in records)
    if there[0] < good or not there[1]:
        raise RunError(
            f"{folder}: {study} needs {good} good test images and a defective one, its data has {there[0]} and "
            f"{there[1]}; add images to the test split, train again, and give the command again"
        )


def _refuse_other_images(folder: Path, setup: Setup) -> None:
    """Raise a RunError when images or their split are not those of the run."""
    path = folder / "split.csv"
    if not path.is_file():
        return
    then, now = set(path.read_text(encoding="utf-8").splitlines()), set(split_table(setup).splitlines())
    if then != now:
        example = sorted(then ^ now)[0]
        raise RunError(
            f"{folder}: {setup.recipe.data.root} no longer holds the images the run was made from, or splits "
            f"them otherwise: {len(then ^ now)} rows of split.csv differ, such as {example}; bring them back, "
            "or say with --data where they are"
        )
