from pathlib import Path

import pytest

from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.errors import DataError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_the_folders_say_what_an_image_is(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/b.png", "train/good/a.JPG", "train/good/notes.txt")
    touch(
        tmp_path, "test/good/1.png", "test/hole/1.png", "test/hole/2.png", "test/hole/3.png", "test/readme.md"
    )
    touch(tmp_path, "ground_truth/hole/1_mask.png", "ground_truth/hole/2.png")
    reading = read_root(str(tmp_path))
    layout, records = reading.layout, reading.records
    assert layout == "mvtec"
    assert [(r.name, r.split, r.kind, r.mask_name) for r in records] == [
        ("train/good/a.JPG", "train", "good", ""),
        ("train/good/b.png", "train", "good", ""),
        ("test/good/1.png", "test", "good", ""),
        ("test/hole/1.png", "test", "hole", "ground_truth/hole/1_mask.png"),
        ("test/hole/2.png", "test", "hole", "ground_truth/hole/2.png"),
        ("test/hole/3.png", "test", "hole", ""),
    ]
    assert all(record.path == tmp_path / record.name for record in records)
    assert [record.mask for record in records if record.mask] == [
        tmp_path / "ground_truth/hole/1_mask.png",
        tmp_path / "ground_truth/hole/2.png",
    ]
    assert [record.anomalous for record in records] == [False, False, False, True, True, True]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.root: folder does not exist: .*nowhere"):
        read_root(str(tmp_path / "nowhere"))


def test_a_train_folder_without_images_is_an_error_that_names_the_known_endings(tmp_path: Path) -> None:
    touch(tmp_path, "train/good/readme.md")
    with pytest.raises(DataError, match=r"no normal images to train with in .*; endings known are \.apng, "):
        read_root(str(tmp_path))


def test_the_real_sets_have_the_counts_of_their_readme(real_data: Path) -> None:
    for name, counts in {
        "mtd": (761, 191, 392),
        "mvtec_bottle": (209, 20, 63),
        "mvtec_screw": (320, 41, 119),
    }.items():
        reading = read_root(str(real_data / name))
        _, records = reading.layout, reading.records
        train = sum(record.split == "train" for record in records)
        anomalous = sum(record.anomalous for record in records)
        assert (train, len(records) - train - anomalous, anomalous) == counts, name
        if name != "mvtec_screw":
            assert sum(record.mask is not None for record in records) == anomalous
