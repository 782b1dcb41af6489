"""Decision thresholds and the false positive rates that they guarantee."""

import math
from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class WorkingPoint:
    """A score above `threshold` is called anomalous; at most `guaranteed_fpr` of normal images are,
    averaged over calibration sets of `images` held-out normals. `target_fpr` is what was asked for.
    `varied_fpr` bounds the same share among images that vary as the recipe allows; None: no guarantee."""

    threshold: float
    target_fpr: float
    guaranteed_fpr: float
    images: int
    varied_fpr: float | None = None

    def likely_at_most(self, confidence: float = 0.95) -> float:
        """Bound the rate of this one threshold, set on these images, with the given confidence.

        The guarantee is an average over calibration sets; for continuous scores the rate of one of them
        follows a beta distribution (Vovk, ACML 2012).
        """
        rank = round((1 - self.guaranteed_fpr) * (self.images + 1))
        return float(beta.ppf(confidence, self.images + 1 - rank, rank))

    def __str__(self) -> str:
        text = (
            f"threshold {self.threshold:.4g}: at most {self.guaranteed_fpr:.2%} of normal images are rejected"
        )
        if self.guaranteed_fpr > self.target_fpr:
            text += f" (the least that {self.images} held-out normals can guarantee; "
            text += f"the target is {self.target_fpr:.2%})"
        if self.varied_fpr is not None:
            text += f"; varied as the recipe allows, at most {self.varied_fpr:.2%}"
        return text


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of a detector.

    Attributes:
        point: on the score that decides.
        parametric: on the distance of each level and on their mean, if features were Gaussian; may be empty.
        map_limit: the value that no place of an unsuspicious map exceeds.
    """

    point: WorkingPoint
    parametric: tuple[float, ...] = ()
    map_limit: float = math.inf
