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
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomaly_ft.data.faint_anomalies import blend, line, stain, warp
from anomaly_ft.data.lazy_images import Rows, as_array

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
    return _apply(
        albumentations.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=(side, side),
            hole_width_range=(side, side),
            fill="random_uniform",
            p=1,
        ),
        image,
        rng,
    )


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


def blur(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blur by a Gaussian of up to 2 % of the image's side; albumentations' GaussianBlur."""
    del partner
    sigma = 0.02 * severity * rng.uniform(0.5, 1) * min(image.shape[:2])
    if sigma < 0.1:  # the kernel's neighbours weigh less than a grey value
        return image
    return _apply(albumentations.GaussianBlur(blur_limit=0, sigma_limit=(sigma, sigma), p=1), image, rng)


def noise(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Add Gaussian noise of up to a quarter of the range of values; albumentations' GaussNoise."""
    del partner
    spread = 0.25 * severity * rng.uniform(0.5, 1)
    return _apply(albumentations.GaussNoise(std_range=(spread, spread), p=1), image, rng)


def colour(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Change brightness, contrast and saturation by up to a half, the hue by up to a tenth of the circle."""
    del partner
    brightness, contrast, saturation, hue = severity * rng.uniform(-1, 1, 4) * [0.5, 0.5, 0.5, 0.1]
    if severity == 0:
        return image
    jitter = albumentations.ColorJitter(
        brightness=(1 + brightness,) * 2,
        contrast=(1 + contrast,) * 2,
        saturation=(1 + saturation,) * 2,
        hue=(hue,) * 2,
        p=1,
    )
    return _apply(jitter, image, rng)


def augmix(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blend in three chains of one to three changes each (after AugMix, Hendrycks et al., ICLR 2020)."""
    weights, share = rng.dirichlet(np.ones(3)), severity * rng.uniform(0.5, 1)
    mixed = np.zeros(image.shape)
    for weight in weights:
        changed = image
        for step in rng.choice(len(CHAIN), size=rng.integers(1, 4)):
            changed = CHAIN[step](changed, partner, severity, rng.spawn(1)[0])
        mixed += weight * changed
    return np.rint((1 - share) * image + share * mixed).astype(np.uint8)


def _shift(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Turn, shear and move, mirrored at the border; a step of a chain."""
    del partner
    turn, shear, x, y = severity * rng.uniform(-1, 1, 4) * [30, 15, 0.2, 0.2]
    if severity == 0:
        return image
    move = albumentations.Affine(
        rotate=(turn, turn),
        shear=(shear, shear),
        translate_percent={"x": (x, x), "y": (y, y)},
        border_mode=BORDER_MIRROR,
        p=1,
    )
    return _apply(move, image, rng)


BORDER_MIRROR = 4  # cv2.BORDER_REFLECT_101
CHAIN: list[Augmentation] = [_shift, colour, blur, noise]
AUGMENTATIONS: dict[str, Augmentation] = {
    "mixup": mixup,
    "cutmix": cutmix,
    "cutout": cutout,
    "cutpaste": cutpaste,
    "scar": scar,
    "confetti": confetti,
    "line": line,
    "stain": stain,
    "blend": blend,
    "warp": warp,
    "augmix": augmix,
    "blur": blur,
    "noise": noise,
    "colour": colour,
}


def pseudo_anomalies(
    pixels: Pixels, names: Sequence[str], augmentation: str, severity: float, *, seed: int, keep: bool = True
) -> Pixels:
    """Make one pseudo-anomaly of each normal image, `(n, h, w, 3)`.

    An image's own name and the seed decide what happens to it and how many places further on its partner is, so
    that the same images in the same order give the same in every epoch and in every run. In another order
    partners are others. `keep`: they are made now and held in memory; else each is made again whenever it is
    asked for.
    """
    apply, count = AUGMENTATIONS[augmentation], len(pixels)
    if count != len(names):
        raise ValueError(f"{len(names)} names for {count} images")

    def make(wanted: NDArray[np.intp]) -> Pixels:
        out = np.empty((len(wanted), *pixels.shape[1:]), np.uint8)
        for k, i in enumerate(wanted):
            key = [seed, zlib.crc32(names[i].encode()), zlib.crc32(augmentation.encode())]
            step = 1 + int(np.random.default_rng([*key, 1]).integers(max(1, count - 1)))
            partner = pixels[(i + step) % count]
            out[k] = apply(pixels[i], partner, severity, np.random.default_rng(key))
        return out

    rows = Rows(make, np.arange(count), pixels.shape[1:])
    if keep:
        return np.asarray(rows)
    return as_array(rows)


def _apply(transform: Any, image: Pixels, rng: Generator) -> Pixels:
    """Apply one albumentations transform, its randomness drawn from `rng`."""
    pipeline = albumentations.Compose([transform], seed=int(rng.integers(2**31)))
    out: Pixels = pipeline(image=image)["image"]
    return out


def _box(image: Pixels, side: float, rng: Generator, *, aspect: float) -> tuple[slice, slice]:
    """Draw a box of area `side`^2 of the image, up to `aspect` times as long as wide."""
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
