"""Vicinal augmentations: normal images made a little wrong, on purpose and repeatably.

Each function takes one uint8 RGB image `(h, w, 3)`, a partner (another normal image of the same
size), a severity in [0, 1] and a random generator, and returns a new image. Severity 0 gives the
image itself; where things happen is drawn before how big they are, so that growing severity grows
the same defect. They need not look like real defects: they lie just outside of the normal images,
where an encoder that forgets goes blind first.
"""

import math
import os
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else the import looks for news on the network
import albumentations

Pixels = NDArray[np.uint8]
Augmentation = Callable[[Pixels, Pixels, float, Generator], Pixels]


def mixup(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blend in up to half of the partner (Zhang et al., ICLR 2018)."""
    weight = 0.5 * severity * rng.uniform(0.5, 1)
    return np.rint((1 - weight) * image + weight * partner).astype(np.uint8)


def cutmix(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Replace a rectangle by the same place of the partner (Yun et al., ICCV 2019)."""
    box = _box(image, 0.8 * severity, rng, aspect=2.0)
    out = image.copy()
    out[box] = partner[box]
    return out


def cutout(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Fill a rectangle with one random colour (DeVries and Taylor, 2017); albumentations' CoarseDropout."""
    del partner
    side = min(1.0, max(0.5 * severity, 1 / min(image.shape[:2])))
    if severity == 0:
        return image
    drop = albumentations.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(side, side),
        hole_width_range=(side, side),
        fill="random_uniform",
        p=1,
    )
    pipeline = albumentations.Compose([drop], seed=int(rng.integers(2**31)))
    out: Pixels = pipeline(image=image)["image"]
    return out


def cutpaste(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Copy a patch of the image to another place of it (Li et al., CVPR 2021)."""
    del partner
    return _copy_patch(image, rng, side=0.5 * severity, aspect=3.0)


def scar(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Copy a long thin patch to another place (the scar of Li et al., CVPR 2021, axis-aligned)."""
    del partner
    return _copy_patch(image, rng, side=0.25 * severity, aspect=12.0)


def confetti(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Scatter small blots of random colour (Liznerski et al., ICLR 2021)."""
    del partner
    boxes = [(rng.spawn(1)[0], rng.integers(0, 256, 3)) for _ in range(8)]
    out = image.copy()
    for place, colour in boxes:
        box = _box(image, 0.15 * severity, place, aspect=2.0)
        out[box] = np.rint((1 - severity) * out[box] + severity * colour).astype(np.uint8)
    return out


AUGMENTATIONS: dict[str, Augmentation] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "cutout": cutout,
    "cutpaste": cutpaste,
    "scar": scar,
    "confetti": confetti,
}


def pseudo_anomalies(
    pixels: Pixels, names: Sequence[str], augmentation: str, severity: float, *, seed: int
) -> Pixels:
    """One pseudo-anomaly for each normal image, `(n, h, w, 3)`.

    An image's own name and the seed decide what happens to it, so that it is the same in every
    epoch, in every run and in whatever order the images come.
    """
    apply = AUGMENTATIONS[augmentation]
    out = np.empty((len(pixels), *pixels.shape[1:]), np.uint8)
    for i, (image, name) in enumerate(zip(pixels, names, strict=True)):
        key = [seed, zlib.crc32(name.encode()), zlib.crc32(augmentation.encode())]
        step = 1 + int(np.random.default_rng([*key, 1]).integers(max(1, len(pixels) - 1)))
        partner = pixels[(i + step) % len(pixels)]
        out[i] = apply(image, partner, severity, np.random.default_rng(key))
    return out


def _box(image: Pixels, side: float, rng: Generator, *, aspect: float) -> tuple[slice, slice]:
    """A random box of area `side`^2 of the image, up to `aspect` times as long as wide."""
    height, width = image.shape[:2]
    stretch = math.exp(rng.uniform(-0.5, 0.5) * math.log(aspect))
    tall = min(height, round(side * height * stretch))
    wide = min(width, round(side * width / stretch))
    top, left = round(rng.random() * (height - tall)), round(rng.random() * (width - wide))
    return slice(top, top + tall), slice(left, left + wide)


def _copy_patch(image: Pixels, rng: Generator, *, side: float, aspect: float) -> Pixels:
    stretch = aspect if rng.random() < 0.5 else 1 / aspect
    height, width = image.shape[:2]
    tall = min(height, round(side * height * math.sqrt(stretch)))
    wide = min(width, round(side * width / math.sqrt(stretch)))
    rows = [round(r * (height - tall)) for r in rng.random(2)]
    columns = [round(r * (width - wide)) for r in rng.random(2)]
    out = image.copy()
    out[rows[1] : rows[1] + tall, columns[1] : columns[1] + wide] = image[
        rows[0] : rows[0] + tall, columns[0] : columns[0] + wide
    ]
    return out
