"""Decoded images of one size: how they are resized, and many files at a time. See `decode` for a single one."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from anomaly_ft.data.decode import MAX_PIXELS, read_image, why_unreadable
from anomaly_ft.data.pixels import Pixels, Resize
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

# On damaged files decoders raise nearly anything, from OSError to struct.error; one bad file must
# never end the reading of ten thousand
UNREADABLE = Exception
PAGES_SAY = "several pages or frames, of which the first is used"
LOST_SAYS = "values that are no numbers (NaN, infinite), which are read as black"
DARK = 64  # of 255: with all images below, two of 16 bits or more are unused
DARK_SAYS = (
    "use little of their range and will look nearly black; set data.range, such as [0, 4095] for 12 bits "
    "(anomaly-ft init does)"
)


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
    resize: Resize = "stretch"
    value_range: tuple[float, float] | None = None

    def __call__(self, path: Path) -> Pixels:
        """Raises whatever `read_image` raises."""
        return np.asarray(resize_image(read_image(path, self.value_range), self.size, self.resize))


def resize_image(image: Image.Image, size: int, policy: Resize, *, nearest: bool = False) -> Image.Image:
    """A square image: stretched, its middle (shortest side fits), or all of it on black (longest side fits)."""
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BICUBIC
    if policy == "stretch":
        return image.resize((size, size), method)
    width, height = image.size
    scale = size / (min(width, height) if policy == "center-crop" else max(width, height))
    wide, tall = max(1, round(scale * width)), max(1, round(scale * height))
    if wide * tall > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too long a strip for resize: {policy}")
    resized = image.resize((wide, tall), method)
    if policy == "center-crop":
        left, top = (wide - size) // 2, (tall - size) // 2
        return resized.crop((left, top, left + size, top + size))
    square = Image.new(image.mode, (size, size))
    square.paste(resized, ((size - wide) // 2, (size - tall) // 2))
    return square


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


def load_images(
    records: Sequence[Record],
    size: int,
    *,
    resize: Resize = "stretch",
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
