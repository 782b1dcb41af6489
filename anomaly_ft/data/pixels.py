"""What an image is to the rest: an array of uint8, how it is resized, and the file names it has."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

Pixels = NDArray[np.uint8]
Resize = Literal["stretch", "center-crop", "letterbox"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
