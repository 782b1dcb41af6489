"""What a threshold did to good images beside what it promised, and whether that is still chance. Pure.

Held-out and new good images are exchangeable, so the rate of one threshold follows a beta distribution, and how
many of n new images it rejects a beta-binomial one (Vovk, ACML 2012): a threshold from few held-out images may
well reject more than it promises on average, and that alone is no sign of change.
"""

from scipy.stats import betabinom

from anomaly_ft.evaluation.working_points import Observed
from anomaly_ft.model.threshold import WorkingPoint

CHANCE = 0.005  # of a warning where nothing changed


def promised(point: WorkingPoint) -> float:
    """The share of good images that is rejected at most, varied as the recipe allows or not."""
    return max(point.guaranteed_fpr, point.varied_fpr or 0.0)


def far_too_many(rejected: int, images: int, point: WorkingPoint) -> bool:
    """Whether so many of these images are rejected that they can hardly all be good ones as before."""
    if not rejected:
        return False
    above = promised(point) * (point.images + 1)  # held-out images, and the new one, that may be above it
    tail = betabinom.sf(rejected - 1, images, above, max(point.images + 1 - above, 1e-9))
    return bool(tail < CHANCE)


def say_far_too_many(rejected: int, images: int, point: WorkingPoint, *, known_good: bool = False) -> str:
    """Say that far more images are rejected than promised; nothing where that may be chance.

    >>> print(say_far_too_many(10, 12, WorkingPoint(4.0, 0.05, 1 / 13, 12)))
    10 of 12 images rejected where at most 7.7 % of good ones was promised: unless so many are defective, the \
images have changed (light, focus, camera, parts?), and the threshold does not hold for them
    """
    if not far_too_many(rejected, images, point):
        return ""
    what, of = ("good images", "") if known_good else ("images", " of good ones")
    either = "" if known_good else "unless so many are defective, "
    changed = "the images have changed (light, focus, camera, parts?), and the threshold does not hold for them"
    most = f"at most {_percent(promised(point))}{of}"
    return f"{rejected} of {images} {what} rejected where {most} was promised: {either}{changed}"


def say_false_alarms(found: Observed, point: WorkingPoint) -> str:
    """Say how many good images are rejected, and how many were promised at most.

    >>> print(say_false_alarms(Observed(3, 412, 3 / 412, 0.0025, 0.0212), WorkingPoint(4.0, 0.02, 0.024, 83)))
    3 of 412 good images rejected (0.7 %; 95 % interval 0.2 % to 2.1 %), promised at most 2.4 %
    """
    varied = point.varied_fpr
    more = (
        f" ({_percent(varied)} varied as the recipe allows)" if varied and varied > point.guaranteed_fpr else ""
    )
    ends = f"95 % interval {_percent(found.low)} to {_percent(found.high)}"
    seen = f"{found.rejected} of {found.images} good images rejected ({_percent(found.rate)}; {ends})"
    if not point.images:
        return f"{seen}, nothing was promised of them"
    return f"{seen}, promised at most {_percent(point.guaranteed_fpr)}{more}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
