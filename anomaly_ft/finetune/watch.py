"""The validation monitor: tells whether the encoder forgets, from held-out normal images alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.records import PseudoSet, Validation
from anomaly_ft.finetune.validation import validate
from anomaly_ft.model.interface import Detector


@dataclass
class ValidationMonitor:
    """Measures the encoder as it is now on held-out normal images and their pseudo-anomalies.

    Attributes:
        method: makes the detector and scores images.
        sets: pseudo-anomalies of held-out normal images by augmentation.
        kind: the statistics with which epochs are judged.
        cached: what the encoder is given in place of images that it sees again and again.
        observe: is shown the detector of each validation; what it does changes nothing.
    """

    method: Method
    sets: Mapping[str, PseudoSet]
    kind: str
    cached: Callable[[str, Pixels], Pixels] = lambda name, pixels: pixels
    observe: Callable[[Detector], None] = lambda detector: None

    def validate(self, kind: str | None = None) -> Validation:
        """Measure the encoder as it is now, with statistics of the monitor's `kind` or of another one.

        Raises:
            DivergedError: a score that is not finite.
            GaussianError: features to which no Gaussian can be fitted.
        """
        fit = self.method.refit(kind or self.kind)
        self.observe(fit.detector)
        sets = {
            name: replace(pseudo, pixels=self.cached(f"pseudo {name}", pseudo.pixels))
            for name, pseudo in self.sets.items()
            if pseudo.informative
        }
        validation = validate(partial(self.method.score, fit.detector), fit.held_out, sets)
        return replace(validation, watched=self.method.drift(fit))

    def validate_pretrained(self) -> Validation:
        """Measure the pretrained encoder, whose own statistics are there already."""
        return self.validate(self.method.kinds[0])

    def passes(self) -> int:
        """Count the images that one validation gives to the encoder."""
        pseudo = sum(len(pseudo.pixels) for pseudo in self.sets.values() if pseudo.informative)
        return self.method.images(self.kind) + pseudo
