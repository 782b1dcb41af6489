"""Training augmentations: a pipeline of albumentations transforms, as the recipe lists them.

None by default: what may differ between good parts is `variation`, which statistics and threshold know too.
Whatever varies in training becomes normal to the encoder, and a defect may be just that. What happens
to an image depends on the seed, the epoch and the image alone, not on its batch, so that a run that is
resumed goes on as it would have.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from anomaly_ft.data.pixels import Pixels, Size, sides
from anomaly_ft.errors import DataError, did_you_mean

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for news on the network
import albumentations

# Pixels (n, h, w, 3), which training images they are, and the pass, to pixels of the same shape
Augment = Callable[[Pixels, Sequence[int], int], Pixels]


def make_augment(steps: Sequence[Mapping[str, Mapping[str, Any]]], *, image_size: Size, seed: int) -> Augment:
    """Build the pipeline of `{name: settings}` steps; without steps images pass through untouched.

    Raises:
        DataError: a transform that does not exist, settings it does not take, or one that changes an
            image's size or type.
    """
    if not steps:
        return lambda pixels, *_: pixels
    pipeline = albumentations.Compose(
        [_transform(name, settings) for step in steps for name, settings in step.items()]
    )

    def augment(pixels: Pixels, indices: Sequence[int], epoch: int) -> Pixels:
        out = np.empty_like(pixels)
        for i, (image, index) in enumerate(zip(pixels, indices, strict=True)):
            pipeline.set_random_seed(int(np.random.default_rng([seed, epoch, int(index)]).integers(2**31)))
            out[i] = pipeline(image=image)["image"]
        return out

    shape = (*sides(image_size), 3)
    trial = pipeline(image=np.zeros(shape, np.uint8))["image"]
    if trial.shape != shape or trial.dtype != np.uint8:
        raise DataError(
            f"expert.data.augment: the pipeline turns uint8 {' x '.join(map(str, shape))} into {trial.dtype} "
            f"{' x '.join(map(str, trial.shape))}; images must keep their size and type"
        )
    return augment


def _transform(name: str, settings: Mapping[str, Any]) -> Any:
    known = {
        key: value
        for key, value in vars(albumentations).items()
        if isinstance(value, type)
        and issubclass(value, albumentations.ImageOnlyTransform | albumentations.DualTransform)
    }
    if name not in known:
        raise DataError(
            f"expert.data.augment: albumentations has no transform {name!r}{did_you_mean(name, known)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of settings it does not know it warns only
            return known[name](**settings)
    except (TypeError, ValueError, UserWarning) as cause:
        raise DataError(f"expert.data.augment: {name} cannot be made with {dict(settings)}: {cause}") from cause
