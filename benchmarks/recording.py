"""Keep what each validation of a training run saw and did not see, to judge other rules without training."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.evaluation.measure import measure
from anomaly_ft.finetune.drift import linear_cka
from anomaly_ft.finetune.method import Features, Fit
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.metrics import Floats
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import pooled_features, score_images
from anomaly_ft.model.interface import Detector
from anomaly_ft.run.setup import Setup

CROPS = 48  # of each of the two photographs


@dataclass
class Recording:
    """A method that remembers the scores of each validation.

    Attributes:
        method: does the work.
        names: of the pseudo-anomalies, in the order in which they are scored.
        generic: photographs of nothing in particular; how their features change is what the encoder unlearns.
        raw: of validation i `"i normal"` and `"i pseudo.NAME"`, pooled and dense score `(n, 2)`, `"i pooled"`
            and `"i dense"` of test images, in standard deviations of held-out normal images; their `"labels"`.
        truth: AUROCs on test images at the last validation, and `retention`, the mean over levels of the linear
            CKA of features of `generic` with the pretrained encoder's.
    """

    method: GaussianMethod
    names: list[str]
    generic: Pixels
    raw: dict[str, NDArray[Any]] = field(default_factory=dict)
    truth: dict[str, float | None] = field(default_factory=dict)
    number: int = -1
    scored: int = 0
    pretrained: Features = ()

    def __getattr__(self, name: str) -> Any:
        """Leave to the method what is not remembered."""
        return getattr(self.method, name)

    def refit(self, kind: str, *, watching: bool = True) -> Fit:
        """Begin a validation, see `Method`."""
        fit = self.method.refit(kind, watching=watching)
        self.number, self.scored = self.number + 1, 0
        self._keep("normal", fit.detector, self.method.inputs("val"))
        return fit

    def score(self, detector: Detector, pixels: Pixels) -> Floats:
        """Score the next pseudo-anomalies, see `Method`."""
        scores = self._keep(f"pseudo.{self.names[self.scored]}", detector, pixels)
        self.scored += 1
        return scores[self.method.settings.score]

    def _keep(self, name: str, detector: Detector, pixels: Pixels) -> dict[str, Floats]:
        scores = score_images(detector, pixels, self.method.compute)
        self.raw[f"{self.number} {name}"] = np.stack([scores["pooled"], scores["dense"]], 1)
        return scores

    def look(self, setup: Setup, detector: Detector) -> None:
        """Measure what validation may not see."""
        assert isinstance(detector, GaussianDetector)
        scores = score_images(detector, setup.data.test.pixels, setup.compute)
        location, spread = detector.location.tolist(), detector.spread.tolist()
        self.raw["labels"] = np.array([record.anomalous for record in setup.data.test.records])
        for i, name in enumerate(("pooled", "dense")):
            self.raw[f"{self.number} {name}"] = (scores[name] - location[i]) / spread[i]
        features = pooled_features(setup.encoder, self.generic, setup.compute)
        self.pretrained = self.pretrained or features
        alike = [linear_cka(a, b) for a, b in zip(self.pretrained, features, strict=True)]
        self.truth = measure(setup.data.test.records, scores, setup.recipe.gaussian.score)
        self.truth["retention"] = float(np.mean(alike))


def generic_images(side: int) -> Pixels:
    """Cut crops out of the two photographs that come with scikit-learn, `(2 CROPS, side, side, 3)`."""
    rng = np.random.default_rng(0)
    crops = []
    for photograph in load_sample_images().images:
        height, width = photograph.shape[:2]
        for _ in range(CROPS):
            y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
            crops.append(photograph[y : y + side, x : x + side])
    return np.stack(crops)
