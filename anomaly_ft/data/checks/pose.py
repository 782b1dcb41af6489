"""How parts lie in their images: turned, mirrored, shifted, brighter or darker than one another.

Pairs of thumbnails are laid over one another at every angle and place, mirrored too. What counts is the
correlation of what is finer than slow light, and how much of what a pair leaves unlike as it lies goes away
when one image is turned or mirrored. Nothing here knows labels; only images of good parts belong here.
"""

from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from anomaly_ft.data.checks.appearance import meter

Grey = NDArray[np.float32]  # (h, w), or (n, h, w)

PAIRS = 40
TURNING_SIDE = 64  # longer side of what is turned
STEP = 5  # degrees
ELONGATED = 1.3  # sides from which on a part that is turned by a quarter would not be in its image
MATCH = 0.5  # correlation from which on a pair is taken to show one part in one pose; textures reach 0.2 to 0.3
GAIN = 1 / 3  # share of what a pair has unlike that goes away, from which on a turn or a mirror counts
STEPS_COST = 0.1  # correlation that a step of the angles may cost: less than that is no evidence
SLOW = 6  # light that changes over more than this part of the side is taken away
SEEN = 0.95  # share of the pairs, or images, within what is called seen


@dataclass(frozen=True)
class Pose:
    """What was seen between training images.

    Attributes:
        images: so many were looked at.
        pairs: so many were compared.
        angles: of each pair that matches, in degrees, -180 to 180, at which it matches best; 0 where turning
            does not help much.
        mirrored: pairs that match far better mirrored.
        shifts: of each pair that matches, how far one has to be shifted to lie on the other, as share of the
            longer side; 0 where shifting does not help much.
        brightness: distance of an image from the median brightness, as share of it, 95 % are within.
        round: whether most pairs match at every angle.
        elongated: whether images are so elongated that only tilts and half turns were tried.
        grain: strength of the direction that fine structure has in an image, 0 to 1, median; and how far the
            images agree in it, 0 to 1.
        grain_by_quarters: how far they agree when a quarter turn makes no difference.
    """

    images: int
    pairs: int
    angles: tuple[float, ...]
    mirrored: int
    shifts: tuple[float, ...]
    brightness: float
    round: bool
    elongated: bool
    grain: tuple[float, float]
    grain_by_quarters: float


def measure_pose(thumbnails: NDArray[np.uint8]) -> Pose:
    """Compare good images with one another.

    Args:
        thumbnails: grey, `(n, h, w)`, two at least.
    """
    count, height, width = thumbnails.shape
    scale = TURNING_SIDE / max(height, width)
    fine = _without_slow_light(thumbnails.astype(np.float32))
    small = np.stack([_resized(image, scale) for image in thumbnails.astype(np.float32)])
    search = _Search(_without_slow_light(small))
    matches = [search.pair(i, j) for i, j in _pairs(count)]
    matching = [(pair, match) for pair, match in zip(_pairs(count), matches, strict=True) if match.matches]
    shifts = [_shift(fine[i], _moved(fine[j], match)) / max(height, width) for (i, j), match in matching]
    lights = np.array([meter(np.repeat(image[..., None], 3, axis=2))["brightness"] for image in thumbnails])
    grain, quarters = _grain(thumbnails)
    return Pose(
        images=count,
        pairs=len(matches),
        angles=tuple(match.angle for _, match in matching),
        mirrored=sum(match.mirrored for _, match in matching),
        shifts=tuple(shifts),
        brightness=_spread(lights),
        round=float(np.median([match.worst for match in matches])) >= 0.7,
        elongated=search.elongated,
        grain=grain,
        grain_by_quarters=quarters,
    )


@dataclass(frozen=True)
class _Match:
    """How the second image of a pair has to be laid on the first."""

    matches: bool
    angle: float
    mirrored: bool
    worst: float  # correlation at the worst angle


class _Search:
    """Lays thumbnails `(n, h, w)` over one another at every angle and place, by Fourier transforms."""

    def __init__(self, images: Grey) -> None:
        self.images = images
        height, width = images.shape[1:]
        self.elongated = max(height, width) >= ELONGATED * min(height, width)
        tilts = np.arange(-30, 31, STEP)
        self.angles = np.concatenate([tilts, tilts + 180]) if self.elongated else np.arange(-180, 180, STEP)
        self.window = _window(height, width, elongated=self.elongated)
        self.reach = min(height, width) // 4  # pixels that one may be shifted against the other
        self.size = [fft.next_fast_len(side + 2 * self.reach, real=True) for side in (height, width)]

    def pair(self, i: int, j: int) -> _Match:
        """Find how image j lies on image i."""
        other = self.images[j]
        turned = [turn(image, angle) for image in (other, other[:, ::-1]) for angle in self.angles]
        correlation = self._highest(self.images[i], np.stack(turned)).reshape(2, -1)
        plain, mirror = correlation
        mirrored = _better(plain.max(), mirror.max())
        row = mirror if mirrored else plain
        # mirrored the other way is mirrored and turned by half
        lies = [self._at(0), self._at(180)] if mirrored else [self._at(0)]
        best = int(row.argmax())
        turns = _better(row[lies].max(), row[best])
        angle = self._refined(row, best) if turns else float(self.angles[lies[int(row[lies].argmax())]])
        angle = (angle + 180) % 360 - 180
        return _Match(float(correlation.max()) >= MATCH, angle, mirrored, float(plain.min()))

    def _at(self, angle: int) -> int:
        return int(np.flatnonzero((self.angles - angle) % 360 == 0)[0])

    def _refined(self, row: NDArray[np.float32], best: int) -> float:
        """Find the top of a parabola through the best angle and its neighbours."""
        before, here, after = (float(row[(best + k) % len(row)]) for k in (-1, 0, 1))
        bend = before - 2 * here + after
        move = 0.5 * (before - after) / bend if bend < 0 else 0.0
        return float(self.angles[best]) + STEP * float(np.clip(move, -0.5, 0.5))

    def _highest(self, first: Grey, others: Grey) -> NDArray[np.float32]:
        """Find the highest correlation over all places of each of the others, `(k,)`."""
        transforms = [fft.rfft2(self._unit(images), s=self.size) for images in (first[None], others)]
        over = fft.irfft2(transforms[0] * np.conj(transforms[1]), s=self.size)
        reach = np.arange(-self.reach, self.reach + 1)
        highest: NDArray[np.float32] = over[:, reach[:, None], reach].max((1, 2))
        return highest

    def _unit(self, images: Grey) -> Grey:
        """Subtract the mean under the window and normalise to length 1."""
        mean = (images * self.window).sum((1, 2), keepdims=True) / self.window.sum()
        seen = (images - mean) * self.window
        length = np.linalg.norm(seen, axis=(1, 2), keepdims=True)
        unit: Grey = (seen / np.maximum(length, 1e-3)).astype(np.float32)
        return unit


def gain(before: float, after: float) -> float:
    """Share of what two images have unlike that goes away, from one correlation to a higher one.

    >>> gain(0.5, 0.75)
    0.5
    """
    return float((after - before) / max(1e-6, 1 - before))


def _better(before: float, after: float) -> bool:
    return gain(before, after) >= GAIN and after - before >= STEPS_COST


def turn(image: Grey, angle: float) -> Grey:
    """Turn an image counterclockwise by so many degrees; mirrored at the border."""
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(angle), 1)
    moved = cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    return moved.astype(np.float32, copy=False)


def _spread(lights: NDArray[np.float64]) -> float:
    median = float(np.median(lights))
    return float(np.quantile(np.abs(lights - median), SEEN)) / max(1.0, median)


def _moved(image: Grey, match: _Match) -> Grey:
    return turn(image[:, ::-1] if match.mirrored else image, match.angle)


def _shift(first: Grey, second: Grey) -> float:
    """Find the pixels, along the axis on which they are more, by which the second lies beside the first.

    Phase correlation finds one in anything; it counts where images match much better for it.
    """
    height, width = first.shape
    window = _window(height, width, elongated=True)
    (right, down), _ = cv2.phaseCorrelate(first, second, window)
    matrix = np.array([[1, 0, -right], [0, 1, -down]])
    back = cv2.warpAffine(second, matrix, (width, height), borderMode=cv2.BORDER_REFLECT_101)
    before, after = (float(np.corrcoef(first.ravel(), other.ravel())[0, 1]) for other in (second, back))
    return max(abs(right), abs(down)) if gain(before, after) >= GAIN else 0.0


def _pairs(count: int) -> list[tuple[int, int]]:
    """Choose pairs evenly from all."""
    every = list(combinations(range(count), 2))
    return [every[k] for k in np.unique(np.linspace(0, len(every) - 1, min(PAIRS, len(every))).astype(int))]


def _resized(image: Grey, scale: float) -> Grey:
    if scale >= 1:
        return image
    size = [max(8, round(scale * side)) for side in image.shape[::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32, copy=False)


def _without_slow_light(images: Grey) -> Grey:
    slow = max(images.shape[1:]) / SLOW
    return np.stack([image - cv2.GaussianBlur(image, (0, 0), slow) for image in images]).astype(np.float32)


def _window(height: int, width: int, *, elongated: bool) -> Grey:
    """Make a window that is one in the middle and zero at the border: of the disc that stays in the image
    however it is turned, or, of an elongated image, of the whole."""
    down, right = (np.abs(np.linspace(-1, 1, side)) for side in (height, width))
    far = np.maximum(down[:, None], right) if elongated else np.hypot(down[:, None], right)
    window: Grey = np.clip(6 * (1 - far), 0, 1).astype(np.float32)
    return window


def _grain(thumbnails: NDArray[np.uint8]) -> tuple[tuple[float, float], float]:
    """Measure the direction of fine structure, from the squared gradients as the structure tensor has them
    (Bigun and Granlund, ICCV 1987): strength and agreement, and agreement up to quarter turns."""
    halves, quarters = [], []
    for image in thumbnails:
        smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1)
        slope = (cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(smooth, cv2.CV_32F, 0, 1))[2:-2, 2:-2]
        energy = np.abs(slope) ** 2
        towards = slope / np.maximum(np.abs(slope), 1e-6)
        total = max(float(energy.sum()), 1e-6)
        halves.append((energy * towards**2).sum() / total)
        quarters.append((energy * towards**4).sum() / total)
    strengths = [np.abs(np.array(each)) for each in (halves, quarters)]
    agreements = [
        float(np.abs(np.sum(each)) / max(1e-6, float(strength.sum())))
        for each, strength in zip((halves, quarters), strengths, strict=True)
    ]
    return (float(np.median(strengths[0])), agreements[0]), agreements[1]
