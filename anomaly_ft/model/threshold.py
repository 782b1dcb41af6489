"""Decision thresholds and the false positive rates that they guarantee."""

import math
from dataclasses import dataclass

from scipy.stats import beta

CONFIDENCE = 0.95  # of a guarantee for one threshold


def images_needed(rate: float, confidence: float | None = None) -> int:
    """Count the held-out normal images of which the highest score guarantees a rate: averaged over sets of
    them, or for a single set with the given confidence.

    >>> [images_needed(rate, 0.95) for rate in (0.1, 0.05, 0.02, 0.01)], images_needed(0.01)
    ([29, 59, 149, 299], 99)
    """
    if confidence is None:
        return math.ceil(1 / rate - 1 - 1e-9)
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate) - 1e-9)


@dataclass(frozen=True)
class WorkingPoint:
    """A score above `threshold` is called anomalous.

    Attributes:
        threshold: on the score that decides.
        target_fpr: the share of normal images that was asked for.
        guaranteed_fpr: at most so many are rejected; 1 where nothing is guaranteed.
        images: held-out normal images that set it, groups counted once; 0: set otherwise.
        varied_fpr: bounds the same share among images that vary as the recipe allows, on average; None: no
            guarantee.
        confidence: with which the guarantee holds for this one threshold; None: it holds averaged over
            calibration sets.
        found_share: at least so many defective images lie above it, with 95 % confidence, where it was set on
            labelled ones; None: nobody knows.
    """

    threshold: float
    target_fpr: float
    guaranteed_fpr: float
    images: int
    varied_fpr: float | None = None
    confidence: float | None = None
    found_share: float | None = None

    def likely_at_most(self, confidence: float = CONFIDENCE) -> float:
        """Bound the rate of this one threshold, set on these images, with the given confidence.

        A guarantee on average is one over calibration sets; for continuous scores the rate of one of them
        follows a beta distribution (Vovk, ACML 2012).
        """
        if self.confidence is not None or not self.images:
            return self.guaranteed_fpr
        rank = round((1 - self.guaranteed_fpr) * (self.images + 1))
        return float(beta.ppf(confidence, self.images + 1 - rank, rank))

    @property
    def missing(self) -> int:
        """Held-out normal images that are missing for the rate asked for."""
        if not self.images or self.guaranteed_fpr <= self.target_fpr:
            return 0
        return max(0, images_needed(self.target_fpr, self.confidence) - self.images)

    @property
    def _alone(self) -> str:
        """Say what the guarantee leaves open: the average is one over sets of held-out images, this is one."""
        return f"less than {self.likely_at_most():.2%} by this one with {CONFIDENCE:.0%} confidence"

    def __str__(self) -> str:
        text = f"threshold {self.threshold:.4g}: "
        if not self.images:
            text += "nothing is guaranteed of normal images"
        else:
            text += f"at most {self.guaranteed_fpr:.2%} of normal images are rejected"
            text += (
                f" with {self.confidence:.0%} confidence"
                if self.confidence
                else f" on average over thresholds, {self._alone}"
            )
        if self.images and self.guaranteed_fpr > self.target_fpr:
            text += f" (the least that {self.images} held-out normals can guarantee; "
            text += f"the target is {self.target_fpr:.2%}, {self.missing} more are needed for it)"
        if self.varied_fpr is not None:
            text += f"; varied as the recipe allows, at most {self.varied_fpr:.2%}"
        if self.found_share is not None:
            text += f"; at least {self.found_share:.1%} of defective images are found, "
            text += f"with {CONFIDENCE:.0%} confidence"
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
