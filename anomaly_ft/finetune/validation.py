"""Vicinal validation: can the encoder still tell normal images from slightly wrong ones?

Held-out normal images become pseudo-anomalies, once; after every epoch the AUROC of the normal
against the wrong ones is measured again. No real anomaly is needed, none is looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pseudo_anomalies import Pixels, pseudo_anomalies
from anomaly_ft.finetune.records import PseudoSet, Validation
from anomaly_ft.metrics import Floats, placements

Score = Callable[[Pixels], Floats]  # `(n,)`
HALVINGS = 6  # bisection steps: severity to 1/64
SEARCHED = 64  # images at most on which severities are searched; what was found is measured on all
CLOSE = 0.02  # near enough to the target: the AUROC of 50 against 50 images has a standard error of 0.04


@dataclass(frozen=True)
class HeldOut:
    """Held-out normal images, the pretrained encoder's score of them, and how pseudo-anomalies are drawn.

    Attributes:
        images: n images, some of them varied: what pseudo-anomalies are made of.
        normal: scores `(k n,)` of the n images as they are, and in further blocks of n of varied copies.
        score: of images, by the pretrained encoder's detector.
        seed: of the run.
        keep: see `pseudo_anomalies`.
    """

    images: Images
    normal: Floats
    score: Score
    seed: int
    keep: bool = True

    def first(self, count: int) -> "HeldOut":
        """Give only the first `count` images, with the scores of their varied copies."""
        normal = self.normal.reshape(-1, len(self.images))[:, :count].reshape(-1)
        images = Images(self.images.pixels[:count], self.images.records[:count])
        return replace(self, images=images, normal=normal)


def calibrate(
    normals: HeldOut, augmentations: Sequence[str], *, target: float, tolerance: float
) -> dict[str, PseudoSet]:
    """Find for each augmentation the severity at which the pretrained encoder reaches the `target` AUROC.

    Bisection, on some of the images: a weaker augmentation when the AUROC is above the target, a stronger
    one below. An augmentation that does not come within `tolerance` is kept but marked as not informative; if
    none is within it, the closest is used.
    """
    sets, few = {}, normals.first(SEARCHED)
    for augmentation in augmentations:
        best = _pseudo_set(few, augmentation, 1.0)
        # at full severity most is told apart: where even that is too little, nothing weaker helps
        low, high = 0.0, 1.0
        for _ in range(HALVINGS if best.baseline_auroc > target else 0):
            if abs(best.baseline_auroc - target) <= CLOSE:
                break
            tried = _pseudo_set(few, augmentation, (low + high) / 2)
            low, high = (low, tried.severity) if tried.baseline_auroc > target else (tried.severity, high)
            best = min(best, tried, key=lambda s: abs(s.baseline_auroc - target))
        all_seen = len(few.images) == len(normals.images)
        sets[augmentation] = best if all_seen else _pseudo_set(normals, augmentation, best.severity)

    def miss(name: str) -> float:
        return abs(sets[name].baseline_auroc - target)

    nearest = min(sets, key=miss)
    return {
        name: replace(pseudo, informative=miss(name) <= tolerance or name == nearest)
        for name, pseudo in sets.items()
    }


def fixed(normals: HeldOut, augmentations: Sequence[str], *, severity: float) -> dict[str, PseudoSet]:
    """Make pseudo-anomalies of every augmentation at one given severity, all of them informative."""
    return {name: _pseudo_set(normals, name, severity) for name in augmentations}


def validate(score: Score, normal: Floats, sets: Mapping[str, PseudoSet]) -> Validation:
    """Tell n pseudo-anomalies from the normal images that they were made of, whose scores are given, `(k
    n,)`: of the n images, and in further blocks of n of their varied copies. The total is over the informative
    sets alone.

    Raises:
        DivergedError: a score that is not finite.
    """
    return summed_up(normal, {name: score(pseudo.pixels) for name, pseudo in sets.items()}, sets)


def summed_up(normal: Floats, scored: Mapping[str, Floats], sets: Mapping[str, PseudoSet]) -> Validation:
    """Do what `validate` does with scores of the pseudo-anomalies that are there already, by augmentation."""
    by_augmentation: dict[str, float] = {}
    influences: dict[str, Floats] = {}
    for name, pseudo in sets.items():
        of_normal, of_pseudo = placements(normal, scored[name])
        by_augmentation[name] = float(of_pseudo.mean())
        if pseudo.informative:
            each = of_normal.reshape(-1, len(of_pseudo)).mean(0)  # an image and its varied copies count as one
            influences[name] = each + of_pseudo - 2 * of_pseudo.mean()
    auroc = np.mean([by_augmentation[name] for name in influences])
    return Validation(float(auroc), by_augmentation, influences, float(normal.mean()))


def _pseudo_set(normals: HeldOut, augmentation: str, severity: float) -> PseudoSet:
    """Make pseudo-anomalies and measure their AUROC against the normal images."""
    images = normals.images
    names = [record.name for record in images.records]
    pixels = pseudo_anomalies(
        images.pixels, names, augmentation, severity, seed=normals.seed, keep=normals.keep
    )
    return PseudoSet(pixels, severity, float(placements(normals.normal, normals.score(pixels))[1].mean()))
