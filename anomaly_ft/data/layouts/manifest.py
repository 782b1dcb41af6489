"""A table that lists the images: CSV or Parquet, `image_path, label_index, split, mask_path`.

Paths are relative to the folder of the manifest, or to a root given beside it; nothing outside of it
can be named. `split` is train, val, calibration, test or empty. Where no row is val or calibration, the
train rows are divided three ways, and normal images without a split are placed in train or test. As soon
as one row is val or calibration, the manifest divides: train rows are train, nothing is drawn, and every
normal image needs a split. A run folder's `split.csv` is such a manifest. Further columns may hold the
type of defect (`kind`) and what belongs together (any column, `data.group_by`).
"""

import contextlib
import os
import unicodedata
from collections.abc import Iterator, Set
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from anomaly_ft.data.layouts.tables import LONG, read_table, short
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.masks import file_and_image
from anomaly_ft.data.records import ANOMALOUS, NORMAL, PARTS, Part, Record
from anomaly_ft.errors import DataError, did_you_mean

SKETCH = "manifest.csv or manifest.parquet with the columns image_path, label_index, split, mask_path"
NAMES = ("manifest.csv", "manifest.parquet")
SPLITS = (*PARTS, "test", "")
HELD_BACK: tuple[Part, ...] = ("val", "calibration")  # where a row is one of these, the manifest divides
LABELS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
SHOWN = 8  # mistakes in one message


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    if tree.root.is_file():
        return f"{tree.root.name} is a file"
    present = [name for name in NAMES if (tree.root / name).is_file()]
    if not present:
        return ""
    return f"there is {' and '.join(present)}"


def read(tree: Tree) -> list[Record]:
    """Read the images that a manifest, or the manifest in a folder, lists."""
    if tree.root.is_file():
        return read_manifest(tree.root, tree.root.parent)
    tables = [tree.root / name for name in NAMES if (tree.root / name).is_file()]
    if len(tables) != 1:
        raise DataError(f"data.root: expected one of {' and '.join(NAMES)} in {tree.root}, found {len(tables)}")
    return read_manifest(tables[0], tree.root)


def read_manifest(path: Path, base: Path, *, group_column: str = "") -> list[Record]:
    """Read the images that the table lists, paths relative to `base`.

    Args:
        path: a .csv or .parquet file.
        base: the folder below which all images are.
        group_column: a column whose value becomes the records' group.

    Raises:
        DataError: a table that cannot be read, or everything that is wrong with its rows.
    """
    table = read_table(path)
    outside = _links_out(table, base) if path.resolve().is_relative_to(base.resolve()) else frozenset()
    mistakes = [f"column {name} is missing" for name in ("image_path", "label_index") if name not in table]
    if group_column and group_column not in table:
        mistakes.append(
            f"column {group_column} is missing{did_you_mean(group_column, map(str, table.columns))}"
        )
    if mistakes:
        raise DataError(f"{path}: {'; '.join(mistakes)}; got {short(', '.join(map(str, table.columns)))}")
    records, seen, names = [], set(), Names(base)
    for number, given in enumerate(table.to_dict("records"), start=2):  # line 1 is the heading
        row = _tidy(given, names)
        wrong = list(_mistakes(row, base, outside))
        name = row["image_path"]
        if name in seen:
            wrong.append(f"image_path {short(repr(name))} stands twice")
        seen.add(name)
        mistakes += [f"row {number}: {what}" for what in wrong]
        if not wrong:
            records.append(_record(row, base, group_column))
    # train alone is what published sets list: it says which images are not test, not how they are divided
    if not any(record.part in HELD_BACK for record in records):
        records = [replace(record, part=None) for record in records]
    elif undecided := [record.name for record in records if record.split == "undecided"]:
        mistakes.append(
            f"split: {len(undecided)} normal images have none, such as {short(undecided[0])}; "
            "beside rows that are val or calibration every normal image needs a split"
        )
    if mistakes:
        more = f"\n  and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        head = f"{path}: {len(mistakes)} mistakes (paths are relative to {base})"
        raise DataError("\n  ".join([head, *mistakes[:SHOWN]]) + more)
    return records


def _links_out(table: pd.DataFrame, base: Path) -> frozenset[str]:
    """Find paths of a manifest that came with its images and that lead out of their folder over a link."""
    root = os.path.realpath(base) + os.sep
    named = {path for key in ("image_path", "mask_path") if key in table for path in table[key]}
    outside = set()
    for path in map(_clean, named):
        with contextlib.suppress(OSError, ValueError):
            if path and not os.path.realpath(base / path).startswith(root):
                outside.add(path)
    return frozenset(outside)


def _exists(path: Path, *, folder_too: bool) -> bool:
    """Tell whether there is such a file; a mask in several files may be a folder, or lie in a COCO
    file."""
    try:
        return path.is_file() or (folder_too and (path.is_dir() or file_and_image(path)[0].is_file()))
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _clean(path: str) -> str:
    """Normalise a path written on any system: forward slashes, no needless dots."""
    if not path:
        return ""
    return PurePosixPath(path.replace("\\", "/")).as_posix()


class Names:
    """How names are spelled on the disk: macOS writes `ü` as two characters, tables hold it as one."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folders: dict[str, dict[str, str]] = {}  # of each folder its names by their composed form

    def on_disk(self, path: str) -> str:
        """Spell the path as the disk does; unchanged where that is the same, or nothing is there."""
        if path.isascii() or _exists(self.base / path, folder_too=True):
            return path
        spelled_path = ""
        for part in PurePosixPath(path).parts:
            if spelled_path not in self.folders:
                with contextlib.suppress(OSError, ValueError):
                    inside = [entry.name for entry in (self.base / spelled_path).iterdir()]
                    self.folders[spelled_path] = {unicodedata.normalize("NFC", name): name for name in inside}
            spelled = self.folders.get(spelled_path, {}).get(unicodedata.normalize("NFC", part))
            if spelled is None:
                return path
            spelled_path = f"{spelled_path}/{spelled}".lstrip("/")
        return spelled_path


def _tidy(row: dict[Any, Any], names: Names) -> dict[Any, Any]:
    """Normalise a row: paths as on the disk, label and split in small letters, as spreadsheets may not write
    them."""
    paths = {key: _on_disk(row[key], names) for key in ("image_path", "mask_path") if key in row}
    return row | paths | {key: row[key].strip().lower() for key in ("label_index", "split") if key in row}


def _on_disk(path: str, names: Names) -> str:
    clean = _clean(path)
    below = not PurePosixPath(clean).is_absolute() and ".." not in PurePosixPath(clean).parts
    return names.on_disk(clean) if below else clean


def _mistakes(row: dict[Any, Any], base: Path, outside: Set[str]) -> Iterator[str]:
    for key in ("image_path", "mask_path"):
        path = row.get(key, "")
        if not path:
            if key == "image_path":
                yield "image_path is empty"
        elif PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
            yield f"{key} is absolute: {short(path)}; expected a path below the manifest's folder"
        elif ".." in PurePosixPath(path).parts:
            yield f"{key} leads out of the manifest's folder: {short(path)}"
        elif path in outside:
            yield f"{key} leads out of the manifest's folder over a link: {short(path)}"
        elif not _exists(base / path, folder_too=key == "mask_path"):
            yield f"{key}: no such file: {short(path)}"
    label, split = row["label_index"], row.get("split", "")
    if label not in LABELS:
        yield f"label_index: expected 0 (normal) or 1 (anomalous), got {short(repr(label))}"
    if split not in SPLITS:
        hint = did_you_mean(split[:LONG], SPLITS)
        yield f"split: expected {', '.join(SPLITS[:-1])} or nothing, got {short(repr(split))}{hint}"
    elif LABELS.get(label) and split not in ("test", ""):
        yield f"an anomalous image cannot be in split {split!r}: only normal images are trained with"


def _record(row: dict[Any, Any], base: Path, group_column: str) -> Record:
    name, mask = row["image_path"], row.get("mask_path", "")
    anomalous, split = LABELS[row["label_index"]], row.get("split", "")
    kind = row.get("kind", "")
    named = kind if kind and kind != NORMAL else ANOMALOUS
    return Record(
        base,
        name,
        "test" if split == "test" or anomalous else "train" if split else "undecided",
        named if anomalous else NORMAL,
        mask,
        next((part for part in PARTS if part == split), None),
        row[group_column] if group_column else "",
    )
