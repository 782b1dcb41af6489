from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.images import load_images, read_image
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError


def record(path: Path) -> Record:
    return Record(path, path.name, "train")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_to_eight_and_not_clipped(suffix: str, tmp_path: Path) -> None:
    values = np.array([[0, 200, 256, 1000, 30000, 65535]], np.uint16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    pixels = np.asarray(read_image(path))
    assert pixels.dtype == np.uint8
    assert pixels[0, :, 0].tolist() == [round(value / 257) for value in values[0].tolist()]
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode).save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (5, 3))
    assert np.asarray(image).min() >= 250


def test_the_camera_was_turned_and_the_image_is_upright(tmp_path: Path) -> None:
    image = Image.new("L", (6, 4))
    image.putpixel((0, 0), 255)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.size == (4, 6)
    assert upright.getpixel((3, 0)) == (255, 255, 255)


def test_images_are_squashed_to_one_size(tmp_path: Path) -> None:
    Image.new("RGB", (30, 10), (10, 20, 30)).save(tmp_path / "wide.png")
    loaded = load_images([record(tmp_path / "wide.png")], 16)
    assert loaded.pixels.shape == (1, 16, 16, 3)
    assert (loaded.pixels == [10, 20, 30]).all()
    assert len(loaded) == 1


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_damaged_file_is_set_aside_and_named(damage: str, threads: int, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((40, 40, 3), 10 * i, np.uint8)).save(path)
    whole = paths[2].read_bytes()
    paths[2].write_bytes({"text": b"no image", "cut": whole[: len(whole) // 2], "empty": b""}[damage])
    loaded = load_images([record(path) for path in paths], 8, threads=threads)
    assert [r.path for r in loaded.records] == [paths[0], paths[1], paths[3]]
    assert [int(image.mean()) for image in loaded.pixels] == [0, 10, 30]
    ((skipped, why),) = loaded.skipped
    assert skipped.path == paths[2]
    assert "Error" in why
    assert "\n" not in why


def test_a_file_that_went_away_is_set_aside(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    loaded = load_images([record(tmp_path / "a.png"), record(tmp_path / "gone.png")], 8)
    assert [(r.name, why.split(":")[0]) for r, why in loaded.skipped] == [("gone.png", "FileNotFoundError")]


def test_when_every_file_is_damaged_that_is_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(
        DataError, match=r"none of 2 images could be read; first: .*a\.png: UnidentifiedImageError"
    ):
        load_images([record(tmp_path / "a.png"), record(tmp_path / "b.png")], 8)


def test_no_records_are_no_images() -> None:
    assert load_images([], 8).pixels.shape == (0, 8, 8, 3)
