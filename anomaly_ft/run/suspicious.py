"""Which training images should somebody look at before the detector is trusted?

They are scored with the pretrained encoder: one that was fine-tuned has drawn near what it was trained on, the
defective images among it too. Nothing of it goes back into the run, but for `expert.gaussian.robust`.
"""

from typing import Any

import numpy as np

from anomaly_ft.analysis.suspicion import CUTOFF, FEWEST, cross_fitted, modified_z
from anomaly_ft.data.records import PARTS
from anomaly_ft.errors import GaussianError
from anomaly_ft.model.inference import feature_batches
from anomaly_ft.run.setup import Setup

LISTED = 8
LEFT_OUT = "left out"  # in place of its part, of an image that the recipe's `robust` took out of the run


def suspicious_images(setup: Setup) -> list[dict[str, Any]]:
    """List the training images that look least like the others, the most suspicious first, as the rows of
    `RunSummary.suspicious`; nothing where there are too few images to hold any out.

    Each is scored by Gaussians of the pretrained encoder's features that were fitted without it.
    """
    images = setup.data.undivided
    if len(images) < FEWEST:
        return []
    batches = setup.features or feature_batches(setup.encoder, images.pixels, setup.compute)
    try:
        distances = cross_fitted(batches, len(images), seed=setup.recipe.seed)
    except GaussianError as cause:  # such as copies of one image: without the others these do not vary
        setup.terminal.say(f"suspicious training images are not looked for: {cause}")
        return []
    above = modified_z(distances)
    parts = {i: part for part in PARTS for i in getattr(setup.data.split, part)}
    return [
        {
            "name": images.records[i].name,
            "part": parts.get(i, LEFT_OUT),
            "distance": float(distances[i]),
            "deviations": float(above[i]),
            "stands_out": bool(above[i] > CUTOFF),
        }
        for i in np.argsort(-distances, kind="stable")[:LISTED].tolist()
    ]
