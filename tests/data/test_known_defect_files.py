"""Known defects are read as all images are, and refused where they serve something else; all at once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from settings import textures, write_images

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.known_defects import load_known_defects
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

DECODER = Decoder(32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_images(tmp_path / "known" / "scratch", textures(2, 40, 1))
    write_images(tmp_path / "known" / "deep" / "dent", textures(1, 40, 2))
    return tmp_path / "known"


def other(path: Path, split: str, kind: str) -> Record:
    return Record(path.parent, path.name, split, kind)


def test_the_innermost_folder_is_the_kind_and_pixels_are_those_of_any_image(folder: Path) -> None:
    images = load_known_defects(folder, DECODER, [])
    assert [record.kind for record in images.records] == ["dent", "scratch", "scratch"]
    assert all(np.array_equal(p, DECODER(r.path)) for p, r in zip(images.pixels, images.records, strict=True))


def test_images_in_the_folder_itself_are_of_its_name(folder: Path) -> None:
    assert {record.kind for record in load_known_defects(folder / "scratch", DECODER, []).records} == {
        "scratch"
    }


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.known_defects: there are no images in"):
        load_known_defects(tmp_path, DECODER, [])


def test_more_than_ten_are_refused(folder: Path) -> None:
    write_images(folder / "many", textures(8, 40, 3))
    with pytest.raises(DataError, match=r"11 images in .*, expected 1 to 10"):
        load_known_defects(folder, DECODER, [])


def test_all_that_cannot_be_used_is_named_at_once(folder: Path, tmp_path: Path) -> None:
    (folder / "scratch" / "broken.png").write_bytes(b"no image")
    write_images(folder / "good", textures(1, 40, 4))
    shutil.copy(folder / "deep" / "dent" / "000.png", folder / "twice.png")
    test, normal = tmp_path / "test.png", tmp_path / "normal.png"
    shutil.copy(folder / "scratch" / "000.png", test)
    shutil.copy(folder / "scratch" / "001.png", normal)
    others = [other(test, "test", "scratch"), other(normal, "train", "good")]
    with pytest.raises(DataError) as refused:
        load_known_defects(folder, DECODER, others)
    said = str(refused.value)
    assert "scratch/broken.png: not an image" in said
    assert "good/000.png: in a folder named like good images" in said
    assert f"scratch/000.png: also a test image: {test}" in said
    assert f"scratch/001.png: also a good image of the run: {normal}" in said
    assert "there twice" in said
    assert len(said.splitlines()) == 6
