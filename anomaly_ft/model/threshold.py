"""Decision thresholds and what they promise."""

import math
from dataclasses import dataclass

from scipy.stats import beta


@dataclass(frozen=True)
class WorkingPoint:
    """A score above `threshold` is called anomalous; at most `promised_fpr` of normal images are,
    averaged over calibration sets of `images` held-out normals. `wanted_fpr` is what was asked for."""

    threshold: float
    wanted_fpr: float
    promised_fpr: float
    images: int

    def likely_at_most(self, confidence: float = 0.95) -> float:
        """The rate that this one threshold, set on these images, stays below with the given confidence.

        The promise is an average over calibration sets; for continuous scores the rate of one of them
        follows a beta distribution (Vovk, ACML 2012).
        """
        rank = round((1 - self.promised_fpr) * (self.images + 1))
        return float(beta.ppf(confidence, self.images + 1 - rank, rank))

    def __str__(self) -> str:
        said = f"threshold {self.threshold:.4g}: at most {self.promised_fpr:.2%} of normal images are rejected"
        if self.promised_fpr > self.wanted_fpr:
            said += (
                f" (the least that {self.images} held-out normals can promise; wanted {self.wanted_fpr:.2%})"
            )
        return said


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
