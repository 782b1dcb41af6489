"""Features of all training images, few of them in memory at a time, and the split without those that stand out.

What stands out is judged by the pretrained encoder, before anything is fitted (`analysis.suspicion`).
"""

from collections.abc import Iterator
from dataclasses import replace

from anomaly_ft.analysis.suspicion import FEWEST, Batches, Levels, cross_fitted, held, usual_by_trimming
from anomaly_ft.data.dataset import Dataset
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.splits import enough, only
from anomaly_ft.errors import DataError, GaussianError
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.inference import pooled_features

HELD = 16_384  # images whose features are held in memory, 8 KB each; of more they are computed in each pass
CHUNK = 1024  # images whose features are computed together, where they are not held


def features_of(encoder: Encoder, pixels: Pixels, compute: Compute) -> Batches:
    """Give the pooled features of images `(n, h, w, 3)`; memory does not grow with their number."""
    if len(pixels) <= HELD:
        return held(pooled_features(encoder, pixels, compute))

    def chunks() -> Iterator[Levels]:
        for start in range(0, len(pixels), CHUNK):
            yield pooled_features(encoder, pixels[start : start + CHUNK], compute)

    return chunks


def without_suspicious(data: Dataset, batches: Batches, seed: int) -> tuple[Dataset, list[str]]:
    """Leave training images that stand out from the others out of every part of the split; returns the names
    of these too. A part of which hardly anything is usual keeps its two least suspicious images.

    Args:
        data: of the run.
        batches: pooled features of its training images.
        seed: of the folds.

    Raises:
        DataError: too few images to tell which stand out, or images that do not vary.
    """
    count = len(data.undivided)
    if count < FEWEST:
        raise DataError(f"expert.gaussian.robust: what stands out among training images takes {FEWEST} at "
                        f"least, there are {count}; add good images, or set it to false")  # fmt: skip
    try:
        usual = usual_by_trimming(batches, count, seed=seed)
        usual = enough(data.split, usual, cross_fitted(batches, count, seed=seed))
    except GaussianError as cause:  # such as copies of one image
        raise DataError(f"expert.gaussian.robust: {cause}; set it to false") from cause
    names = [record.name for record, kept in zip(data.undivided.records, usual, strict=True) if not kept]
    return replace(data, split=only(data.split, usual)), names
