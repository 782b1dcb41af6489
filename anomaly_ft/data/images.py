"""Decode image files, and images that Pillow has opened, to 8-bit RGB in one way.

Left out on purpose: colour management (ICC profiles are ignored) and all pages and frames but the first.
"""

import os
import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from anomaly_ft.data.deep_values import (
    DEEP_MAX,
    ORIENTATION,
    Deep,
    Limits,
    deep_values,
    is_deep,
    only_eight_bits,
    scaled,
)
from anomaly_ft.data.pixels import Pixels, Resize, Size, sides
from anomaly_ft.errors import DataError

if find_spec("pillow_heif"):
    import_module("pillow_heif").register_heif_opener()
if find_spec("pillow_jxl"):
    import_module("pillow_jxl")  # which registers itself

MAX_VARIABLE = "ANOMALY_FT_MAX_PIXELS"
SAME_ASPECT = 1.1  # times that sides may differ in ratio and yet count as of one
TURNED = range(5, 9)  # EXIF orientations that swap width and height


def _max_pixels() -> int:
    """Limit the pixels of an image; Pillow refuses more before it takes any memory."""
    wanted = os.environ.get(MAX_VARIABLE, "")
    if wanted and not re.fullmatch(r"[1-9]\d*", wanted):
        raise DataError(f"{MAX_VARIABLE}: expected a number of pixels, got {wanted!r}")
    return int(wanted or 2 * 89_478_485)


MAX_PIXELS = _max_pixels()
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # from which on Pillow warns; it refuses twice as many


@dataclass(frozen=True)
class View:
    """An image as somebody looks at it who knows no range; the limits of its values where these are deep."""

    image: Image.Image
    limits: Limits | None


@dataclass(frozen=True)
class Decoder:
    """From a file to pixels `(h, w, 3)`, h and w being `sides(size)`: everything that decides what they are."""

    size: Size
    resize: Resize = "stretch"
    value_range: tuple[float, float] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        height, width = sides(self.size)
        return 3 * height * width

    def __call__(self, path: Path) -> Pixels:
        """Decode a file; raises whatever `read_image` raises."""
        return np.asarray(resize_image(read_image(path, self.value_range), self.size, self.resize))


def read_image(path: Path, value_range: tuple[float, float] | None = None) -> Image.Image:
    """Decode an image file to 8-bit RGB, upright, see-through parts on white; see `to_rgb`.

    Raises:
        ValueError: see `to_rgb`; also an empty file.
        OSError, SyntaxError, Image.DecompressionBombError and more: the decoder, for a damaged file.
    """
    refuse_empty(path)
    with Image.open(path) as image:
        return to_rgb(image, value_range)


def to_rgb(image: Image.Image, value_range: tuple[float, float] | None = None) -> Image.Image:
    """Convert an image that Pillow has opened to 8-bit RGB, upright, see-through parts on white.

    More than 8 bits are scaled, never clipped: from 0..65535, or from `value_range` where a camera uses
    less of it. Opacity of 16 bits is scaled from 0..65535 always; opacity that is 0 everywhere is ignored.

    Raises:
        ValueError: values outside of the range, floating-point values without a range, deep colour that
            cannot be read with all its bits.
    """
    if value_range and is_deep(image) and isinstance(image, ImageFile.ImageFile) and only_eight_bits(image):
        kind = "CMYK" if image.mode == "CMYK" else "colour in compressed planes"
        raise ValueError(f"16-bit {kind} together with data.range: only its upper 8 bits can be read")
    deep = deep_values(image)
    if deep is None:
        return _eight_bits(image)
    return _on_white(scaled(deep, value_range), deep)


def view_image(path: Path, *, at_least: int = 0) -> View:
    """Decode as `read_image` does, with the limits; values that need a range are stretched to fit.

    With `at_least` a large JPEG is decoded at a half, a quarter or an eighth of its size that still has so
    many pixels along each side, which is faster.
    """
    refuse_empty(path)
    with Image.open(path) as image:
        deep = deep_values(image)
        if deep is None:
            if at_least and isinstance(image, ImageFile.ImageFile):
                image.draft(None, (at_least, at_least))
            return View(_eight_bits(image), None)
    limits = deep.limits()
    fits = not limits.floating and limits.low >= 0 and limits.high <= DEEP_MAX
    span = (limits.low, limits.high if limits.high > limits.low else limits.low + 1)
    return View(_on_white(scaled(deep, None if fits else span), deep), limits)


def refuse_empty(path: Path) -> None:
    """Raise a ValueError for a file without content."""
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")


def upright_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Read width and height from the header as they will be when the image is decoded."""
    width, height = image.size
    known = image.format != "PNG" or "exif" in image.info  # else Pillow decodes the whole PNG to look
    turned = known and image.getexif().get(ORIENTATION) in TURNED
    return (height, width) if turned else (width, height)


def has_pages(image: ImageFile.ImageFile) -> bool:
    """Tell whether a file holds pages or frames beside the first; a phone's second picture for depth is
    none."""
    return image.format != "MPO" and bool(getattr(image, "is_animated", False))


def why_unreadable(cause: BaseException) -> str:
    """Explain in one line for people why a file could not be decoded."""
    if isinstance(cause, UnidentifiedImageError):
        return "not an image, or of a kind that cannot be read"
    if isinstance(cause, Image.DecompressionBombError):
        size = re.search(r"\d+", str(cause))
        pixels = f"{int(size[0]):,} pixels" if size else "pixels"
        return (
            f"{pixels} are more than the {MAX_PIXELS:,} that are read at once; cut it into tiles, or raise the "
            f"limit with the environment variable {MAX_VARIABLE}"
        )
    return (f"{type(cause).__name__}: {cause}".splitlines() or [""])[0]


def _eight_bits(image: Image.Image) -> Image.Image:
    image.load()
    turned = image.getexif().get(ORIENTATION, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    seen = upright.convert("RGBA")
    if seen.getchannel("A").getextrema()[1] == 0:  # such opacity says nothing
        return seen.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


def _on_white(pixels: Pixels, deep: Deep) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGB")
    if deep.opacity is None or not deep.opacity.any():
        return image
    opacity = np.rint(deep.opacity.astype(np.float64) * (255 / DEEP_MAX)).astype(np.uint8)
    image.putalpha(Image.fromarray(opacity))
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def resize_image(image: Image.Image, size: Size, policy: Resize, *, nearest: bool = False) -> Image.Image:
    """Give an image the sides `size`: stretched, its middle (the side that is relatively shorter fits), or all
    of it on black (the longer one fits). `native` stretches too, and refuses what that would squash.

    Raises:
        ValueError: with `native` another ratio of the sides; a strip too long to be cut or laid on black.
    """
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    height, width = sides(size)
    if policy == "native" and not same_aspect(image.size, (width, height)):
        raise ValueError(
            f"{image.width} x {image.height} pixels do not have the proportions of the others "
            f"(data.resize: native, {width} x {height})"
        )
    if policy in ("stretch", "native"):
        return image.resize((width, height), method)
    each = width / image.width, height / image.height
    scale = max(each) if policy == "center-crop" else min(each)
    wide, tall = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    if wide * tall > MAX_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are too long a strip for resize: {policy}")
    resized = image.resize((wide, tall), method)
    if policy == "center-crop":
        left, top = (wide - width) // 2, (tall - height) // 2
        return resized.crop((left, top, left + width, top + height))
    whole = Image.new(image.mode, (width, height))
    whole.paste(resized, ((width - wide) // 2, (height - tall) // 2))
    return whole


def same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether two sizes `(width, height)` have nearly the same ratio of their sides."""
    ratio = one[0] * other[1] / (one[1] * other[0])
    return 1 / SAME_ASPECT <= ratio <= SAME_ASPECT


def resize_mask(mask: NDArray[np.bool_], size: Size, policy: Resize) -> NDArray[np.bool_]:
    """Resize a mask as its image is, to the sides `size`, by nearest neighbour."""
    image = Image.fromarray(mask.astype(np.uint8))
    resized: NDArray[np.bool_] = np.asarray(resize_image(image, size, policy, nearest=True)) != 0
    return resized
