"""Find what only some good training images have at one place: a sticker, a counter, another camera's frame.

A detector that has seen it learns that it is normal, and no number tells. At such a place the brightness of the
images falls into two groups with nothing between; parts differ otherwise, little by little.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 20  # images
LEAST_SHARE = 0.02  # of the images in the smaller group
CONTRAST = 0.4  # between the groups, in logarithms of brightness: half as bright again
NOISE = 0.025  # the same, that no place lies below
DARK = 8  # grey levels that are added, for black has no logarithm
# Distance of the groups in standard deviations within them (Ashman's D). Without a mark at most 11.2 was found
# on MTD, MVTec bottle and screw, VisA macaroni1, KolektorSDD, BSData and both ELPV sets; with one 16.5 at least
# on all of them but MTD
APART = 14.0
CELLS = 64  # looked at together: memory is that of so many numbers an image, some ten times
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "centre", "right")


@dataclass(frozen=True)
class Mark:
    """A place where some images have something, and which these are.

    Attributes:
        place: in words, such as "top left".
        images: positions of the fewer images, most likely those with it.
    """

    place: str
    images: tuple[int, ...]


def find_mark(thumbnails: NDArray[np.uint8]) -> Mark | None:
    """Find the place that divides images most plainly, from their grey thumbnails `(n, side, side)`; None where
    no place does."""
    count, side, _ = thumbnails.shape
    if count < FEWEST:
        return None
    flat = np.log(thumbnails.reshape(count, -1) + np.float32(DARK))
    flat -= np.median(flat, axis=1, keepdims=True)  # of each image: other light is no mark
    some = (flat[:, start : start + CELLS] for start in range(0, side * side, CELLS))
    groups = [_two_groups(np.sort(cells.astype(np.float64), axis=0)) for cells in some]
    apart, border = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    cell = int(apart.argmax())
    if apart[cell] < APART:
        return None
    above = flat[:, cell] > border[cell]
    fewer = above if above.sum() * 2 <= count else ~above
    row, column = (3 * i // side for i in divmod(cell, side))
    return Mark(f"{ROWS[row]} {COLUMNS[column]}", tuple(np.flatnonzero(fewer).tolist()))


def _two_groups(ordered: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Divide each column of sorted values `(n, cells)` where that explains most of its variance (Otsu, 1979);
    how far the groups lie apart, and the border between them, `(cells,)` each."""
    count = len(ordered)
    low = np.arange(1, count)[:, None]
    sums, squares = ordered.cumsum(0), (ordered**2).cumsum(0)
    means = sums[:-1] / low, (sums[-1] - sums[:-1]) / (count - low)
    least = max(2, int(np.ceil(LEAST_SHARE * count)))
    between = (low * (count - low) * (means[1] - means[0]) ** 2)[least - 1 : count - least]
    best, cells = between.argmax(0) + least - 1, np.arange(ordered.shape[1])
    first, second = (mean[best, cells] for mean in means)
    low_best = best + 1
    variances = (
        squares[best, cells] / low_best - first**2,
        (squares[-1] - squares[best, cells]) / (count - low_best) - second**2,
    )
    within = np.maximum(np.sqrt(np.maximum(np.mean(variances, axis=0), 0.0)), NOISE)
    apart = np.where(second - first < CONTRAST, 0.0, (second - first) / within)
    return apart, (ordered[best, cells] + ordered[best + 1, cells]) / 2
