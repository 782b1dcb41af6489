"""One object of VisA (Zou et al., ECCV 2022), with the published one-class split where it is there."""

import csv
from pathlib import Path

from anomaly_ft.data.layouts.matching import match_masks
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record
from anomaly_ft.errors import DataError

SKETCH = "Data/Images/Normal and Data/Images/Anomaly, with ../split_csv/1cls.csv or split_csv/1cls.csv if there"
LIST = Path("split_csv", "1cls.csv")


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    if (tree.root / LIST).is_file():
        return f"there is {LIST.as_posix()}"
    if tree.has("Data/Images/Normal"):
        listed = (tree.root.resolve().parent / LIST).is_file()
        return "there is Data/Images/Normal" + (f", split as ../{LIST.as_posix()} says" if listed else "")
    return ""


def read(tree: Tree) -> list[Record]:
    """Read the images the split lists for this object; without a list, normals are undecided.

    Raises:
        DataError: a list of several objects, or one that names files or columns that are not there.
    """
    root = tree.root
    if (root / LIST).is_file():
        return _read_list(root / LIST, root)
    listed = root.resolve().parent / LIST
    if listed.is_file():
        return _read_list(listed, root, root.resolve().name)
    records = [Record(root, name, "undecided") for name in tree.below("Data/Images/Normal")]
    anomalous = tree.below("Data/Images/Anomaly")
    masks = match_masks(anomalous, tree.masks)
    return records + [Record(root, name, "test", ANOMALOUS, masks.get(name, "")) for name in anomalous]


def _read_list(path: Path, root: Path, wanted: str = "") -> list[Record]:
    """Read rows `object,split,label,image,mask`; with a `wanted` object paths begin above `root`, at its
    folder."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"object", "split", "label", "image", "mask"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(f"{path}: columns missing: {', '.join(sorted(missing))}; got {reader.fieldnames}")
        rows = list(reader)
    objects = sorted({row["object"] for row in rows})
    if wanted:
        rows = [row for row in rows if row["object"] == wanted]
    elif len(objects) > 1:
        raise DataError(
            f"data.root: {root} holds {len(objects)} objects, a run works on one; set data.root to one of "
            + ", ".join(str(root / name) for name in objects)
        )
    return [_record(row, path, root, f"{wanted}/" if wanted else "") for row in rows]


def _record(row: dict[str, str], source: Path, root: Path, prefix: str) -> Record:
    if row["split"] not in ("train", "test") or row["label"] not in ("normal", "anomaly"):
        raise DataError(f"{source}: expected split train|test and label normal|anomaly, got {row}")
    if row["split"] == "train" and row["label"] == "anomaly":
        raise DataError(f"{source}: an anomalous image cannot be a training image: {row['image']}")
    name, mask_name = (row[key].removeprefix(prefix) for key in ("image", "mask"))
    for below in filter(None, (name, mask_name)):
        if not (root / below).is_file():
            raise DataError(f"{source}: lists a file that is not there: {root / below}")
    return Record(
        root,
        name,
        "train" if row["split"] == "train" else "test",
        NORMAL if row["label"] == "normal" else ANOMALOUS,
        mask_name,
    )
