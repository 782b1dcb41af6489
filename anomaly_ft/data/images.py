"""Image files to arrays: `(height, width, 3)` uint8 RGB, whatever the file holds; masks to booleans.

Left out on purpose: colour management (ICC profiles are ignored) and all frames but the first.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from anomaly_ft.data.pixels import Pixels, Resize
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

# On damaged files decoders raise nearly anything, from OSError to struct.error; one bad file must
# never end the reading of ten thousand
UNREADABLE = Exception
ORIENTATION = 0x0112  # of EXIF
DEEP_MAX = 65535  # of 16-bit images; 32-bit integers are taken for 16-bit ones unless they are larger

DARK = 64  # of 255: with all images below, two of 16 bits or more are unused
DARK_SAYS = (
    "use little of their range and will look nearly black; set data.range, such as [0, 4095] for 12 bits "
    "(anomaly-ft init does)"
)
MAX_PIXELS = 2 * 89_478_485  # of an image; Pillow refuses more before it takes any memory


@dataclass(frozen=True)
class Images:
    """Decoded images of one size, the records they came from, and what could not be read."""

    pixels: Pixels  # (n, size, size, 3), an array or `Rows` that index like one
    records: tuple[Record, ...]
    skipped: tuple[tuple[Record, str], ...] = ()

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Decoder:
    """From a file to pixels `(size, size, 3)`: everything that decides what they are."""

    size: int
    resize: Resize = "squash"
    value_range: tuple[float, float] | None = None

    def __call__(self, path: Path) -> Pixels:
        """Raises whatever `read_image` raises."""
        return np.asarray(resize_image(read_image(path, self.value_range), self.size, self.resize))


def read_image(path: Path, value_range: tuple[float, float] | None = None, *, at_least: int = 0) -> Image.Image:
    """The image as 8-bit RGB, upright, see-through parts on white.

    More than 8 bits are scaled, never clipped: from 0..65535, or from `value_range` where a camera uses
    less of it. Opacity of 16 bits is scaled from 0..65535 always. With `at_least` a large JPEG is decoded at
    a half, a quarter or an eighth of its size that still has so many pixels along each side, which is faster.

    Raises:
        ValueError: values outside of the range, floating-point values without a range, an empty file.
        OSError, SyntaxError, Image.DecompressionBombError and more: the decoder, for a damaged file.
    """
    if path.stat().st_size == 0:
        raise ValueError("the file is empty")
    with Image.open(path) as image:
        upright: Image.Image = image
        if len(image.getbands()) > 1 and is_deep(image):
            upright = _deep_colour(path, image, value_range)
        else:
            if at_least:
                image.draft(None, (at_least, at_least))
            image.load()
        ImageOps.exif_transpose(upright, in_place=True)
    if upright.mode == "F" or upright.mode.startswith("I"):  # I;16 and its like, 32-bit I
        return Image.fromarray(_scale(np.asarray(upright), upright.mode, value_range)).convert("RGB")
    if upright.has_transparency_data:
        seen = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return upright.convert("RGB")


def view_image(path: Path, *, at_least: int = 0) -> Image.Image:
    """As `read_image`; where values need a range that only a recipe knows, stretched to fit."""
    try:
        return read_image(path, at_least=at_least)
    except ValueError as cause:
        if "data.range" not in str(cause):
            raise
    values = np.asarray(deep_values(path), np.float64)
    span = float(np.ptp(values)) or 1.0
    return Image.fromarray(((values - values.min()) * (255 / span)).astype(np.uint8)).convert("RGB")


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an image that is opened, not loaded yet, has more than 8 bits a value."""
    return image.mode.startswith("I") or (len(image.getbands()) > 1 and ";16" in str(image.tile))


def deep_values(path: Path) -> NDArray[np.generic] | None:
    """The values of an image with more than 8 bits a value as they are in the file; nothing for others."""
    with Image.open(path) as image:
        if len(image.getbands()) == 1:
            return np.asarray(ImageOps.exif_transpose(image)) if is_deep(image) or image.mode == "F" else None
        return _all_bits(path)[..., :3] if is_deep(image) and image.mode != "CMYK" else None


def resize_image(image: Image.Image, size: int, policy: Resize, *, nearest: bool = False) -> Image.Image:
    """A square image: squashed, its middle (shortest side fits), or all of it on black (longest side fits)."""
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    if policy == "squash":
        return image.resize((size, size), method)
    width, height = image.size
    scale = size / (min(width, height) if policy == "shortest-crop" else max(width, height))
    wide, tall = max(1, round(scale * width)), max(1, round(scale * height))
    if wide * tall > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too long a strip for resize: {policy}")
    resized = image.resize((wide, tall), method)
    if policy == "shortest-crop":
        left, top = (wide - size) // 2, (tall - size) // 2
        return resized.crop((left, top, left + size, top + size))
    square = Image.new(image.mode, (size, size))
    square.paste(resized, ((size - wide) // 2, (size - tall) // 2))
    return square


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where a mask is anything but zero, `(height, width)`, upright; see-through or not does not matter."""
    with Image.open(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
    if len(upright.getbands()) > 1 or upright.mode == "P":
        upright = upright.convert("RGB")
    values: NDArray[np.bool_] = np.asarray(upright) != 0
    return np.any(values, axis=2) if values.ndim == 3 else values


def resize_mask(mask: NDArray[np.bool_], size: int, policy: Resize) -> NDArray[np.bool_]:
    """The mask as the image's resizing moves it, `(size, size)`, by nearest neighbour."""
    image = Image.fromarray(mask.astype(np.uint8))
    resized: NDArray[np.bool_] = np.asarray(resize_image(image, size, policy, nearest=True)) != 0
    return resized


def decode_all(records: Sequence[Record], decoder: Decoder, *, threads: int = 1) -> Iterator[Pixels | str]:
    """For each record in order its pixels, or in words why there are none. A few are decoded ahead."""

    def decode(record: Record) -> Pixels | str:
        try:
            return decoder(record.path)
        except UNREADABLE as cause:
            return why_unreadable(cause)

    if threads == 1:
        yield from map(decode, records)
        return
    Image.init()  # not safe to leave to several threads
    waiting: deque[Future[Pixels | str]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for record in records:
            waiting.append(pool.submit(decode, record))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def why_unreadable(cause: BaseException) -> str:
    """One line for people about a file that could not be decoded."""
    if isinstance(cause, UnidentifiedImageError):
        return "not an image, or of a kind that cannot be read"
    return (f"{type(cause).__name__}: {cause}".splitlines() or [""])[0]


def load_images(
    records: Sequence[Record],
    size: int,
    *,
    resize: Resize = "squash",
    value_range: tuple[float, float] | None = None,
    threads: int = 1,
    progress: Iterable[Record] | None = None,
) -> Images:
    """Decode all records into memory, each resized to `size` x `size`; unreadable files are set aside.

    Args:
        records: what to read.
        size: height and width in pixels.
        resize: what happens to images that are not square.
        value_range: black and white of images with more than 8 bits; unset: 0 and 65535.
        threads: so many files are decoded at a time.
        progress: the records once more, drawn from as each one is done.

    Raises:
        DataError: not a single file could be read.
    """
    pixels = np.empty((len(records), size, size, 3), np.uint8)
    good: list[Record] = []
    skipped: list[tuple[Record, str]] = []
    decoded = decode_all(records, Decoder(size, resize, value_range), threads=threads)
    for record, loaded in zip(progress or records, decoded, strict=True):
        if isinstance(loaded, str):
            skipped.append((record, loaded))
        else:
            pixels[len(good)] = loaded
            good.append(record)
    refuse_if_none(records, good, skipped)
    return Images(pixels[: len(good)], tuple(good), tuple(skipped))


def refuse_if_none(
    records: Sequence[Record], good: Sequence[Record], skipped: Sequence[tuple[Record, str]]
) -> None:
    """Raise a DataError when there were files and not one of them could be read."""
    if records and not good:
        raise DataError(
            f"none of {len(records)} images could be read; first: {skipped[0][0].path}: {skipped[0][1]}"
        )


def _deep_colour(
    path: Path, header: ImageFile.ImageFile, value_range: tuple[float, float] | None
) -> Image.Image:
    """Colour of 16 bits by OpenCV, all bits scaled to 8: Pillow keeps the upper 8 and throws the rest away."""
    if header.mode == "CMYK":  # which OpenCV takes for RGBA
        if value_range:
            raise ValueError("16-bit CMYK together with data.range: only its upper 8 bits can be read")
        header.load()
        return header
    orientation = header.getexif().get(ORIENTATION, 1)
    values = _all_bits(path)
    if path.suffix.lower() in (".tif", ".tiff"):  # whose decoder has turned them already
        orientation = 1
    scaled = _scale(values[..., 2::-1], "RGB", value_range)
    if values.shape[2] == 4:
        scaled = np.dstack([scaled, _scale(values[..., 3], "A", None)])
    image = Image.fromarray(scaled)
    image.getexif()[ORIENTATION] = orientation
    return image


def _all_bits(path: Path) -> NDArray[np.generic]:
    """Values `(height, width, 3 or 4)` of 16-bit colour, blue first."""
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise ValueError("16-bit colour that cannot be decoded")
    return values


def _scale(values: NDArray[np.generic], mode: str, value_range: tuple[float, float] | None) -> Pixels:
    """More than 8 bits to 0..255, refusing values outside of the range instead of clipping them."""
    low, high = float(values.min()), float(values.max())
    if value_range is None and mode == "F":
        raise ValueError(f"floating-point values {low:g} to {high:g}: which is white? set data.range")
    bottom, top = value_range or (0, DEEP_MAX)
    if not (bottom <= low and high <= top):
        raise ValueError(f"values {low:g} to {high:g} reach beyond {bottom:g} to {top:g}; set data.range")
    scaled: Pixels = np.rint((values.astype(np.float64) - bottom) * (255 / (top - bottom))).astype(np.uint8)
    return scaled
