"""Corruption of good images for a filter, which learns to undo it: an image, and where it was changed.

A corruption is a shape, filled with something that does not belong there, laid over the image with an opacity:
the three of them vary independently (after Bauer et al., arXiv 2511.07233; sizes and shares are ours). Every
image also gets a little Gaussian noise that is *kept* in what is to be restored, so that the filter learns to
leave alone what is not structured. A share of images is not corrupted at all.

The seed, an image's name and the number of the pass decide all of it, whatever batch an image comes in, so that
a run that is resumed goes on as it would have. These families and those that validation watches are different
ones, always; a recipe in which one is both is refused.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anomaly_ft.data.images import Decoder, why_unreadable
from anomaly_ft.data.pixels import SUFFIXES, Pixels
from anomaly_ft.data.shapes import Mask, Size, closed_curve, curved_line, islands, smooth_field, soft_ellipse
from anomaly_ft.errors import DataError

AREA = (0.001, 0.1)  # share of the image that one shape covers, drawn evenly on a logarithmic scale
MOST = 4  # shapes in one image
OPACITY = (0.2, 1.0)
LEAST = 2  # grey values; what is changed less counts as unchanged
OWN = "own"  # what the user's textures are called among the fillings
TEXTURES = 64  # images of the user's that are held in memory

Filling = Callable[[Pixels, Pixels, Generator], Pixels]  # image and partner to an image of the same size


class Corrupted(NamedTuple):
    """Images `(n, h, w, 3)` uint8 as they are to be restored, corrupted, and where they differ by more than
    noise, `(n, h, w)` bool."""

    clean: Pixels
    corrupted: Pixels
    mask: NDArray[np.bool_]


def _ellipse(size: Size, area: float, rng: Generator) -> Mask:
    return soft_ellipse(size, 2 * math.sqrt(area / math.pi), rng)


def _line(size: Size, area: float, rng: Generator) -> Mask:
    return curved_line(size, 0.7 * math.sqrt(area / AREA[1]), rng)


SHAPES: Mapping[str, Callable[[Size, float, Generator], Mask]] = {
    "curve": closed_curve,
    "ellipse": _ellipse,
    "islands": islands,
    "line": _line,
}


def elastic(image: Pixels, partner: Pixels, rng: Generator) -> Pixels:
    """Deform the image smoothly, by up to a tenth of its side."""
    del partner
    height, width = image.shape[:2]
    coarse, push = int(rng.integers(4, 13)), min(height, width) * rng.uniform(0.03, 0.1)
    rows, columns = np.indices((height, width), np.float32)
    across, down = ((2 * smooth_field((height, width), coarse, rng) - 1) * np.float32(push) for _ in range(2))
    moved = cv2.remap(image, columns + across, rows + down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)


def patch(image: Pixels, partner: Pixels, rng: Generator) -> Pixels:
    """Show another place of another good image."""
    height, width = image.shape[:2]
    return np.roll(partner, rng.integers((height, width)) // 2 + (height // 4, width // 4), (0, 1))


def colour(image: Pixels, partner: Pixels, rng: Generator) -> Pixels:
    """Fill with one random colour."""
    del partner
    return np.broadcast_to(rng.integers(0, 256, 3, np.uint8), image.shape)


def noise(image: Pixels, partner: Pixels, rng: Generator) -> Pixels:
    """Fill with smooth noise of several scales between two random colours."""
    del partner
    side, finest = min(image.shape[:2]), rng.uniform(4, 0.5 * min(image.shape[:2]))
    scales = [max(2, round(finest / 2**k)) for k in range(3) if finest / 2**k >= 2]
    field = np.mean([smooth_field(image.shape[:2], min(side, scale), rng) for scale in scales], 0)
    share = np.clip(field, 0, 1)[..., None]
    first, second = rng.integers(0, 256, (2, 3))
    return np.asarray(np.rint(share * first + (1 - share) * second), np.uint8)


FILLINGS: Mapping[str, Filling] = {"elastic": elastic, "patch": patch, "colour": colour, "noise": noise}


@dataclass(frozen=True)
class Corruption:
    """Corrupts images of good parts; a frozen value, so that equal ones corrupt alike.

    Attributes:
        shapes: names in `SHAPES`.
        fillings: names in `FILLINGS`.
        clean_share: share of images that are not corrupted.
        noise: standard deviation of the noise that is kept, at most, of 255 values.
        seed: of the run.
        textures: the user's own, `(k, h, w, 3)`, one more filling; empty where there are none.
    """

    shapes: Sequence[str]
    fillings: Sequence[str]
    clean_share: float
    noise: float
    seed: int
    textures: Pixels

    def batch(self, pixels: Pixels, names: Sequence[str], number: int, pool: Pixels) -> Corrupted:
        """Corrupt images `(n, h, w, 3)` in the pass over all of them that has this number; parts of other good
        images come from the `pool`."""
        done = [
            self.image(image, pool, [number, zlib.crc32(name.encode())])
            for image, name in zip(pixels, names, strict=True)
        ]
        clean, corrupted, masks = zip(*done, strict=True)
        return Corrupted(np.stack(clean), np.stack(corrupted), np.stack(masks))

    def image(self, image: Pixels, pool: Pixels, key: Sequence[int]) -> Corrupted:
        """Corrupt one image `(h, w, 3)`; the numbers of `key` decide how. Grey images stay grey."""
        rng = np.random.default_rng([self.seed, *key])
        spread = rng.uniform(0, self.noise)
        grey = bool((image[..., :1] == image).all())
        shape = (*image.shape[:2], 1 if grey else 3)
        laid_over = np.float32(spread) * rng.standard_normal(shape, np.float32)
        changed = image
        if rng.random() >= self.clean_share:
            for _ in range(int(rng.integers(1, MOST + 1))):
                changed = self._one(changed, pool, rng, grey=grey)
        mask = np.abs(changed.astype(np.int16) - image).max(-1) > LEAST
        return Corrupted(_noisy(image, laid_over), _noisy(changed, laid_over), mask)

    def _one(self, image: Pixels, pool: Pixels, rng: Generator, *, grey: bool) -> Pixels:
        """Lay one filled shape over the image."""
        size: Size = (image.shape[0], image.shape[1])
        area = math.exp(rng.uniform(math.log(AREA[0]), math.log(AREA[1])))
        mask = SHAPES[self.shapes[int(rng.integers(len(self.shapes)))]](size, area, rng)
        names = [*self.fillings, *([OWN] if len(self.textures) else [])]
        name = names[int(rng.integers(len(names)))]
        partner = pool[int(rng.integers(len(pool)))] if name == "patch" else image
        filling = self._own(image, rng) if name == OWN else FILLINGS[name](image, partner, rng)
        if grey:
            filling = np.broadcast_to(np.rint(filling.mean(-1, keepdims=True)), image.shape)
        weight = (rng.uniform(*OPACITY) * mask)[..., None]
        return np.asarray(np.rint((1 - weight) * image + weight * filling), np.uint8)

    def _own(self, image: Pixels, rng: Generator) -> Pixels:
        """Show one of the user's textures, rolled and turned by quarters."""
        texture = np.rot90(self.textures[int(rng.integers(len(self.textures)))], int(rng.integers(4)))
        return np.roll(texture, rng.integers(image.shape[:2]), (0, 1))


def read_textures(folder: str, size: int) -> Pixels:
    """Read the images below a folder as `(k, size, size, 3)`, at most `TEXTURES` of them, evenly chosen by
    name; none where no folder is named.

    Raises:
        DataError: no such folder, no image in it, or one that cannot be read.
    """
    if not folder:
        return np.empty((0, size, size, 3), np.uint8)
    try:
        root = Path(folder).expanduser()
        paths = sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        there = root.is_dir()
    except (OSError, RuntimeError) as cause:
        raise DataError(f"filter.textures: {folder} cannot be read: {cause}") from cause
    if not paths:
        what = "holds no image" if there else "is no folder"
        raise DataError(f"filter.textures: {folder} {what}; expected a folder of images, or leave it empty")
    some = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, TEXTURES).round().astype(int))]
    return np.stack([_texture(path, size) for path in some])


def _texture(path: Path, size: int) -> Pixels:
    try:
        return Decoder(size, "center-crop", None)(path)
    except Exception as cause:  # decoders raise nearly anything on damaged files
        raise DataError(
            f"filter.textures: {path} cannot be read ({why_unreadable(cause)}); take it out of the folder"
        ) from cause


def _noisy(image: Pixels, noise: NDArray[np.float32]) -> Pixels:
    return np.asarray(np.rint(np.clip(image + noise, 0, 255)), np.uint8)
