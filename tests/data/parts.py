"""Generated images of a part of which it is known how it lies."""

import cv2
import numpy as np

SIDE = 96


def part(shape=(SIDE, SIDE)):
    """A bright bracket with one hole, like none of its turned or mirrored selves."""
    height, width = shape
    picture = np.full(shape, 60, np.float32)
    outline = np.array([(0.25, 0.2), (0.45, 0.2), (0.45, 0.6), (0.8, 0.6), (0.8, 0.75), (0.25, 0.75)])
    cv2.fillPoly(picture, [np.round(outline * (width, height)).astype(np.int32)], 180)
    cv2.circle(picture, (round(0.35 * width), round(0.3 * height)), round(0.06 * min(shape)), 20, -1)
    return picture


def shots(change, count=24, picture=None):
    """What a noisy camera makes of a part of which `change(picture, rng)` lies in each image."""
    rng = np.random.default_rng(7)
    picture = part() if picture is None else picture
    seen = [change(picture, rng) + rng.normal(0, 4, picture.shape) for _ in range(count)]
    return np.clip(np.stack(seen), 0, 255).astype(np.uint8)


def shifted(picture, right, down):
    matrix = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(picture, matrix, picture.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
