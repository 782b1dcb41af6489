"""Maps drawn over images: one colour scale for all of them, outlines of masks and thresholds."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from anomaly_ft.model.maps import Map

Pixels = NDArray[np.uint8]
COLOURS = "inferno"
# outlines: of the ground truth, of the threshold, of a region that chance hardly makes
TRUTH, LIMIT, REGION = (0, 255, 140), (255, 255, 255), (0, 170, 255)
FIRST_COLOUR = 0.3  # of the colour map: its dark end would look like a shadow on the part
OPACITY = 0.7
JPEG_QUALITY = 82


@dataclass(frozen=True)
class ColourScale:
    """The scores at which the colours begin and end; the same for every map it is used on."""

    low: float
    high: float

    def position(self, values: Map) -> Map:
        """Map scores to [0, 1], clipped."""
        span = max(self.high - self.low, float(np.finfo(np.float32).tiny))
        return np.asarray(np.clip((values - self.low) / span, 0, 1), dtype=np.float32)


def scale_of(maps: Map, normal: NDArray[np.bool_]) -> ColourScale:
    """Make a scale for maps `(n, h, w)`: from the median of normal images to beyond their maximum.

    Colours begin at the median over the normal maps, so that usual places stay clear, and end where the
    brightest tenth of all images ends, at least at the highest value of a normal image.
    """
    usual = maps[normal] if normal.any() else maps
    highest = np.quantile(maps.max((1, 2)), 0.9)
    return ColourScale(float(np.median(usual)), float(max(highest, usual.max())))


def overlay(image: Pixels, values: Map, scale: ColourScale) -> Pixels:
    """Blend the map `(h, w)` in colour over the image `(h, w, 3)`, the clearer the lower its value."""
    position = scale.position(values)
    colours = mpl.colormaps[COLOURS](FIRST_COLOUR + (1 - FIRST_COLOUR) * position)[..., :3] * 255
    opacity = OPACITY * np.minimum(2 * position, 1)[..., None]
    return np.asarray(np.rint((1 - opacity) * image + opacity * colours), dtype=np.uint8)


def outlined(image: Pixels, inside: NDArray[np.bool_], colour: Sequence[int]) -> Pixels:
    """Outline an area `(h, w)` in the image; an area that is all or nothing has no outline."""
    width = max(1, round(max(inside.shape) / 160))
    border = inside & ~ndimage.binary_erosion(inside, iterations=width, border_value=1)
    drawn = image.copy()
    drawn[border] = colour
    return drawn


def shrunk(image: Pixels, longest: int) -> Pixels:
    """Shrink the image to at most `longest` pixels on its longer side."""
    height, width = image.shape[:2]
    factor = min(1.0, longest / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def picture_uri(image: Pixels) -> str:
    """Encode the image as a JPEG in a `data:` address."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def scale_picture(width: int = 256, height: int = 12) -> Pixels:
    """Draw the colours from the scale's low end to its high end, `(height, width, 3)`."""
    strip = mpl.colormaps[COLOURS](np.linspace(FIRST_COLOUR, 1, width))[None, :, :3] * 255
    return np.repeat(np.rint(strip).astype(np.uint8), height, axis=0)
