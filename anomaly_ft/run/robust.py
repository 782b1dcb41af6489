"""The training images of a run without those that stand out, judged by the pretrained encoder before anything
is fitted."""

from dataclasses import replace

from anomaly_ft.analysis.suspicion import FEWEST, Batches, cross_fitted, usual_by_trimming
from anomaly_ft.data.dataset import Dataset
from anomaly_ft.data.splits import enough, only
from anomaly_ft.errors import DataError, GaussianError


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
