"""Faint pseudo-anomalies: scratches, stains, foreign patches and dents of little contrast.

Each function takes and returns what the augmentations of `pseudo_anomalies` do. Size and contrast grow together
with the severity, at a place that is drawn before. An encoder that forgets still tells large contrasty changes
from normal images when it has lost the faint ones.
"""

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomaly_ft.data.shapes import Mask, curved_line, smooth_field, soft_ellipse

Pixels = NDArray[np.uint8]


def line(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Draw a thin curved line, brighter or darker than what it crosses by up to half of the range of values;
    up to 0.7 of the side long and a hundredth wide."""
    del partner
    mask = curved_line(image.shape[:2], 0.7 * math.sqrt(severity), rng)
    return _tint(image, mask, 0.5 * severity, rng)


def stain(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Lay a soft uneven blot over the image, brighter or darker by up to 0.4 of the range of values; up to a
    third of the side across, longer where it is stretched."""
    del partner
    mask = soft_ellipse(image.shape[:2], 0.33 * math.sqrt(severity) * rng.uniform(0.4, 1), rng)
    mask *= np.clip(smooth_field(image.shape[:2], 6, rng), 0.3, 1)
    return _tint(image, mask, 0.4 * severity, rng)


def blend(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blend a soft patch of another place of the partner into the image, as large as a stain."""
    height, width = image.shape[:2]
    mask = soft_ellipse(image.shape[:2], 0.33 * math.sqrt(severity) * rng.uniform(0.4, 1), rng)[..., None]
    other = np.roll(partner, rng.integers((height, width)) // 2 + (height // 4, width // 4), (0, 1))
    mask = 0.8 * severity**0.5 * mask
    mixed: Pixels = np.rint((1 - mask) * image + mask * other).astype(np.uint8)
    return mixed


def warp(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Push what is in a soft blot aside by up to a twelfth of the side."""
    del partner
    height, width = image.shape[:2]
    mask = soft_ellipse(image.shape[:2], 0.33 * rng.uniform(0.6, 1), rng)
    angle, push = rng.uniform(0, math.tau), severity * min(height, width) / 12
    rows, columns = np.indices((height, width), np.float32)
    x = columns + np.float32(push * math.cos(angle)) * mask
    y = rows + np.float32(push * math.sin(angle)) * mask
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _tint(image: Pixels, mask: Mask, contrast: float, rng: Generator) -> Pixels:
    """Make the image brighter or darker under the mask by a share of the range of values, the likelier the more
    room there is that way, and each colour a little more or less."""
    upwards = rng.random()
    colour = rng.uniform(0.7, 1, 3)
    level = float((image.mean(-1) * mask).sum() / max(float(mask.sum()), 1e-6)) / 255
    sign = 1 if upwards > level else -1
    changed = image + (255 * contrast * sign) * mask[..., None] * colour
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)
