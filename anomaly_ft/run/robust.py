"""The training images of a run without those that stand out, judged by the pretrained encoder before anything
is fitted."""

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.analysis.suspicion import FEWEST, Batches, cross_fitted, usual_by_trimming
from anomaly_ft.data.splits import Split, enough
from anomaly_ft.errors import DataError, GaussianError


def usual_images(split: Split, batches: Batches, count: int, seed: int) -> NDArray[np.bool_]:
    """Select the training images `(count,)` that do not stand out from the others; a part of which hardly
    anything is usual keeps its two least suspicious images.

    Args:
        split: of the training images.
        batches: their pooled features.
        count: so many there are.
        seed: of the folds.

    Raises:
        DataError: too few images to tell which stand out, or images that do not vary.
    """
    if count < FEWEST:
        raise DataError(f"expert.gaussian.robust: what stands out among training images takes {FEWEST} at "
                        f"least, there are {count}; add good images, or set it to false")  # fmt: skip
    try:
        usual = usual_by_trimming(batches, count, seed=seed)
        return enough(split, usual, cross_fitted(batches, count, seed=seed))
    except GaussianError as cause:  # such as copies of one image
        raise DataError(f"expert.gaussian.robust: {cause}; set it to false") from cause
