"""A few known defects in the objective of the induced Gaussian (after deviation networks, Pang et al., 2019).

There a network learns one number, and a standard normal prior says what is usual. Here the prior is what the
pretrained encoder induced. How far an image deviates is told by how far *held-out* normal images lie from its
Gaussians: those that the Gaussians were fitted to lie far nearer than any image that comes later, so neither
they nor the chi-square distribution say what is usual. What good images lose stays the induced distance; in
the paper it is their absolute deviation, which would pull them to where held-out ones were, and not nearer.
"""

import numpy as np
import torch
from torch import Tensor

from anomaly_ft.finetune.brakes.penalties import Term
from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import Floats

MARGIN = 5.0  # standard deviations beyond which a defect is far enough; of Pang et al., not measured here


def usual_deviation(distances: Floats) -> tuple[Floats, Floats]:
    """Compute mean and standard deviation, `(levels,)` each, of the distances `(n, levels)` of held-out normal
    images.

    Raises:
        ValueError: fewer than two images, or a level at which all lie alike.
    """
    if len(distances) < 2:
        raise ValueError(
            f"{len(distances)} held-out normal images do not say what is usual, expected 2 or more"
        )
    spread = distances.std(0, ddof=1)
    if not (spread > 0).all():
        raise ValueError("held-out normal images lie alike at a level; nothing says how far is unusual")
    return distances.mean(0), spread


def known_defects(
    detector: GaussianDetector, defects: Tensor, usual: tuple[Floats, Floats], margin: float = MARGIN
) -> Term:
    """Add what known defects lack of `margin` standard deviations, mean over them: max(0, margin - dev), where
    dev is the weighted mean over levels of (d - mean) / standard deviation, d the distance to the level's
    Gaussian.

    They are the same in every step and do not depend on the batch, so their mean counts once however the batch
    is divided.

    Args:
        detector: its encoder trains, its Gaussians stay.
        defects: `(n, 3, h, w)` in 0..255, on the encoder's device.
        usual: mean and standard deviation of the distances of held-out normal images at each level,
        `(levels,)`.
        margin: how many standard deviations are enough.
    """
    mean, spread = (torch.from_numpy(np.asarray(v)).float().to(defects.device) for v in usual)

    def term(*_batch: object) -> Tensor:
        with detector.encoder.folded():
            squared = detector.squared_level_distances(pool(detector.encoder(defects)))
        distances = squared.clamp_min(torch.finfo(squared.dtype).tiny).sqrt()  # the root of 0 has no slope
        deviations = ((distances - mean) / spread * detector.level_weights).sum(1)
        return (margin - deviations).clamp_min(0).mean()

    return term
