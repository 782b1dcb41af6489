"""Parts that share an encoder, each with the method that fine-tunes it for that part; for `continual.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from measuring import train_unwatched
from torch import Tensor

from anomaly_ft.data.records import Part
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.encoder.encoder import Encoder, pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import gaussian_method

IMAGES = 200  # of a part, evenly drawn, whose features tell how the encoder moved


@dataclass(frozen=True)
class Views:
    """Detectors of one encoder, which sees each image once for all of them."""

    detectors: Mapping[str, GaussianDetector]

    @property
    def encoder(self) -> Encoder:
        """The encoder that all of them are views of."""
        return next(iter(self.detectors.values())).encoder

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the score that decides `(n,)` of each detector."""
        return {name: each.scores(levels)[each.decides] for name, each in self.detectors.items()}


@dataclass(frozen=True)
class Task:
    """A part, and the method that fine-tunes the one encoder for it."""

    setup: Setup
    method: GaussianMethod

    def aurocs(self, detectors: Mapping[str, GaussianDetector]) -> dict[str, float]:
        """Measure the image AUROC of each detector on the part's test images."""
        test = self.setup.data.test
        anomalous = np.array([record.anomalous for record in test.records])
        scores = score_images(Views(detectors), test.pixels, self.setup.compute)
        return {name: image_auroc(anomalous, each) for name, each in scores.items()}

    def train(self) -> None:
        """Induce Gaussians with the encoder as it is, and fine-tune it towards them."""
        self.method.fit()
        train_unwatched(self.setup, self.method)

    def refit(self) -> GaussianDetector:
        """Fit a detector to the encoder as it is."""
        detector = self.method.refit("refit", watching=False).detector
        assert isinstance(detector, GaussianDetector)
        return detector

    def features(self, view: GaussianDetector, part: Part) -> list[Tensor]:
        """Compute features by the encoder as it is: `(n, d)` of each level, and last those of the dense score
        of all images and positions, as a detector has them. The map has no say in image AUROC."""
        pixels = self.setup.data.normals(part).pixels
        some = pixels[np.unique(np.linspace(0, len(pixels) - 1, IMAGES).round().astype(int))]
        parts = []
        with torch.inference_mode(), view.encoder.folded():
            for images in self.setup.compute.batches(some):
                maps = view.encoder(images)
                parts.append([each.cpu() for each in (*pool(maps), view.dense_features(maps).flatten(0, 1))])
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def tasks_of(recipes: Mapping[str, Recipe], terminal: Terminal) -> dict[str, Task]:
    """Set up every part with the encoder of the first."""
    tasks: dict[str, Task] = {}
    for name, recipe in recipes.items():
        setup = prepare(recipe, terminal)
        method = gaussian_method(setup)
        if tasks:
            method.encoder = next(iter(tasks.values())).method.encoder
        tasks[name] = Task(setup, method)
    return tasks
