"""Data sets with defective images among the training images, and without those that look suspicious."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.analysis.contamination import Plan, dealt
from anomaly_ft.data.dataset import Dataset
from anomaly_ft.data.lazy_images import Rows, as_array, view
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.data.records import PARTS
from anomaly_ft.data.splits import Split, only
from anomaly_ft.model.gaussian.cache_early import EarlyCache
from anomaly_ft.run.setup import Setup

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Planted:
    """A data set with planted training images; `planted (n,)` says which of them those are."""

    data: Dataset
    planted: Flags


def plant(data: Dataset, deal: Plan, share: float) -> Planted:
    """Plant defective test images behind the training images, in every part of the split the same share, and
    take out of the test what is planted at any share.

    At a share of 0 training images and split are the very ones of `data`.
    """
    defective = [i for i, record in enumerate(data.test.records) if record.anomalous]
    good = [i for i, record in enumerate(data.test.records) if not record.anomalous]
    wanted = [defective[k] for k in deal.planted[share]]
    test = _some(data.test, sorted([*good, *(defective[k] for k in deal.tested)]))
    count = len(data.undivided)
    flags = np.arange(count + len(wanted)) >= count
    if not wanted:
        return Planted(replace(data, test=test), flags)
    added = _some(data.test, wanted)
    train = Images(
        _joined(data.undivided.pixels, added.pixels),
        (*data.undivided.records, *added.records),
        data.undivided.skipped,
    )
    parts = [tuple(getattr(data.split, part)) for part in PARTS]
    places = iter(range(count, count + len(wanted)))
    counts = dealt(len(wanted), [len(part) for part in parts])
    split = Split(*((*part, *(next(places) for _ in range(k))) for part, k in zip(parts, counts, strict=True)))
    return Planted(replace(data, undivided=train, test=test, split=split), flags)


def without(data: Dataset, usual: Flags) -> Dataset:
    """Leave training images that are not usual `(n,)` out of every part of the split."""
    return replace(data, split=only(data.split, usual))


def with_data(setup: Setup, data: Dataset) -> Setup:
    """Give the run on other images; nothing that was computed of its own ones is kept."""
    early = EarlyCache(setup.encoder, setup.compute, setup.detector_settings(), setup.early.room)
    return replace(setup, data=data, early=early, seconds={}, features=None, pseudo={}, position=None)


def _some(images: Images, places: Sequence[int]) -> Images:
    return Images(view(images.pixels, list(places)), tuple(images.records[i] for i in places), images.skipped)


def _joined(first: Pixels, second: Pixels) -> Pixels:
    """Concatenate the pixels of both, still not fetched."""

    def take(wanted: NDArray[np.intp]) -> Pixels:
        out = np.empty((len(wanted), *shape), np.uint8)
        from_first = wanted < len(first)
        if from_first.any():
            out[from_first] = first[wanted[from_first]]
        if not from_first.all():
            out[~from_first] = second[wanted[~from_first] - len(first)]
        return out

    shape: tuple[int, int, int] = first.shape[1:]
    return as_array(Rows(take, np.arange(len(first) + len(second)), shape))
