"""Which condition an image was taken under."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.conditions import conditions_of, refuse_unread
from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.layouts.detect import Reading
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError


def reading(*names: str) -> Reading:
    """Images below `test/<kind>/` and, for training, below `train/good/`."""
    made = []
    for name in names:
        split, kind = name.split("/")[:2]
        made.append(Record(Path("root"), name, "train" if split == "train" else "test", kind))
    return Reading("mvtec", "", Path("root"), tuple(made))


def for_testing(found: Reading) -> list[Record]:
    return [record for record in found.records if record.split == "test"]


CAMERAS = reading("train/good/cam1/0.png", "test/good/cam1/1.png", "test/hole/cam1/a/cam2/2.png")


def test_the_folder_is_the_innermost_below_that_of_the_kind() -> None:
    assert conditions_of(CAMERAS, for_testing(CAMERAS), "folder") == {
        "test/good/cam1/1.png": "cam1", "test/hole/cam1/a/cam2/2.png": "cam2"
    }  # fmt: skip


def test_a_pattern_says_the_condition_with_its_group() -> None:
    found = conditions_of(CAMERAS, for_testing(CAMERAS), r"/(cam\d)/")
    assert set(found.values()) == {"cam1"}, "the first match counts"


def test_conditions_on_both_sides_of_the_split_are_no_mistake() -> None:
    assert conditions_of(CAMERAS, for_testing(CAMERAS), "(cam1)")["test/good/cam1/1.png"] == "cam1"


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (
            "camera",
            "'camera' is no column of the manifest, for no manifest lists these images, is not the word folder",
        ),
        ("foldr", r"did you mean 'folder'\?"),
        ("cam(", "missing \\)"),
        (r"cam\d", "no regular expression with a \\(group\\)"),
        (r"lamp(\d)", "does not match 2 of 2 test images, such as test/good/cam1/1.png"),
    ],
)
def test_what_is_neither_column_nor_pattern_nor_folder_is_refused(by: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        conditions_of(CAMERAS, for_testing(CAMERAS), by)


def test_an_image_without_a_condition_and_a_condition_without_test_images_are_refused_together() -> None:
    found = reading("train/good/cam9/0.png", "test/good/1.png", "test/good/cam1/2.png")
    with pytest.raises(DataError, match="no folder below that of its kind holds 1 of 2 test images") as caught:
        conditions_of(found, for_testing(found), "folder")
    assert "no test images of cam9" in str(caught.value)


def test_a_condition_of_which_no_image_can_be_read_is_refused() -> None:
    conditions = conditions_of(CAMERAS, for_testing(CAMERAS), "folder")
    refuse_unread(conditions, for_testing(CAMERAS))
    with pytest.raises(DataError, match="not one image of cam2 can be read"):
        refuse_unread(conditions, for_testing(CAMERAS)[:1])


def manifest(folder: Path, cameras: dict[str, str], name: str = "march.csv") -> Path:
    """A table of test images, and one to train with, with their cameras."""
    for image in cameras:
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / image)
    rows = [
        f"{image},0,{'train' if image == '0.png' else 'test'},{camera}" for image, camera in cameras.items()
    ]
    (folder / name).write_text("\n".join(["image_path,label_index,split,camera", *rows]))
    return folder / name


@pytest.mark.parametrize("name", ["march.csv", "manifest.csv"])
def test_a_column_of_the_manifest_says_the_condition(name: str, tmp_path: Path) -> None:
    path = manifest(tmp_path, {"0.png": "a", "1.png": "a", "2.png": "b"}, name)
    found = read_records(str(tmp_path if name == "manifest.csv" else path))
    by_hand = "" if name == "manifest.csv" else str(path)
    assert conditions_of(found, for_testing(found), "camera", by_hand) == {"1.png": "a", "2.png": "b"}
    with pytest.raises(
        DataError, match=r"'camra' is no column .*there are image_path.*did you mean 'camera'\?"
    ):
        conditions_of(found, for_testing(found), "camra", by_hand)


def test_an_empty_cell_is_an_image_without_a_condition(tmp_path: Path) -> None:
    path = manifest(tmp_path, {"0.png": "a", "1.png": "a", "2.png": ""})
    found = read_records(str(path))
    with pytest.raises(DataError, match=r"the column camera is empty for 1 of 2 test images, such as 2.png"):
        conditions_of(found, for_testing(found), "camera", str(path))
