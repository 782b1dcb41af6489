"""Decode many files at a time to one size; see `images` for a single one."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from anomaly_ft.data.images import Decoder, why_unreadable
from anomaly_ft.data.pixels import Pixels, Resize, Size, sides
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

    pixels: Pixels  # (n, h, w, 3), an array or `Rows` that index like one
    records: tuple[Record, ...]
    skipped: tuple[tuple[Record, str], ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def decode_all(records: Sequence[Record], decoder: Decoder, *, threads: int = 1) -> Iterator[Pixels | str]:
    """Decode each record in order to its pixels, or say why there are none. A few are decoded ahead."""

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
    size: Size,
    *,
    resize: Resize = "stretch",
    value_range: tuple[float, float] | None = None,
    threads: int = 1,
    progress: Iterable[Record] | None = None,
) -> Images:
    """Decode all records into memory, each resized to the sides `size`; unreadable files are set aside.

    Args:
        records: what to read.
        size: side of a square, or height and width, in pixels.
        resize: what happens to images whose sides have another ratio.
        value_range: black and white of images with more than 8 bits; unset: 0 and 65535.
        threads: so many files are decoded at a time.
        progress: the records once more, drawn from as each one is done.

    Raises:
        DataError: not a single file could be read.
    """
    pixels = np.empty((len(records), *sides(size), 3), np.uint8)
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
