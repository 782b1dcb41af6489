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

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
CURVE = np.linspace(0, 1, 33)[:, None]  # a curve is drawn as so many points
FRACTION = 4  # bits of a pixel's fraction in cv2's coordinates


def line(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Draw a thin curved line, brighter or darker than what it crosses by up to half of the range of values;
    up to 0.7 of the side long and a hundredth wide."""
    del partner
    height, width = image.shape[:2]
    side, angle, bend = min(height, width), rng.uniform(0, math.tau), rng.uniform(-0.3, 0.3)
    length = 0.7 * side * math.sqrt(severity) * rng.uniform(0.4, 1)
    start = rng.random(2) * (width - 1, height - 1)
    along = np.array([math.cos(angle), math.sin(angle)]) * length
    along *= np.where(
        (start + along >= 0) & (start + along <= (width - 1, height - 1)), 1, -1
    )  # into the image
    middle = start + along / 2 + bend * along[::-1] * (1, -1)
    points = (1 - CURVE) ** 2 * start + 2 * CURVE * (1 - CURVE) * middle + CURVE**2 * (start + along)
    thickness = max(1, round(0.01 * side * rng.uniform(0.3, 1)))
    drawn = np.zeros((height, width), np.uint8)
    fixed = np.rint(points * 2**FRACTION).astype(np.int32)
    cv2.polylines(drawn, [fixed], False, 255, thickness, cv2.LINE_AA, FRACTION)
    mask = np.float32(1 / 255) * drawn.astype(np.float32)
    return _tint(image, mask, 0.5 * severity, rng)


def stain(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Lay a soft uneven blot over the image, brighter or darker by up to 0.4 of the range of values; up to a
    third of the side across, longer where it is stretched."""
    del partner
    mask = _blot(image, 0.33 * math.sqrt(severity) * rng.uniform(0.4, 1), rng)
    coarse = rng.random((6, 6), np.float32)
    uneven = cv2.resize(coarse, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
    mask *= np.clip(uneven, 0.3, 1)
    return _tint(image, mask, 0.4 * severity, rng)


def blend(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Blend a soft patch of another place of the partner into the image, as large as a stain."""
    height, width = image.shape[:2]
    mask = _blot(image, 0.33 * math.sqrt(severity) * rng.uniform(0.4, 1), rng)[..., None]
    other = np.roll(partner, rng.integers((height, width)) // 2 + (height // 4, width // 4), (0, 1))
    mask = 0.8 * severity**0.5 * mask
    mixed: Pixels = np.rint((1 - mask) * image + mask * other).astype(np.uint8)
    return mixed


def warp(image: Pixels, partner: Pixels, severity: float, rng: Generator) -> Pixels:
    """Push what is in a soft blot aside by up to a twelfth of the side."""
    del partner
    height, width = image.shape[:2]
    mask = _blot(image, 0.33 * rng.uniform(0.6, 1), rng)
    angle, push = rng.uniform(0, math.tau), severity * min(height, width) / 12
    rows, columns = np.indices((height, width), np.float32)
    x = columns + np.float32(push * math.cos(angle)) * mask
    y = rows + np.float32(push * math.sin(angle)) * mask
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101), np.uint8)


def _blot(image: Pixels, across: float, rng: Generator) -> Floats:
    """Draw a soft ellipse `(h, w)`, 1 in the middle and 0 far from it, `across` times the side wide."""
    height, width = image.shape[:2]
    y, x = rng.random(2) * (height, width)
    stretch, angle = math.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0, math.pi)
    rows, columns = np.indices((height, width), np.float32)
    down, right = rows - y, columns - x
    first = right * math.cos(angle) + down * math.sin(angle)
    second = down * math.cos(angle) - right * math.sin(angle)
    radius = max(1.0, 0.5 * across * min(height, width))
    distance = ((first / stretch) ** 2 + (second * stretch) ** 2) / radius**2
    return np.asarray(np.exp(-(distance**2)), np.float32)


def _tint(image: Pixels, mask: Floats, contrast: float, rng: Generator) -> Pixels:
    """Make the image brighter or darker under the mask by a share of the range of values, the likelier the more
    room there is that way, and each colour a little more or less."""
    upwards = rng.random()
    colour = rng.uniform(0.7, 1, 3)
    level = float((image.mean(-1) * mask).sum() / max(float(mask.sum()), 1e-6)) / 255
    sign = 1 if upwards > level else -1
    changed = image + (255 * contrast * sign) * mask[..., None] * colour
    return np.rint(np.clip(changed, 0, 255)).astype(np.uint8)
