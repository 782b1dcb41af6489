"""Whatever way an image is handed over, the same pixels come out."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.images import Decoder
from anomaly_ft.deploy.inputs import to_pixels
from anomaly_ft.errors import DataError

DECODER = Decoder(16, "center-crop")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(values).save(tmp_path / "part.png")
    return tmp_path / "part.png"


def test_paths_base64_arrays_and_lists_give_the_pixels_of_the_file(image: Path) -> None:
    content, values = base64.b64encode(image.read_bytes()).decode(), np.asarray(Image.open(image))
    ways = [image, str(image), content, f"data:image/png;base64,{content}", values, values.tolist()]
    for way in [*ways, values.astype(np.int64), Image.open(image)]:
        assert np.array_equal(to_pixels(way, DECODER), DECODER(image)), type(way)


def test_a_grey_array_is_as_good_as_three_equal_channels() -> None:
    grey = np.random.default_rng(0).integers(0, 255, (20, 30), np.uint8)
    assert np.array_equal(to_pixels(grey, DECODER), to_pixels(np.stack([grey] * 3, 2), DECODER))


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("no/such/file.png", "'no/such/file.png' is neither a file nor the base64 of one"),
        (Path("AAAA"), "'AAAA' is neither a file nor the base64 of one"),
        ("", "is neither a file nor"),
        ("A" * 5000, "not an image"),
        ("!" * 5000, r"!…' is neither a file"),
        ("AAAA", "'AAAA': .*not an image"),
        (np.zeros((4, 4, 3)), r"got float64 \(4, 4, 3\); scale to 0..255 first"),
        (np.full((4, 4, 3), 300), "scale to 0..255 first"),
        (np.full((4, 4, 3), -1), "scale to 0..255 first"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"got uint8 \(2, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "expected an image as uint8"),
        ([[1, 2], [3]], "lists of different lengths"),
        (None, "expected an image as uint8"),
        ({"a": 1}, "expected an image as uint8"),
    ],
)
def test_what_is_no_image_is_an_error_that_says_what_was_expected(item: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        to_pixels(item, DECODER)


def test_a_damaged_file_is_an_error_that_names_it(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(DataError, match=r"part\.png'"):
        to_pixels(image, DECODER)
