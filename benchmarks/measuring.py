"""What benchmarks do alike: training without validations, varied test images, time and memory of a detector.
Not a benchmark itself."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ft.data.variation import Variation
from anomaly_ft.finetune.loop import Backward, train_epoch
from anomaly_ft.finetune.method import Method
from anomaly_ft.model.gaussian.cache_early import EarlyCache
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.variation import stronger
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.training import loop_state, training_batches
from anomaly_ft.system.files import write_text

TEST = 500  # number of the test images' varied copy
TIMED = 64  # test images whose pass is timed
TURNS = 3  # passes of which the fastest counts; others had the machine share its time


def train_unwatched(setup: Setup, method: Method) -> float:
    """Train all steps of the schedule by the method's objective, without a validation; the mean loss over their
    images."""
    state, make_batch = loop_state(setup, method), training_batches(setup, method)
    backward = Backward(setup.compute.fabric, setup.recipe.runtime.micro_batch_size)
    steps = map(make_batch, range(setup.recipe.schedule.max_steps))
    return train_epoch(state, backward, steps, lambda state, ended: None)


def otherwise(setup: Setup, strengths: Mapping[str, float], copies: int = 2) -> Setup:
    """The same run with other benign variation; the encoder is shared."""
    early = EarlyCache(setup.encoder, setup.compute, setup.detector_settings(), setup.early.room)
    section = setup.recipe.variation.model_copy(update={"copies": copies})
    recipe = setup.recipe.model_copy(update={"variation": section})
    return replace(setup, recipe=recipe, variation=Variation(strengths, recipe.seed), early=early)


def varied_test(setup: Setup, strength: float) -> NDArray[np.uint8]:
    """The test images, varied by a multiple of the recipe's strengths."""
    if not strength:
        return setup.data.test.pixels
    strengths = stronger(setup.recipe.variation.strengths(), strength)
    return Variation(strengths, setup.recipe.seed).copy(setup.data.test, TEST).pixels


def cost_of(setup: Setup, detector: GaussianDetector) -> dict[str, float]:
    """Milliseconds for all scores of one test image, and MiB of the Gaussians of dense score and map."""
    some = setup.data.test.pixels[:TIMED]
    seconds = []
    for _ in range(TURNS):
        started = time.perf_counter()
        score_images(detector, some, setup.compute)
        seconds.append(time.perf_counter() - started)
    grids = [tensor for name, tensor in detector.state_dict().items() if name.startswith(("dense_", "map_"))]
    return {
        "ms_image": 1000 * min(seconds) / len(some),
        "mib": sum(tensor.nbytes for tensor in grids) / 2**20,
    }


def read_table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read what earlier runs left; a table without rows where there is none."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)


def add_rows(path: Path, table: pd.DataFrame, new: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Put rows in the place of those that are alike in `columns`, and write the table, whole or not at all."""
    keys = set(new[columns].itertuples(index=False, name=None))
    again = [key in keys for key in table[columns].itertuples(index=False, name=None)]
    left = table[[not each for each in again]]
    table = pd.concat([left, new]) if len(left) else new
    write_text(path, table.to_csv(index=False))
    return table
