"""Every row of the tables of docs/layouts.md about folders, on trees made here."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.layouts.detect import Reading, read_root
from anomaly_ft.data.layouts.tree import images_below
from anomaly_ft.data.masks import read_mask
from anomaly_ft.errors import DataError

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"
Build = Callable[[Path], None]


def photo(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([seed, *os.fsencode(path.name)]).integers(0, 256, (12, 16, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, *, empty: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((12, 16), np.uint8)
    values[3:6, 3:6] = 0 if empty else 255
    Image.fromarray(values).save(path)


def photos(*names: str) -> Build:
    return lambda root: [photo(root / name) for name in names] and None


def numbered(pattern: str, count: int = 3) -> list[str]:
    return [pattern.format(i) for i in range(count)]


def masks(*names: str, empty: bool = False) -> Build:
    return lambda root: [mask(root / name, empty=empty) for name in names] and None


def text(name: str, content: Any) -> Build:
    def write(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content if isinstance(content, str) else json.dumps(content))

    return write


def found(reading: Reading) -> dict[str, int]:
    """How many images serve what, masks counted apart."""
    counts = Counter(f"{record.split} {record.kind}" for record in reading.records)
    with_mask = sum(bool(record.mask) for record in reading.records)
    return dict(counts) | ({"masks": with_mask} if with_mask else {})


MVTEC = [photos(*numbered("train/good/{}.png"), "test/good/0.png", "test/crack/0.png")]
SHAPES = {"shapes": [{"label": "scratch", "points": [[1, 1], [5, 1], [5, 5]], "shape_type": "polygon"}]}
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(4)],
    "annotations": [{"image_id": 3, "category_id": 7}],
    "categories": [{"id": 7, "name": "dent"}],
}
DRAWN = {"image_id": 3, "category_id": 7, "segmentation": [[1, 1, 5, 1, 5, 5]]}
OUTLINED = COCO | {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 16, "height": 12} for i in range(4)],
    "annotations": [DRAWN, DRAWN | {"image_id": 2}, {"image_id": 2, "category_id": 7, "bbox": [0, 0, 2, 2]}],
}
VOC = "<annotation><object><name>dent</name></object></annotation>"
FOUR = photos(*numbered("images/{}.jpg", 4))

# of each row: what makes the folder, the layout, what serves what, and what is said of the rest
LAYOUTS: dict[str, tuple[list[Build], str, dict[str, int], list[str]]] = {
    "MVTec AD": (
        [*MVTEC, masks("ground_truth/crack/0_mask.png")],
        "mvtec",
        {"train good": 3, "test good": 1, "test crack": 1, "masks": 1},
        [],
    ),
    "BTAD": (
        [photos("train/ok/0.bmp", "test/ok/0.bmp", "test/ko/0.bmp"), masks("ground_truth/ko/0.png")],
        "mvtec",
        {"train good": 1, "test good": 1, "test ko": 1, "masks": 1},
        [],
    ),
    "MVTec AD 2": (
        [
            photos(
                "train/good/0.png", "validation/good/0.png", "test_public/good/0.png", "test_public/bad/0.png"
            ),
            masks("test_public/ground_truth/bad/0_mask.png"),
            photos("test_private/0.png", "test_private_mixed/0.png"),
        ],
        "mvtec",
        {"train good": 2, "test good": 1, "test bad": 1, "masks": 1},
        ["1 good images of validation/ are used for training", "2 image files not used (their labels"],
    ),
    "MVTec LOCO AD, AutoVI": (
        [*MVTEC, masks("ground_truth/crack/0/000.png", "ground_truth/crack/0/001.png")],
        "mvtec",
        {"train good": 3, "test good": 1, "test crack": 1, "masks": 1},
        [],
    ),
    "BMAD": (
        [
            photos("train/good/0.png", "valid/good/img/0.png", "valid/Ungood/img/0.png"),
            photos("test/good/img/0.png", "test/Ungood/img/0.png"),
            masks("valid/Ungood/label/0.png", "test/Ungood/label/0.png"),
            masks("valid/good/label/0.png", "test/good/label/0.png", empty=True),
        ],
        "mvtec",
        {"train good": 2, "test good": 1, "test Ungood": 2, "masks": 2},
        ["1 good images of valid/", "1 defective images of valid/", "2 image files not used (masks of normal"],
    ),
    "MVTec 3D-AD": (
        [
            photos("train/good/rgb/0.png", "test/good/rgb/0.png", "test/crack/rgb/0.png"),
            photos("train/good/xyz/0.tiff", "test/crack/xyz/0.tiff"),
            masks("test/crack/gt/0.png"),
            masks("test/good/gt/0.png", empty=True),
        ],
        "mvtec",
        {"train good": 1, "test good": 1, "test crack": 1, "masks": 1},
        ["1 image files not used (masks of normal", "2 image files not used (depth images beside"],
    ),
    "Lookout for Vision": (
        [photos("train/normal/0.jpg", "train/anomaly/0.jpg", "test/normal/0.jpg", "test/anomaly/0.jpg")],
        "mvtec",
        {"train good": 1, "test good": 1, "test anomaly": 2},
        ["1 defective images of train/ serve as test images"],
    ),
    "Keras (`train`, `val`, `test`)": (
        [photos(*(f"{split}/{kind}/0.jpg" for split in ("train", "val", "test") for kind in ("ok", "dent")))],
        "mvtec",
        {"train good": 2, "test good": 1, "test dent": 3},
        ["1 defective images of train/", "1 good images of val/", "1 defective images of val/"],
    ),
    "casting (`ok_front`, `def_front`)": (
        [photos("train/ok_front/cast_ok_0_1.jpeg", "train/def_front/cast_def_0_1.jpeg")],
        "mvtec",
        {"train good": 1, "test def_front": 1},
        ["1 defective images of train/"],
    ),
    "masks called `.PNG` or `.jpg`": (
        [
            *MVTEC,
            photos("test/crack/1.png"),
            masks("ground_truth/crack/0_mask.PNG", "ground_truth/crack/1.jpg"),
        ],
        "mvtec",
        {"train good": 3, "test good": 1, "test crack": 2, "masks": 2},
        [],
    ),
    "VisA": (
        [
            photos("Data/Images/Normal/0.JPG", "Data/Images/Anomaly/0.JPG"),
            masks("Data/Masks/Anomaly/0.png"),
        ],
        "visa",
        {"undecided good": 1, "test anomalous": 1, "masks": 1},
        [],
    ),
    "Magnetic Tile Defects": (
        [
            photos("MT_Free/Imgs/0.jpg", "MT_Free/Imgs/1.JPG", "MT_Free/Imgs/2.bmp", "MT_Crack/Imgs/0.JPG"),
            masks("MT_Crack/Imgs/0.PNG", *numbered("MT_Free/Imgs/{}.png")),
        ],
        "mtd",
        {"undecided good": 3, "test crack": 1, "masks": 1},
        ["3 image files not used (masks of normal"],
    ),
    "KolektorSDD, KolektorSDD2": (
        [
            photos("train/0.png", "train/10301.png", "train/10301 (copy).png", "test/1.png"),
            masks("train/10301_GT.png", "train/10301_GT (copy).png", "test/1_GT.png"),
            masks("train/0_GT.png", empty=True),
        ],
        "kolektor",
        {"train good": 1, "test anomalous": 1, "masks": 1},
        [
            "2 image files not used (defective",
            "2 image files not used (masks of defective",
            "1 image files not used (masks of normal",
        ],
    ),
    "DAGM 2007": (
        [
            photos("Train/0001.PNG", "Train/0002.PNG", "Test/0001.PNG", "Test/0002.PNG"),
            masks("Train/Label/0002_label.PNG", "Test/Label/0002_label.PNG"),
        ],
        "dagm",
        {"train good": 1, "test good": 1, "test anomalous": 1, "masks": 1},
        ["1 image files not used (defective", "1 image files not used (masks of defective"],
    ),
    "good beside other folders": (
        [photos("good/0.png", "scratch/0.png", "scratch/1.png"), masks("ground_truth/scratch/0_mask.png")],
        "folders",
        {"undecided good": 1, "test scratch": 2, "masks": 1},
        [],
    ),
    "Real-IAD": (
        [
            photos("OK/S0001/a_C1.jpg", "NG/BX/S0001/b_C1.jpg", "NG/PS/S0001/c_C1.jpg"),
            masks("NG/BX/S0001/b_C1.png"),
        ],
        "folders",
        {"undecided good": 1, "test BX": 1, "test PS": 1, "masks": 1},
        [],
    ),
    "flat folder of masks": (
        [photos("OK/0.png", "NG/ng1.png", "NG/ng2.png"), masks("MASK/ng1.png", "MASK/ng3.png")],
        "folders",
        {"undecided good": 1, "test NG": 2, "masks": 1},
        ["1 image files not used (masks that belong to no image): MASK/ng3.png"],
    ),
    "COCO": ([FOUR, text("result.json", COCO)], "annotated", {"undecided good": 3, "test dent": 1}, []),
    "COCO with outlines": (
        [FOUR, text("result.json", OUTLINED)],
        "annotated",
        {"undecided good": 2, "test dent": 2, "masks": 1},
        [],
    ),
    "LabelMe": (
        [photos("0.jpg", "1.jpg"), text("1.json", SHAPES | {"imageWidth": 16, "imageHeight": 12})],
        "annotated",
        {"undecided good": 1, "test scratch": 1, "masks": 1},
        [],
    ),
    "Pascal VOC": (
        [FOUR, text("Annotations/3.xml", VOC)],
        "annotated",
        {"undecided good": 3, "test dent": 1},
        [],
    ),
    "YOLO": (
        [
            photos("train/images/0.jpg", "train/images/1.jpg", "test/images/0.jpg"),
            text("train/labels/0.txt", ""),
            text("train/labels/1.txt", "0 0.5 0.5 0.1 0.1\n"),
        ],
        "annotated",
        {"train good": 1, "test good": 1, "test anomalous": 1},
        [],
    ),
    "Label Studio's own JSON": (
        [photos("0.jpg"), text("export.json", [{"data": {"image": "0.jpg"}, "annotations": []}])],
        "refused",
        {},
        ["export them as COCO"],
    ),
    "labels in file names": (
        [photos(*numbered("cast_ok_0_{}.jpeg"), *numbered("cast_def_0_{}.jpeg", 2))],
        "names",
        {"undecided good": 3, "test anomalous": 2},
        [],
    ),
    "some files named for defects": (
        [photos("a.png", "b.png", "NG_1.png", "NG_2.png")],
        "refused",
        {},
        ["2 files named like NG_1.png speaks against good images only"],
    ),
    "good images only": ([photos("0.png", "line 1/1.png")], "plain", {"train good": 2}, []),
    "several sets in one folder": (
        [photos("bottle/train/good/0.png", "screw/train/good/0.png")],
        "refused",
        {},
        ["holds 2 data sets, a run works on one: bottle, screw"],
    ),
    "manifest": (
        [photos("a/0.png", "a/1.png"), text("manifest.csv", "image_path,label_index,split\na/0.png,0,train\n")],
        "manifest",
        {"train good": 1},
        ["1 image files not used (not listed in the manifest): a/1.png"],
    ),
}


def rows(heading: str) -> list[list[str]]:
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_page_has_a_row_for_each_test() -> None:
    assert {row[0]: row[1].strip("`") for row in rows("Layouts")} == {k: v[1] for k, v in LAYOUTS.items()}
    assert [row[0] for row in rows("In any layout")] == list(ANYWHERE)


@pytest.mark.parametrize("row", LAYOUTS)
def test_a_layout_is_read_as_the_page_says(row: str, tmp_path: Path) -> None:
    build, layout, expected, says = LAYOUTS[row]
    for step in build:
        step(tmp_path)
    if layout == "refused":
        with pytest.raises(DataError, match=re.escape(says[0])):
            read_root(str(tmp_path))
        return
    reading = read_root(str(tmp_path))
    said = [*reading.notes, *map(str, reading.unused)]
    assert (reading.layout, found(reading)) == (layout, expected)
    assert len(said) == len(says), said
    assert all(any(line.startswith(start) for line in said) for start in says), said
    for record in reading.records:
        if record.mask:
            assert read_mask(record.mask).any()


def test_every_image_file_is_used_or_named(tmp_path: Path) -> None:
    for build, layout, _, _ in LAYOUTS.values():
        if layout != "refused":
            root = tmp_path / layout
            for step in build:
                step(root)
    for root in tmp_path.iterdir():
        reading = read_root(str(root), layout=root.name)
        accounted = {record.name for record in reading.records} | {n for u in reading.unused for n in u.names}
        accounted |= {record.mask_name for record in reading.records}
        files = {
            path.relative_to(root)
            for path in root.rglob("*.*")
            if path.suffix not in (".json", ".txt", ".csv", ".xml")
        }
        files = {path for path in files if path.suffix}
        assert all(p.as_posix() in accounted or p.parent.as_posix() in accounted for p in files), root.name


def junk(*names: str) -> Build:
    return lambda root: (
        [(root / name).parent.mkdir(parents=True, exist_ok=True) or photo(root / name) for name in names]
        and None
    )


def link(name: str, target: Path) -> Build:
    def make(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(target)

    return make


ANYWHERE: dict[str, tuple[list[Build], dict[str, int], list[str]]] = {
    "hidden files and folders (`._0.jpg`, `.ipynb_checkpoints`)": (
        [*MVTEC, junk("train/good/._0.jpg", "train/good/.ipynb_checkpoints/0.jpg")],
        {"train good": 3, "test good": 1, "test crack": 1},
        ["2 image files not used (hidden"],
    ),
    "folders of systems (`@eaDir`, `__MACOSX`)": (
        [*MVTEC, junk("train/good/@eaDir/0.jpg/thumb.jpg", "__MACOSX/0.png")],
        {"train good": 3, "test good": 1, "test crack": 1},
        ["2 image files not used (put there by a system"],
    ),
    "link to a folder": (
        [*MVTEC, link("train/good/up", Path("../..")), link("train/good/more", Path("../../../elsewhere"))],
        {"train good": 5, "test good": 1, "test crack": 1},
        [],
    ),
    "link to nothing": (
        [*MVTEC, link("train/good/9.png", Path("nowhere.png"))],
        {"train good": 3, "test good": 1, "test crack": 1},
        ["1 image files not used (links that lead nowhere"],
    ),
    "masks of normal images": (
        [*MVTEC, masks("ground_truth/good/0_mask.png", empty=True)],
        {"train good": 3, "test good": 1, "test crack": 1},
        ["1 image files not used (masks of normal images"],
    ),
    "masks that belong to no image": (
        [*MVTEC, masks("ground_truth/crack/7_mask.png")],
        {"train good": 3, "test good": 1, "test crack": 1},
        ["1 image files not used (masks that belong to no image)"],
    ),
    "images outside of the layout": (
        [*MVTEC, photos("preview.png", "extra/0.png", "train/0.png")],
        {"train good": 3, "test good": 1, "test crack": 1},
        ["3 image files not used (outside of layout mvtec"],
    ),
    "image files without an ending": (
        [*MVTEC, lambda root: (root / "train/good/0.png").rename(root / "train/good/0") and None],
        {"train good": 2, "test good": 1, "test crack": 1},
        ["1 image files not used (no ending in the name"],
    ),
    "a name that is not UTF-8": (
        [*MVTEC, lambda root: Path(os.fsdecode(os.fsencode(root / "train/good") + b"/pr\xfcf")).mkdir()],
        {},
        ["is not UTF-8; rename it"],
    ),
}


@pytest.mark.parametrize("row", ANYWHERE)
def test_what_may_lie_in_any_folder_is_treated_as_the_page_says(row: str, tmp_path: Path) -> None:
    build, expected, says = ANYWHERE[row]
    root = tmp_path / "root"
    photos("elsewhere/7.png", "elsewhere/deep/8.png")(tmp_path)
    for step in build:
        step(root)
    if not expected:
        with pytest.raises(DataError, match=says[0]):
            read_root(str(root))
        return
    reading = read_root(str(root))
    assert found(reading) == expected
    assert [line.startswith(start) for line, start in zip(map(str, reading.unused), says, strict=True)] == [
        True
    ] * len(says)
    used = {record.path for record in reading.records}
    others = [path for path in images_below(root / "train/good") if path not in used]
    assert all(any(path.name in str(line) for line in reading.unused) for path in others), "named by train"


def test_a_root_that_is_not_utf8_is_refused_with_what_to_do(tmp_path: Path) -> None:
    root = os.fsdecode(os.fsencode(tmp_path) + b"/pr\xfcf")
    Path(root).mkdir()
    with pytest.raises(DataError, match=r"b'.*pr\\xfcf' is not UTF-8, so no recipe can hold it; rename it"):
        read_root(root)


def test_a_file_named_for_a_defect_among_good_ones_is_said(tmp_path: Path) -> None:
    photos("a.png", "b.png", "bad.png")(tmp_path)
    assert read_root(str(tmp_path)).notes == ("1 files to train with are named like bad.png: are they good?",)


def test_a_picture_saved_as_both_jpeg_and_png_is_no_mask(tmp_path: Path) -> None:
    photos(*numbered("{}.jpg"), *numbered("{}.png"))(tmp_path)
    assert found(read_root(str(tmp_path))) == {"train good": 6}


def test_links_that_lead_to_one_another_do_not_send_it_round_in_circles(tmp_path: Path) -> None:
    photos("root/0.png", "a/1.png", "b/2.png")(tmp_path)
    link("root/a", tmp_path / "a")(tmp_path)
    link("a/b", tmp_path / "b")(tmp_path)
    link("b/a", tmp_path / "a")(tmp_path)
    names = [record.name for record in read_records(str(tmp_path / "root")).records]
    assert names == ["0.png", "a/1.png", "a/b/2.png"]


def test_views_of_one_part_are_said_with_the_group_that_keeps_them_together(tmp_path: Path) -> None:
    for i in range(8):
        photos(*(f"OK/S{i}/a_{i}_OK_C{c}_2023.jpg" for c in range(1, 6)))(tmp_path)
    photos(*(f"NG/BX/S1/a_1_NG_C{c}_2023.jpg" for c in range(1, 6)))(tmp_path)
    (note,) = read_root(str(tmp_path)).notes
    assert note.startswith("45 images are views of 9 parts: keep them together with data.group_by: ")
    reading = read_records(str(tmp_path), group_by=note.rpartition("'")[0].rpartition("'")[2])
    assert len({record.group for record in reading.records}) == 9
    sides = {(record.group, record.split) for record in reading.records}
    assert len(sides) == 9
