"""Manifests: what they may say, what is refused, and that a run's own split comes back as it was."""

import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anomaly_ft.data.dataset import Options, load_dataset, read_records
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.records import PARTS
from anomaly_ft.data.splits import Shares
from anomaly_ft.errors import DataError

SHARES = Shares(val=0.2, calibration=0.2)

HEAD = "image_path,label_index,split,mask_path"


def write(path: Path, *rows: str, head: str = HEAD) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


def test_a_manifest_lists_images_labels_splits_and_masks(tmp_path, paint):
    for name in ("a.png", "b c.png", "d/e.png", "m.png"):
        paint(name)
    path = write(tmp_path / "list.csv", "a.png,0,train,", "b c.png,0,test,", r"d\e.png,1,test,./m.png")
    records = read_root(str(path)).records
    assert [(r.name, r.split, r.kind, r.mask_name) for r in records] == [
        ("a.png", "train", "good", ""),
        ("b c.png", "test", "good", ""),
        ("d/e.png", "test", "anomalous", "m.png"),
    ]


def test_parquet_says_the_same_as_csv(tmp_path, paint):
    for name in ("a.png", "b.png"):
        paint(name)
    path = write(tmp_path / "list.csv", "a.png,0,train,", "b.png,1,test,")
    pd.DataFrame(
        {"image_path": ["a.png", "b.png"], "label_index": [0, 1], "split": ["train", "test"], "mask_path": None}
    ).to_parquet(tmp_path / "list.parquet")
    assert read_root(str(tmp_path / "list.parquet")).records == read_root(str(path)).records


def test_images_without_a_split_are_placed(tmp_path, paint):
    names = [paint(f"{i}.png").name for i in range(11)]
    rows = [f"{name},{int(i == 10)}" for i, name in enumerate(names)]
    write(tmp_path / "manifest.csv", *rows, head="image_path,label_index")
    records = read_records(str(tmp_path)).records
    assert [sum(r.split == s for r in records) for s in ("train", "test")] == [8, 3]
    assert records[-1].split == "test"


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("/etc/passwd,0,train,", "row 2: image_path is absolute"),
        (r"C:\a.png,0,train,", "image_path is absolute"),
        ("../a.png,0,train,", "leads out of the manifest's folder"),
        ("a.png,1,test,x/../../m.png", "mask_path leads out"),
        ("b.png,0,train,", "no such file: b.png"),
        ("a.png,1,test,n.png", "mask_path: no such file"),
        (",0,train,", "image_path is empty"),
        ("a.png,2,train,", r"label_index: expected 0 .normal. or 1 .anomalous., got '2'"),
        (
            "a.png,0,trian,",
            "split: expected train, val, calibration, test or nothing, got 'trian' .did you mean 'train'",
        ),
        ("a.png,1,train,", "an anomalous image cannot be in split 'train'"),
        ("a.png,1,val,", "an anomalous image cannot be in split 'val'"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, paint, row, match):
    paint("a.png")
    with pytest.raises(DataError, match=match):
        read_root(str(write(tmp_path / "list.csv", row)))


def test_all_wrong_rows_come_at_once(tmp_path, paint):
    paint("a.png")
    rows = ["a.png,0,train,", "a.png,0,train,", *[f"{i}.png,0,train," for i in range(20)]]
    with pytest.raises(DataError, match=r"21 mistakes(.|\n)*row 3: .*stands twice(.|\n)*and 13 more"):
        read_root(str(write(tmp_path / "list.csv", *rows)))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(DataError, match="column label_index is missing; got image_path"):
        read_root(str(write(tmp_path / "list.csv", "a.png", head="image_path")))


@pytest.mark.parametrize("name", ["list.parquet", "list.csv"])
def test_what_is_no_table_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\xff\xfe" * 40)
    with pytest.raises(DataError, match=r"cannot be read as a CSV or Parquet table|the text is not UTF-8"):
        read_root(str(tmp_path / name))


def listed(folder, paint, **counts):
    """A manifest with so many normal images in each split; `none` are without one."""
    splits = [split for split, count in counts.items() for _ in range(count)]
    rows = [f"{paint(f'{i}.png').name},0,{split.replace('none', '')}," for i, split in enumerate(splits)]
    return str(write(folder / "list.csv", *rows))


def test_train_rows_are_divided_where_nothing_is_val_or_calibration(tmp_path, paint):
    root = listed(tmp_path, paint, train=20, test=3)
    data = load_dataset(root, image_size=8, shares=SHARES)
    assert [len(data.normals(part)) for part in PARTS] == [12, 4, 4]
    assert len(data.test) == 3


def test_train_rows_beside_val_and_calibration_are_train(tmp_path, paint):
    root = listed(tmp_path, paint, calibration=3, train=5, val=2, test=1)
    data = load_dataset(root, image_size=8, shares=SHARES)
    names = {part: [record.name for record in data.normals(part).records] for part in PARTS}
    assert names == {
        "train": ["3.png", "4.png", "5.png", "6.png", "7.png"],
        "val": ["8.png", "9.png"],
        "calibration": ["0.png", "1.png", "2.png"],
    }


def test_a_normal_image_without_a_split_beside_val_is_refused(tmp_path, paint):
    root = listed(tmp_path, paint, train=2, val=2, calibration=2, none=1)
    with pytest.raises(DataError, match=r"1 normal images have none, such as 6\.png; .* needs a split"):
        read_root(root)


def test_a_split_fed_back_repeats_exactly(tmp_path, paint):
    for i in range(30):
        paint(f"set/good/{i}.png")
    for i in range(3):
        paint(f"set/scratch/{i}.png")
    root, sizes = str(tmp_path / "set"), {"image_size": 8}
    first = load_dataset(root, shares=replace(SHARES, seed=5), **sizes)
    pd.DataFrame(first.manifest()).to_csv(tmp_path / "split.csv", index=False)
    again = load_dataset(
        root, shares=replace(SHARES, seed=6), **sizes, options=Options(manifest=str(tmp_path / "split.csv"))
    )
    assert again.manifest() == first.manifest()
    for part in PARTS:
        assert np.array_equal(again.normals(part).pixels[:], first.normals(part).pixels[:])
    assert [r.kind for r in again.test.records] == [r.kind for r in first.test.records]


def test_a_manifest_that_divides_without_calibration_is_refused(tmp_path, paint):
    root = listed(tmp_path, paint, train=4, val=2)
    with pytest.raises(DataError, match="the manifest gives 4 train, 2 val, 0 calibration; each needs"):
        load_dataset(root, image_size=8, shares=SHARES)


def test_a_column_groups_images(tmp_path, paint):
    rows = [f"{paint(f'{i}.png').name},0,part{i // 5}" for i in range(20)]
    path = write(tmp_path / "list.csv", *rows, head="image_path,label_index,part")
    records = read_records(str(path), group_by="part").records
    assert [r.group for r in records] == [f"part{i // 5}" for i in range(20)]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize(("good", "bad"), [("0", "1"), ("FALSE", "TRUE"), ("False", "True")])
def test_tables_of_spreadsheets_are_read(tmp_path, paint, separator, encoding, good, bad):
    for name in ("a.png", "b.png"):
        paint(name)
    lines = [["Image_Path", "label_index", "Split"], ["a.png", good, "Train"], ["b.png", bad, "TEST"]]
    text = "\r\n".join(separator.join(line) for line in lines) + "\r\n"
    (tmp_path / "manifest.csv").write_bytes(text.encode(encoding))
    records = read_root(str(tmp_path)).records
    assert [(record.name, record.split, record.anomalous) for record in records] == [
        ("a.png", "train", False),
        ("b.png", "test", True),
    ]


@pytest.mark.parametrize(("stored", "written"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_umlauts_of_two_characters_are_those_of_one(tmp_path, paint, stored, written):
    name = "Prüfung/prüf ä.png"
    paint(unicodedata.normalize(stored, name))
    write(tmp_path / "manifest.csv", f"{unicodedata.normalize(written, name)},0,train,")
    (record,) = read_root(str(tmp_path)).records
    assert record.path.is_file()
    assert unicodedata.normalize("NFC", record.name) == name


def test_a_name_with_umlauts_that_is_not_there_is_named(tmp_path, paint):
    paint("prüf.png")
    with pytest.raises(DataError, match=r"no such file: prüfung\.png"):
        read_root(str(write(tmp_path / "list.csv", "prüfung.png,0,train,")))


def test_a_text_that_is_not_utf8_says_so(tmp_path, paint):
    (tmp_path / "manifest.csv").write_bytes(f"{HEAD}\nprüf.png,0,train,\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"the text is not UTF-8 .*; save it as CSV in UTF-8"):
        read_root(str(tmp_path))


def test_masks_that_count_together_may_be_a_folder(tmp_path, paint):
    for name in ("a.png", "b.png", "masks/b/0.png", "masks/b/1.png"):
        paint(name)
    write(tmp_path / "manifest.csv", "a.png,0,train,", "b.png,1,test,masks/b")
    assert read_root(str(tmp_path)).records[1].mask == tmp_path / "masks/b"
    with pytest.raises(DataError, match="image_path: no such file: masks"):
        read_root(str(write(tmp_path / "list.csv", "masks,0,train,")))
