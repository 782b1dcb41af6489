"""Shapes with soft edges, as masks `(h, w)` in [0, 1]: where an image is changed on purpose.

Sizes are shares of the image or of its shorter side, so that they mean the same at every resolution. The faint
pseudo-anomalies of validation and the corruptions of a filtering autoencoder are drawn with them.
"""

import math

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Mask = NDArray[np.float32]
Size = tuple[int, int]  # height and width
CURVE = np.linspace(0, 1, 33)[:, None]  # a curve is drawn as so many points
FRACTION = 4  # bits of a pixel's fraction in cv2's coordinates
AROUND = np.linspace(0, math.tau, 96, endpoint=False)  # angles at which a closed curve is drawn
WAVES = np.arange(2, 6)  # of a closed curve's radius, in one turn


def curved_line(size: Size, longest: float, rng: Generator) -> Mask:
    """Draw a thin curved line, at most `longest` times the side long and a hundredth of it wide."""
    height, width = size
    side, angle, bend = min(height, width), rng.uniform(0, math.tau), rng.uniform(-0.3, 0.3)
    length = longest * side * rng.uniform(0.4, 1)
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
    return np.float32(1 / 255) * drawn.astype(np.float32)


def soft_ellipse(size: Size, across: float, rng: Generator) -> Mask:
    """Draw a soft ellipse, 1 in the middle and 0 far from it, `across` times the side wide."""
    height, width = size
    y, x = rng.random(2) * (height, width)
    stretch, angle = math.exp(rng.uniform(-0.5, 0.5)), rng.uniform(0, math.pi)
    rows, columns = np.indices((height, width), np.float32)
    down, right = rows - y, columns - x
    first = right * math.cos(angle) + down * math.sin(angle)
    second = down * math.cos(angle) - right * math.sin(angle)
    radius = max(1.0, 0.5 * across * min(height, width))
    distance = ((first / stretch) ** 2 + (second * stretch) ** 2) / radius**2
    return np.asarray(np.exp(-(distance**2)), np.float32)


def closed_curve(size: Size, area: float, rng: Generator) -> Mask:
    """Fill a smooth closed curve that covers about a share `area` of the image, its edge soft."""
    height, width = size
    strength = rng.uniform(0, 0.25, (len(WAVES), 1)) / np.sqrt(WAVES[:, None] / 2)
    phase = rng.uniform(0, math.tau, (len(WAVES), 1))
    radius = 1 + (strength * np.cos(WAVES[:, None] * AROUND + phase)).sum(0)
    radius *= math.sqrt(area * height * width / math.pi / np.mean(radius**2))
    stretch = math.exp(rng.uniform(-0.5, 0.5))
    x, y = rng.random(2) * (width - 1, height - 1)
    turn = rng.uniform(0, math.tau)
    points = np.stack([x + radius * stretch * np.cos(AROUND), y + radius / stretch * np.sin(AROUND)], 1)
    turned = (points - (x, y)) @ [
        [math.cos(turn), math.sin(turn)],
        [-math.sin(turn), math.cos(turn)],
    ] + (x, y)
    drawn = np.zeros((height, width), np.uint8)
    cv2.fillPoly(drawn, [np.rint(turned * 2**FRACTION).astype(np.int32)], 255, cv2.LINE_AA, FRACTION)
    return _softened(np.float32(1 / 255) * drawn.astype(np.float32), rng)


def islands(size: Size, area: float, rng: Generator) -> Mask:
    """Mark where a smooth random field is highest, about a share `area` of the image; islands of one draw have
    about one size."""
    field = smooth_field(size, int(rng.integers(3, 13)), rng)
    return _softened(np.asarray(field > np.quantile(field, 1 - area), np.float32), rng)


def smooth_field(size: Size, coarse: int, rng: Generator) -> Mask:
    """Draw a smooth random field in about [0, 1] from `coarse` x `coarse` numbers."""
    drawn = rng.random((coarse, coarse), np.float32)
    return np.asarray(cv2.resize(drawn, (size[1], size[0]), interpolation=cv2.INTER_CUBIC), np.float32)


def _softened(mask: Mask, rng: Generator) -> Mask:
    """Blur the edge of a mask by up to a hundredth of the side."""
    sigma = 0.01 * min(mask.shape) * rng.uniform(0.1, 1)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), max(sigma, 0.3)), np.float32)
