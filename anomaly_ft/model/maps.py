"""Maps of an image: bringing them onto one grid, smoothing, splitting a score over positions, and back to
the image's own size.

With mean pooling f = mean_ij f_ij, so (f - mu)^T P (f - mu) = mean_ij (f_ij - mu)^T P (f - mu): the
terms of that mean are what each position contributes to a level's squared distance. Positions that
pull the average back towards normal contribute less than nothing.
"""

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.pixels import Size, sides

Map = NDArray[np.float32]


def grid_shape(positions: int, image_size: Size) -> tuple[int, int]:
    """Shape a grid like the images: rows and columns, about `positions`^2 together, and exactly `positions` x
    `positions` for squares.

    >>> grid_shape(12, 224), grid_shape(12, (144, 352))
    ((12, 12), (8, 19))
    """
    height, width = sides(image_size)
    ratio = math.sqrt(height / width)
    return max(1, round(positions * ratio)), max(1, round(positions / ratio))


def on_grid(maps: Sequence[Tensor], grid: Size, kept: Tensor | None = None) -> Tensor:
    """Resize feature maps to the rows and columns of `grid` (averaged down, bilinear up): `(n, positions, sum
    of d)`, or of all channels those `kept (d,)`."""
    joined = torch.cat([resize_to_grid(m.float(), grid) for m in maps], 1).flatten(2)
    if kept is not None and len(kept) < joined.shape[1]:
        joined = joined[:, kept]
    return joined.mT.contiguous()


def resize_to_grid(level: Tensor, grid: Size) -> Tensor:
    """Resize a map `(n, d, h, w)` to the rows and columns of `grid`: averaged down, bilinear up."""
    rows, columns = sides(grid)
    smaller = min(level.shape[-2], rows), min(level.shape[-1], columns)
    averaged = F.adaptive_avg_pool2d(level, smaller) if smaller != tuple(level.shape[-2:]) else level
    if smaller == (rows, columns):
        return averaged
    return F.interpolate(averaged, size=(rows, columns), mode="bilinear", align_corners=False)


def keep_mean(level: Tensor, grid: Size) -> Tensor:
    """Restore the mean of maps `(n, h, w)` on the grid, which resizing alone may change a little."""
    resized = resize_to_grid(level[:, None], grid)
    return resized[:, 0] + (level.mean((1, 2)) - resized.mean((1, 2, 3)))[:, None, None]


def split_distance(level: Tensor, mean: Tensor, whitening: Tensor) -> Tensor:
    """Split the squared Mahalanobis distance of a feature map's average over the positions of the map `(n, d,
    h, w)`: `(n, h, w)`, float32.

    The mean over positions is that squared distance; single values may be negative.
    """
    with torch.autocast(level.device.type, enabled=False):
        features = level.mean((2, 3), dtype=mean.dtype)
        towards = (features - mean) @ whitening.mT @ whitening  # P (f - mu), (n, d)
        at_mean = (towards @ mean)[:, None, None]
        return torch.einsum("ndhw,nd->nhw", level.to(mean.dtype), towards) - at_mean


def smooth(maps: Tensor, sigma: float) -> Tensor:
    """Blur maps `(n, h, w)` by a Gaussian of `sigma` positions, mirrored at the border; on a strip it reaches
    no further than the strip is wide."""
    if sigma == 0:
        return maps
    side = 2 * min(math.ceil(3 * sigma), min(maps.shape[1:]) - 1) + 1
    with torch.autocast(maps.device.type, enabled=False):  # else the blur rounds distances to bf16
        return cast(Tensor, gaussian_blur(maps[:, None], [side, side], [sigma, sigma])[:, 0])


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps `(n, h, w)` to another `(height, width)`: bilinear, in the same units."""
    with torch.autocast(maps.device.type, enabled=False):
        return F.interpolate(maps[:, None], size=tuple(size), mode="bilinear", align_corners=False)[:, 0]


def upsample(small: Map, height: int, width: int, decoder: Decoder) -> Map:
    """Resize a map `(rows, columns)` to an image's original size `(height, width)`: bilinear, in score units.

    What the decoder cut off was never looked at, and has the lowest value of the map.
    """
    if decoder.resize in ("stretch", "native"):
        return _bilinear(small, height, width)
    seen_height, seen_width = sides(decoder.size)
    seen = _bilinear(small, seen_height, seen_width)
    each = seen_height / height, seen_width / width
    scale = max(each) if decoder.resize == "center-crop" else min(each)
    tall, wide = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (seen_height - tall) // 2, (seen_width - wide) // 2  # of the image in what was seen
    if decoder.resize == "letterbox":
        return _bilinear(seen[top : top + tall, left : left + wide], height, width)
    top, left = (tall - seen_height) // 2, (wide - seen_width) // 2  # of what was seen in the image
    whole = np.full((tall, wide), small.min(), dtype=np.float32)
    whole[top : top + seen_height, left : left + seen_width] = seen
    return _bilinear(whole, height, width)


def _bilinear(small: Map, height: int, width: int) -> Map:
    large = enlarge(torch.from_numpy(np.array(small, dtype=np.float32))[None], (height, width))
    return np.asarray(large[0].numpy(), dtype=np.float32)
