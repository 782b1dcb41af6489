"""Convert images as people pass them (paths, arrays, base64) to what the detector takes."""

import base64
import binascii
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anomaly_ft.data.images import Decoder, resize_image, to_rgb, why_unreadable
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.errors import DataError

LONGEST_PATH = 4096  # characters; a longer text is no path on any system


def to_pixels(item: Any, decoder: Decoder) -> Pixels:
    """Convert one image to pixels `(h, w, 3)`.

    Args:
        item: a path, the base64 of an image file (also as a data URL), or uint8 values `(h, w, 3)` or
            `(h, w)` as an array, a Pillow image or nested lists.
        decoder: how it is resized.

    Raises:
        DataError: what is none of these, or cannot be decoded.
    """
    if isinstance(item, str | Path):
        return _from_text(item, decoder)
    if isinstance(item, Image.Image):
        return _of_pillow(item, decoder)
    try:
        values = np.asarray(item)
    except ValueError as cause:
        raise DataError(f"expected uint8 values (h, w, 3), got lists of different lengths: {cause}") from cause
    whole = values.dtype.kind in "iu" and values.size and values.min() >= 0 and values.max() <= 255
    if not whole or values.shape[2:] not in ((), (3,)) or values.ndim < 2:
        raise DataError(
            f"expected an image as uint8 values (h, w, 3), got {values.dtype} {values.shape}; "
            "scale to 0..255 first"
        )
    image = Image.fromarray(values.astype(np.uint8)).convert("RGB")
    return np.asarray(resize_image(image, decoder.size, decoder.resize))


def _of_pillow(image: Image.Image, decoder: Decoder) -> Pixels:
    """Convert a Pillow image as if from its file: all bits, upright, see-through parts on white."""
    try:
        rgb = to_rgb(image, decoder.value_range)
    except Exception as cause:  # decoders raise nearly anything on damaged files
        raise DataError(f"a Pillow image of mode {image.mode}: {why_unreadable(cause)}") from cause
    return np.asarray(resize_image(rgb, decoder.size, decoder.resize))


def _from_text(text: str | Path, decoder: Decoder) -> Pixels:
    given = str(text)
    if len(given) <= LONGEST_PATH and Path(given).is_file():
        return _decode(Path(given), given, decoder)
    body = given.partition(",")[2] if given.startswith("data:") else given
    try:
        content = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        content = b""
    shown = given if len(given) <= 100 else f"{given[:60]}…"
    if isinstance(text, Path) or not content:
        raise DataError(f"{shown!r} is neither a file nor the base64 of one")
    with tempfile.NamedTemporaryFile() as file:  # decoders want a path
        file.write(content)
        file.flush()
        return _decode(Path(file.name), shown, decoder)


def _decode(path: Path, shown: str, decoder: Decoder) -> Pixels:
    try:
        return decoder(path)
    except Exception as cause:  # decoders raise nearly anything on damaged files
        raise DataError(f"{shown!r}: {why_unreadable(cause)}") from cause
