"""Height and width for images that keep their proportions, chosen from headers alone."""

import re
from pathlib import Path

import pytest
from PIL import Image

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.proportions import native_size
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError


def images(folder: Path, *kinds: tuple[int, int, int]) -> list[Record]:
    """Write so many images of each width and height."""
    records = []
    for count, width, height in kinds:
        for i in range(count):
            path = folder / f"{width}x{height}-{i}.png"
            Image.new("RGB", (width, height)).save(path)
            records.append(Record(folder, path.name, "train", "good"))
    return records


def test_one_image_of_another_size_does_not_outvote_all_others(tmp_path: Path) -> None:
    assert native_size(images(tmp_path, (40, 60, 60), (1, 328, 300)), 224) == (224, 224)


def test_sides_are_multiples_of_what_the_encoder_takes(tmp_path: Path) -> None:
    assert native_size(images(tmp_path, (4, 321, 600)), 224, step=14) == (308, 168)


def test_what_is_accepted_can_be_decoded(tmp_path: Path) -> None:
    records = images(tmp_path, (4, 321, 600), (1, 330, 600), (1, 300, 600))
    size = native_size(records, 224)
    assert size == (304, 160)
    for record in records:
        assert Decoder(size, "native")(record.path).shape == (304, 160, 3)


def test_what_could_not_be_decoded_at_the_chosen_size_is_refused_at_once(tmp_path: Path) -> None:
    records = images(tmp_path, (4, 321, 600), (1, 350, 600), (1, 300, 600))
    said = (
        "321x600-0.png has 321 x 600 pixels and 350x600-0.png has 350 x 600; set it to letterbox, "
        "center-crop or stretch (160 x 304 pixels, which fit most images, would squash it by more than 10%)"
    )
    with pytest.raises(DataError, match=re.escape(said)):
        native_size(records, 224)
    with pytest.raises(ValueError, match="do not have the proportions"):
        Decoder((304, 160), "native")(records[4].path)


def test_without_a_readable_image_the_size_is_a_square(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert native_size([Record(tmp_path, "broken.png", "train", "good")], 96) == (96, 96)
