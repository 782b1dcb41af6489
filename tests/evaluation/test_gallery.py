from pathlib import Path

import numpy as np
import pytest

from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.gallery import choose, gallery_of
from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.loading import load_detector


def record(name: str, kind: str = "good") -> Record:
    return Record(Path(), name, "test", kind)


RECORDS = [
    *(record(f"test/good/{i:03d}.png") for i in range(9)),
    *(record(f"test/hole/{i:03d}.png", "hole") for i in range(5)),
    record("test/scratch/000.png", "scratch"),
]


@pytest.fixture(scope="module")
def detector(small_run: Path) -> GaussianDetector:
    return load_detector(small_run)


def shown(count: int, records: list[Record] = RECORDS) -> list[str]:
    return [records[i].name for i in choose(records, count)]


def test_a_third_is_normal_and_the_kinds_take_turns() -> None:
    names = ["good/000", "good/001", "hole/000", "scratch/000", "hole/001", "hole/002"]
    assert shown(6) == [f"test/{name}.png" for name in names]


def test_normal_images_fill_up_where_there_are_few_anomalous_ones() -> None:
    assert len(shown(6, RECORDS[:9] + RECORDS[14:])) == 6
    assert shown(4, RECORDS[:9]) == [f"test/good/00{i}.png" for i in range(4)]
    assert shown(8, RECORDS[13:]) == ["test/hole/004.png", "test/scratch/000.png"]


def test_none_are_shown_when_none_are_wanted(detector: GaussianDetector, mvtec_folder: Path) -> None:
    images = Images(np.zeros((15, 64, 64, 3), np.uint8), tuple(RECORDS))
    compute = make_compute(device="cpu", precision="fp32")
    gallery = gallery_of(images, images, {}, compute, count=0)
    gallery.look(detector)
    assert list(gallery.pictures()) == []


def test_a_picture_is_the_image_beside_its_map_with_the_score_below(
    detector: GaussianDetector, make_textures: object
) -> None:
    pixels = make_textures(15, 64, 5)  # type: ignore[operator]
    images = Images(pixels, tuple(RECORDS))
    gallery = gallery_of(images, images, {}, make_compute(device="cpu", precision="fp32"), count=6)
    gallery.look(detector)
    pictures = dict(gallery.pictures())
    assert list(pictures) == [
        "maps/good 000", "maps/good 001", "maps/hole 000", "maps/scratch 000", "maps/hole 001", "maps/hole 002",
    ]  # fmt: skip
    picture = pictures["maps/scratch 000"]
    assert picture.shape == (64 + 18, 128, 3)
    assert np.array_equal(picture[:64, :64], pixels[14])
    assert not np.array_equal(picture[:64, 64:], pixels[14])
    assert picture[64:].min() < 100, "text"
    assert picture[64:].max() == 255, "on white"
    assert list(gallery.pictures()) == [], "a look gives its pictures once"


def test_without_a_test_split_held_out_images_and_their_pseudo_anomalies_are_shown(
    detector: GaussianDetector, make_textures: object
) -> None:
    pixels = make_textures(4, 64, 5)  # type: ignore[operator]
    watched = Images(pixels, tuple(record(f"{folder}/1: a.png") for folder in "abcd"))
    nothing = Images(pixels[:0], ())
    compute = make_compute(device="cpu", precision="fp32")
    gallery = gallery_of(nothing, watched, {"scar": 255 - pixels}, compute, count=6)
    gallery.look(detector)
    pictures = dict(gallery.pictures())
    assert list(pictures) == ["maps/good 1- a", "maps/good 1- a 2", "maps/pseudo scar"]
    assert np.array_equal(pictures["maps/pseudo scar"][:64, :64], 255 - pixels[0])
