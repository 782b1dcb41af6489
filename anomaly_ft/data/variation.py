"""Benign variation: what may differ between two images of good parts, and is no defect.

A *change* is one way in which images differ: light, focus, noise of the sensor, compression, place. Each has a
strength in a unit of its own; a varied image goes through one to three of the changes that are switched on,
each drawn anew up to its strength, and, where parts lie anyhow, through a pose of its own. An image's name, the
seed and the number of the copy decide all of it, so that an image varies alike in every process, in every
batch and after a run was resumed.

What is called benign here the detector will no longer see. These changes and the pseudo-anomalies of
`pseudo_anomalies` are different families, always; a recipe in which both are one thing is refused.
"""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomaly_ft.data.lazy_images import Rows, Take, as_array
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.pixels import Pixels

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for news on the network
import albumentations

AT_ONCE = 3  # changes of one image at most, beside those of POSE
POSE = ("flips", "rotation")  # how a part lies: where that varies, it varies in every image
BORDER_MIRROR = 4  # cv2.BORDER_REFLECT_101
JPEG_BEST = 95  # above it compression is not to be seen


def _around(strength: float) -> tuple[float, float]:
    return 1 - strength, 1 + strength


def jitter(**ranges: tuple[float, float]) -> Any:
    """Make a transform of light and colour; what is not given stays."""
    same = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}
    return albumentations.ColorJitter(**same | ranges, p=1)


def affine(**moves: Any) -> Any:
    """Make a transform that moves, turns or scales; mirrored at the border."""
    return albumentations.Affine(**moves, border_mode=BORDER_MIRROR, p=1)


# Albumentations transforms that vary up to a strength; of a grey image, if the flag is set, all channels alike.
# In the order in which they happen on the way from the part to the file: it lies somehow, is lit, seen through
# a lens, read from a sensor, compressed; turned after its noise an image would have less of it. A shift is by
# whole pixels, so it may come last. The units stand where a recipe sets the strengths.
CHANGES: Mapping[str, Callable[[float, bool], Any]] = {
    "flips": lambda s, grey: albumentations.D4(p=s),
    "rotation": lambda s, grey: affine(rotate=(-s, s)),
    "scale": lambda s, grey: affine(scale=_around(s)),
    "brightness": lambda s, grey: jitter(brightness=_around(s)),
    "contrast": lambda s, grey: jitter(contrast=_around(s)),
    "gamma": lambda s, grey: albumentations.RandomGamma(gamma_limit=(100 * 2**-s, 100 * 2**s), p=1),
    "uneven_light": lambda s, grey: albumentations.Illumination(
        intensity_range=(0.01, max(0.01, s)), angle_range=(0, 360), p=1
    ),
    "white_balance": lambda s, grey: albumentations.MultiplicativeNoise(_around(s), per_channel=not grey, p=1),
    "focus": lambda s, grey: albumentations.GaussianBlur(blur_limit=0, sigma_limit=(0, s), p=1),
    "noise": lambda s, grey: albumentations.GaussNoise(std_range=(0, s / 255), per_channel=not grey, p=1),
    "compression": lambda s, grey: albumentations.ImageCompression(
        quality_range=(min(round(100 - s), JPEG_BEST), JPEG_BEST), p=1
    ),
    "shift": lambda s, grey: affine(translate_px={axis: (-round(s), round(s)) for axis in "xy"}),
}


# What may turn an image by a quarter, for images that are no squares
OBLONG: Mapping[str, Callable[[float, bool], Any]] = {
    "flips": lambda s, grey: albumentations.Compose(
        [albumentations.HorizontalFlip(p=0.5), albumentations.VerticalFlip(p=0.5)], p=s
    )
}


@dataclass(frozen=True)
class Variation:
    """Makes varied copies of images of good parts; false where no change is switched on.

    Attributes:
        strengths: of each of `CHANGES` that is switched on, above zero.
        seed: of the run.
    """

    strengths: Mapping[str, float]
    seed: int = 0

    def __bool__(self) -> bool:
        return bool(self.strengths)

    @cached_property
    def _transforms(self) -> dict[tuple[str, bool, bool], Any]:
        """The transform of each change, for grey images and others, for squares and others."""
        return {
            (name, grey, square): albumentations.Compose([changes[name](strength, grey)])
            for name, strength in self.strengths.items()
            for grey in (False, True)
            for square, changes in ((True, CHANGES), (False, {**CHANGES, **OBLONG}))
        }

    def image(self, image: Pixels, key: Sequence[int]) -> Pixels:
        """Vary one uint8 RGB image `(h, w, 3)`; the numbers of `key` decide how."""
        if not self.strengths:
            return image
        rng = np.random.default_rng([self.seed, *key])
        grey, square = bool((image[..., :1] == image).all()), image.shape[0] == image.shape[1]
        active = [name for name in CHANGES if name in self.strengths]
        chosen = {name for name in active if name in POSE}
        if others := [name for name in active if name not in POSE]:
            count = int(rng.integers(1, 1 + min(AT_ONCE, len(others))))
            chosen |= {others[i] for i in rng.choice(len(others), count, replace=False)}
        for name in active:
            if name in chosen:
                transform = self._transforms[name, grey, square]
                transform.set_random_seed(_seed(rng))
                image = transform(image=image)["image"]
        return image

    def batch(self, pixels: Pixels, names: Sequence[str], number: int, *, clean: float = 0.0) -> Pixels:
        """Vary images `(n, h, w, 3)`, all but a share of `clean` ones; other numbers vary otherwise."""
        out = pixels.copy()
        for k, name in enumerate(names):
            key = [number, zlib.crc32(name.encode())]
            if not clean or np.random.default_rng([self.seed, *key, 1]).random() >= clean:
                out[k] = self.image(pixels[k], key)
        return out

    def copy(self, images: Images, number: int) -> Images:
        """Make a varied copy of each image when it is asked for; copies of other numbers vary otherwise."""

        def make(wanted: NDArray[np.intp]) -> Pixels:
            return self.batch(images.pixels[wanted], [images.records[i].name for i in wanted], number)

        return _rows(make, len(images), images)


def with_copies(images: Images, variation: Variation, copies: int) -> Images:
    """Append so many varied copies of each image after all images: `(1 + copies) n` in blocks of n.

    Args:
        images: n images of good parts.
        variation: how copies vary; where it is empty there are none.
        copies: of each image.
    """
    if not variation or not copies:
        return images
    blocks = [images, *(variation.copy(images, number) for number in range(copies))]
    count = len(images)
    return _merge(blocks, np.repeat(np.arange(len(blocks)), count), images)


def half_varied(images: Images, variation: Variation) -> Images:
    """Choose each image as it is or its first varied copy, by chance: what pseudo-anomalies are made of."""
    if not variation:
        return images
    chance = [zlib.crc32(f"half {record.name}".encode()) % 2 for record in images.records]
    return _merge([images, variation.copy(images, 0)], np.array(chance), images)


def _merge(blocks: Sequence[Images], source: NDArray[np.intp], images: Images) -> Images:
    """Merge blocks of images: row i, counted round and round the images, from the block that `source[i]`
    names."""
    count = len(images)

    def take(wanted: NDArray[np.intp]) -> Pixels:
        out = np.empty((len(wanted), *images.pixels.shape[1:]), np.uint8)
        for number, block in enumerate(blocks):
            rows = np.flatnonzero(source[wanted] == number)
            if len(rows):
                out[rows] = block.pixels[wanted[rows] % count]
        return out

    return _rows(take, len(source), images)


def _rows(take: Take, length: int, images: Images) -> Images:
    """Wrap images that `take` makes, with the records of `images`, repeated as often as it takes."""
    pixels = Rows(take, np.arange(length), images.pixels.shape[1:])
    return Images(as_array(pixels), images.records * (length // max(1, len(images))))


def _seed(rng: Generator) -> int:
    return int(rng.integers(2**31))
