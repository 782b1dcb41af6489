"""Values of more than 8 bits as a file holds them: grey by Pillow, colour by OpenCV, of which Pillow keeps 8.

Whatever OpenCV decodes is compared with Pillow's eight bits, and refused where the two do not agree.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

ORIENTATION = 0x0112  # of EXIF
BITS, COMPRESSION, PHOTOMETRIC, STRIPS, STRIP_BYTES, PLANAR, TILE_WIDTH, EXTRA = (
    258,
    259,
    262,
    273,
    279,
    284,
    322,
    338,
)
PREMULTIPLIED, UNSPECIFIED = 1, 0  # what TIFF says of a fourth channel
DEEP_MAX = 65535  # of 16-bit images; 32-bit integers are taken for 16-bit ones unless they are larger
AGREE = 1.0  # mean difference of 255 up to which two decoders have read the same
SOLID = 32768  # of 65535: opacity from which on colours that were multiplied by it can be compared,
AGREE_MULTIPLIED = 3.0  # ... and how far 8 bits of them may be off
Turn = Callable[[NDArray[np.generic]], NDArray[np.generic]]
TURNS: dict[int, Turn] = {  # of EXIF, for arrays (height, width, ...)
    1: lambda v: v,
    2: np.fliplr,
    3: lambda v: np.rot90(v, 2),
    4: np.flipud,
    5: lambda v: np.swapaxes(v, 0, 1),
    6: lambda v: np.rot90(v, -1),
    7: lambda v: np.rot90(np.swapaxes(v, 0, 1), 2),
    8: np.rot90,
}


@dataclass(frozen=True)
class Limits:
    """The least and the largest value; how many are no numbers (NaN, infinite) and count for nothing."""

    low: float
    high: float
    floating: bool
    lost: int = 0

    def widened(self, other: "Limits") -> "Limits":
        """Merge the limits of two images."""
        lost, floating = self.lost + other.lost, self.floating or other.floating
        return Limits(min(self.low, other.low), max(self.high, other.high), floating, lost)


@dataclass(frozen=True)
class Deep:
    """Values `(height, width)` or `(height, width, 3)`, upright, red first, and opacity of 0..65535."""

    values: NDArray[np.generic]
    opacity: NDArray[np.generic] | None = None
    inverted: bool = False  # the largest value is black

    def limits(self) -> Limits:
        """Find the limits of the values that are numbers.

        Raises:
            ValueError: there is none.
        """
        floating = self.values.dtype.kind == "f"
        numbers = self.values[np.isfinite(self.values)] if floating else self.values
        if not numbers.size:
            raise ValueError("not one of the values is a number")
        return Limits(
            float(numbers.min()), float(numbers.max()), floating, int(self.values.size - numbers.size)
        )


def is_deep(image: Image.Image) -> bool:
    """Tell whether an image that is opened, not loaded yet, has more than 8 bits a value."""
    if len(image.getbands()) == 1:
        return image.mode.startswith("I")
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return False  # nothing is left of what Pillow does not keep
    if isinstance(image, TiffImageFile):
        return bool(max(image.tag_v2.get(BITS, (8,))) > 8)
    if image.format == "PPM":
        args = image.tile[0].args
        return isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255
    tile = str(image.tile)
    return ";16" in tile and "BGR;16" not in tile  # which is 16 bits a pixel, not a channel


def deep_values(image: Image.Image) -> Deep | None:
    """Read the values of an opened image with more than 8 bits a value, or of floating point. None for
    others, and where only Pillow's 8 bits can be had: printing inks, compressed planes.

    Raises:
        ValueError: colour that cannot be decoded, or is decoded in two ways.
    """
    if len(image.getbands()) == 1:
        if not is_deep(image) and image.mode != "F":
            return None
        inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(PHOTOMETRIC) == 0
        image.load()
        return Deep(np.asarray(ImageOps.exif_transpose(image)), inverted=inverted)
    if not is_deep(image) or not isinstance(image, ImageFile.ImageFile) or only_eight_bits(image):
        return None
    content = _content(image)
    if isinstance(image, TiffImageFile):
        if image.tag_v2.get(PLANAR) == 2:
            return _split(_planes(image, content), image)  # by no other decoder
        return _agreed(_split(_decoded(content), image), image)
    orientation = image.getexif().get(ORIENTATION, 1)
    values = _decoded(_still(content) if image.format == "PNG" else content)
    return _agreed(_split(TURNS.get(orientation, TURNS[1])(values), image), image)


def only_eight_bits(image: ImageFile.ImageFile) -> bool:
    """Tell whether only Pillow's 8 bits of a deep colour image can be had."""
    planes = isinstance(image, TiffImageFile) and image.tag_v2.get(PLANAR) == 2
    packed = isinstance(image, TiffImageFile) and image.tag_v2.get(COMPRESSION, 1) != 1
    return image.mode == "CMYK" or (planes and packed)


def scaled(deep: Deep, value_range: tuple[float, float] | None) -> NDArray[np.uint8]:
    """Scale values to 0..255, `(height, width)` or with 3 channels; NaN and infinite ones become black.

    Raises:
        ValueError: values outside of the range, which are not clipped; floating point without a range.
    """
    limits = deep.limits()
    if value_range is None and limits.floating:
        raise ValueError(
            f"floating-point values {limits.low:g} to {limits.high:g}: which is white? set data.range"
        )
    bottom, top = value_range or (0, DEEP_MAX)
    if not (bottom <= limits.low and limits.high <= top):
        raise ValueError(
            f"values {limits.low:g} to {limits.high:g} reach beyond {bottom:g} to {top:g}; set data.range"
        )
    values = deep.values.astype(np.float64)
    if limits.lost:
        values = np.where(np.isfinite(values), values, top if deep.inverted else bottom)
    out: NDArray[np.uint8] = np.rint((values - bottom) * (255 / (top - bottom))).astype(np.uint8)
    return 255 - out if deep.inverted else out


def _content(image: ImageFile.ImageFile) -> bytes:
    """Read the bytes of the file that an image was opened from."""
    if image.filename:
        return Path(str(image.filename)).read_bytes()
    position = image.fp.tell() if image.fp else 0
    if image.fp is None:
        raise ValueError("16-bit colour whose file is closed")
    image.fp.seek(0)
    content: bytes = image.fp.read()
    image.fp.seek(position)
    return content


def _decoded(content: bytes) -> NDArray[np.generic]:
    """Decode values `(height, width, 3 or 4)`, red first; of a TIFF upright."""
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("16-bit colour that cannot be decoded")
    return np.dstack([values[..., 2::-1], values[..., 3:]])


def _still(content: bytes) -> bytes:
    """Drop the animation of a PNG, which OpenCV decodes to black in 16 bits."""
    if b"acTL" not in content:
        return content
    kept, at = [content[:8]], 8
    while at + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        if kind not in (b"acTL", b"fcTL", b"fdAT"):
            kept.append(content[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def _planes(image: TiffImageFile, content: bytes) -> NDArray[np.generic]:
    """Decode `(height, width, channels)` of a TIFF that stores one channel after the other, uncompressed."""
    tags = image.tag_v2
    if TILE_WIDTH in tags:
        raise ValueError("16-bit colour in tiles of separate planes; save it with interleaved channels")
    width, height, channels = tags[256], tags[257], len(tags[BITS])
    rows = b"".join(
        content[start : start + size] for start, size in zip(tags[STRIPS], tags[STRIP_BYTES], strict=True)
    )
    if len(rows) != 2 * width * height * channels:
        raise ValueError("16-bit colour that is truncated")
    values = np.frombuffer(rows, "<u2" if content[:2] == b"II" else ">u2").astype(np.uint16)
    upright = TURNS.get(tags.get(ORIENTATION, 1), TURNS[1])
    return upright(np.moveaxis(values.reshape(channels, height, width), 0, -1))


def _split(values: NDArray[np.generic], image: ImageFile.ImageFile) -> Deep:
    """Colour and opacity apart; colour that was multiplied by its opacity is divided by it again."""
    colour = values[..., :3]
    if values.shape[2] < 4:
        return Deep(colour)
    opacity = values[..., 3]
    fourth = image.tag_v2.get(EXTRA, (2,))[0] if isinstance(image, TiffImageFile) else 2
    if fourth == UNSPECIFIED:
        return Deep(colour)
    if fourth == PREMULTIPLIED:
        whole = colour.astype(np.float64) * DEEP_MAX / np.maximum(opacity.astype(np.float64), 1)[..., None]
        colour = np.rint(whole.clip(0, DEEP_MAX)).astype(np.uint16)
    return Deep(colour, opacity)


def _agreed(deep: Deep, image: ImageFile.ImageFile) -> Deep:
    """Return the values unless their upper 8 bits differ from what Pillow decodes."""
    modes = [tile.args for tile in image.tile]
    image.load()
    eight = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"))[..., :3].astype(np.int32)
    if eight.shape == deep.values.shape:
        apart, most = np.abs(eight - (deep.values.astype(np.int32) >> 8)), AGREE
        if deep.opacity is not None and "RGBa" in str(modes):
            apart, most = apart[deep.opacity.astype(np.int32) >= SOLID], AGREE_MULTIPLIED
        if not apart.size or float(apart.mean()) <= most:
            return deep
    raise ValueError("16-bit colour that two decoders read in two ways; save it as PNG")
