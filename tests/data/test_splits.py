"""Splits: seeded, stratified by folder, groups kept together, nothing leaks from train to test."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from anomaly_ft.data.dataset import Options, load_dataset, read_records
from anomaly_ft.data.records import PARTS, Record
from anomaly_ft.data.splits import Shares, group, hold_out, split_normals
from anomaly_ft.errors import DataError

FEW = {"image_size": 8, "shares": Shares(val=0.2, calibration=0.2)}


def normals(*names: str, group_of=lambda _: "") -> list[Record]:
    return [Record(Path(), name, "train", group=group_of(name)) for name in names]


def parts(records, seed=0):
    split = split_normals(records, Shares(val=0.2, calibration=0.2, seed=seed))
    return {part: [records[i] for i in getattr(split, part)] for part in PARTS}


def test_all_images_serve_exactly_one_purpose():
    found = parts(normals(*[f"{i}.png" for i in range(100)]))
    assert {part: len(records) for part, records in found.items()} == {
        "train": 60,
        "val": 20,
        "calibration": 20,
    }
    assert len({r.name for records in found.values() for r in records}) == 100


def test_the_seed_decides_the_split():
    records = normals(*[f"{i}.png" for i in range(100)])
    assert parts(records, seed=1) == parts(records, seed=1)
    assert parts(records, seed=1) != parts(records, seed=2)


@pytest.mark.parametrize("seed", range(5))
def test_every_folder_of_normals_is_in_every_share(seed):
    names = [f"{kind}/{i}.png" for kind, count in (("a", 10), ("b", 50), ("c", 140)) for i in range(count)]
    for part, share in (("val", 0.2), ("calibration", 0.2), ("train", 0.6)):
        of_kind = Counter(r.name[0] for r in parts(normals(*names), seed=seed)[part])
        for kind, count in (("a", 10), ("b", 50), ("c", 140)):
            assert abs(of_kind[kind] - share * count) <= 2, (part, kind)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_split(seed):
    names = [f"part{i // 4}_{i % 4}.png" for i in range(120)]
    found = parts(normals(*names, group_of=lambda name: name.split("_")[0]), seed=seed)
    groups = {part: {r.group for r in records} for part, records in found.items()}
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["calibration"]
    assert not groups["val"] & groups["calibration"]
    assert all(abs(len(found[part]) - 24) <= 2 for part in ("val", "calibration"))


def test_too_few_groups_for_the_shares_are_an_error():
    names = [f"part{i // 50}_{i}.png" for i in range(100)]
    with pytest.raises(DataError, match="100 normal training images in 2 groups are too few"):
        parts(normals(*names, group_of=lambda name: name.split("_")[0]))


def test_too_few_images_are_an_error():
    with pytest.raises(DataError, match="5 normal training images are too few"):
        parts(normals(*"abcde"))


def test_groups_are_read_from_names():
    found = group(normals("a/part7_1.png", "b/part7_2.png"), r"(part\d+)_")
    assert [record.group for record in found] == ["part7", "part7"]


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("part(", "is not a regular expression"),
        (r"part\d", "no column of the manifest and has no group in parentheses"),
        (r"shot(\d)", r"does not match 1 of 1 names, such as part1\.png"),
    ],
)
def test_a_useless_group_expression_is_refused(pattern, match):
    with pytest.raises(DataError, match=match):
        group(normals("part1.png"), pattern)


def test_normal_shots_of_a_tested_part_are_tested_too():
    undecided = [Record(Path(), n, "undecided", group=n[0]) for n in ("a1", "a2", "b1", "c1", "d1", "e1", "f1")]
    records = [*undecided, Record(Path(), "x", "test", "crack", group="a")]
    placed = hold_out(records)
    assert {r.name for r in placed if r.group == "a" and r.split == "test"} == {"a1", "a2", "x"}
    assert sum(r.split == "train" for r in placed) == 5


def test_without_defects_there_is_no_test():
    placed = hold_out([Record(Path(), n, "undecided") for n in "abcde"])
    assert {r.split for r in placed} == {"train"}


def test_good_images_only_make_a_dataset_without_a_test(tmp_path, paint):
    for i in range(20):
        paint(f"{i}.png")
    data = load_dataset(str(tmp_path), **FEW)
    assert (len(data.undivided), len(data.test), data.layout) == (20, 0, "plain")


def copied(tmp_path, paint):
    for i in range(20):
        paint(f"train/good/{i}.png")
    paint("test/crack/0.png")
    shutil.copy(tmp_path / "train/good/3.png", tmp_path / "test/crack/copy.png")
    return str(tmp_path)


def test_a_copied_train_image_in_test_is_refused_by_name(tmp_path, paint):
    root = copied(tmp_path, paint)
    with pytest.raises(DataError, match=r"train/good/3\.png \(train\) = test/crack/copy\.png \(test\)"):
        load_dataset(root, **FEW)
    assert len(load_dataset(root, **FEW, options=Options(allow_leak=True)).test) == 2


def test_a_copied_real_train_image_in_test_is_refused(tmp_path, real_data):
    bottle = real_data / "mvtec_bottle"
    for i, path in enumerate(sorted((bottle / "train/good").iterdir())[:10]):
        target = tmp_path / "train/good" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if i == 4:
            (tmp_path / "test/good").mkdir(parents=True)
            shutil.copyfile(path, tmp_path / "test/good/another_name.jpg")
    with pytest.raises(DataError, match=r"another_name\.jpg \(test\)"):
        load_dataset(str(tmp_path), **FEW)


def test_a_group_on_both_sides_of_a_given_split_is_refused(tmp_path, paint):
    for name in ("train/good/p1_a.png", "train/good/p2_a.png", "test/crack/p1_b.png"):
        paint(name)
    with pytest.raises(DataError, match=r"1 groups stand in train and in test .*: p1;"):
        read_records(str(tmp_path), group_by=r"(p\d)_")
    assert len(read_records(str(tmp_path), group_by=r"(p\d)_", allow_leak=True).records) == 3
