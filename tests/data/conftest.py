"""Small files made in the tests: images of one colour each, masks, whole trees of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Paint = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """Writes an image below the test's folder; each call another picture, unless `value` says which."""
    made = 0

    def write(
        name: str, *, value: int | None = None, size: tuple[int, int] = (8, 6), half: bool = False
    ) -> Path:
        nonlocal made
        made += 1
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(made)
        pixels = rng.integers(0, 256, (size[1], size[0]), np.uint8)
        if value is not None:
            pixels[:] = value
        if half:  # a mask that marks the left half
            pixels[:] = 255
            pixels[:, size[0] // 2 :] = 0
        Image.fromarray(pixels).save(path)
        return path

    return write
