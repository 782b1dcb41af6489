"""Types of an image: an array of uint8, its size and how it gets it, and the endings of its files."""

from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

HEIF = frozenset({".heic", ".heif", ".hif"})
JXL = frozenset({".jxl"})
# Endings of files that Pillow decodes, or a plugin where the extra `formats` is installed
SUFFIXES = frozenset(
    {
        *(".apng", ".avif", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
        *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm", ".ppm", ".qoi"),
        *(".ras", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
        *(HEIF if find_spec("pillow_heif") else ()),
        *(JXL if find_spec("pillow_jxl") else ()),
    }
)
_SAVE_AS = "a kind of file that is not read; save these as PNG or TIFF"
# Endings of image files that are not read, and what to do about it
FOREIGN = {
    **dict.fromkeys(HEIF - SUFFIXES, "HEIF images need a plugin: pip install pillow-heif"),
    **dict.fromkeys(JXL - SUFFIXES, "JPEG XL images need a plugin: pip install pillow-jxl-plugin"),
    **dict.fromkeys((".dcm", ".dicom"), f"DICOM is {_SAVE_AS}"),
    **dict.fromkeys((".npy", ".npz"), f"NumPy's arrays are {_SAVE_AS}"),
    **dict.fromkeys(
        (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"), f"a camera's raw data is {_SAVE_AS}"
    ),
    **dict.fromkeys((".exr", ".fits", ".hdr", ".ico", ".nrrd", ".psd", ".svg", ".xcf"), f"this is {_SAVE_AS}"),
}

Pixels = NDArray[np.uint8]
Size = int | tuple[int, int]  # the side of a square, or height and width
Resize = Literal["stretch", "center-crop", "letterbox", "native"]
RESIZES: tuple[Resize, ...] = get_args(Resize)


def sides(size: Size) -> tuple[int, int]:
    """Give height and width.

    >>> sides(224), sides((144, 352))
    ((224, 224), (144, 352))
    """
    return (size, size) if isinstance(size, int) else size


def say_size(size: Size) -> str:
    """Name a size for people: `224` of a square, else `144 x 352`, height first."""
    height, width = sides(size)
    return str(height) if height == width else f"{height} x {width}"
