"""Images that are fetched when they are asked for, and otherwise index like an array."""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from anomaly_ft.data.pixels import Pixels

Take = Callable[[NDArray[np.intp]], Pixels]  # positions (k,) to pixels (k, h, w, 3), always a new array


class Rows:
    """uint8 pixels `(n, h, w, 3)`; what is taken out is a new array, nothing else is held in memory."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, take: Take, indices: NDArray[np.intp], image_shape: tuple[int, int, int]) -> None:
        self._take = take
        self._indices = indices
        self.shape = (len(indices), *image_shape)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, key: Any) -> Pixels:
        """Fetch one image for an integer; images for a slice, a list or an array of integers or booleans."""
        wanted = self._indices[key]
        taken = self._take(np.atleast_1d(wanted))
        if np.ndim(wanted) == 0:
            return cast(Pixels, taken[0])
        return taken

    def __iter__(self) -> Iterator[Pixels]:
        for i in range(len(self)):
            yield self[i]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Fetch all images at once; `copy` is always true."""
        return np.asarray(self._take(self._indices), dtype)

    def rows(self, positions: list[int]) -> "Rows":
        """Select some of the rows, still not fetched."""
        return Rows(self._take, self._indices[positions], self.shape[1:])


def as_array(rows: Rows) -> Pixels:
    """Cast for the type checker: rows index like the array that everybody expects."""
    return cast(Pixels, rows)


def view(pixels: Pixels, positions: list[int]) -> Pixels:
    """Select images of an array or of rows, without copying them."""
    if isinstance(pixels, Rows):
        return as_array(pixels.rows(positions))
    shape: tuple[int, int, int] = pixels.shape[1:]
    return as_array(Rows(lambda wanted: pixels[wanted], np.array(positions, np.intp), shape))
