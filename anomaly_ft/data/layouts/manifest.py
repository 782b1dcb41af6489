"""A table that lists the images: CSV or Parquet, `image_path, label_index, split, mask_path`.

Paths are relative to the folder of the manifest, or to a root given beside it; nothing outside of it
can be named. `split` is train, test or empty (a normal image that will be placed), or says what a
training image serves: fit, watch, calibrate. A run folder's `split.csv` is such a manifest. Further
columns may hold the type of defect (`kind`) and what belongs together (any column, `data.group_by`).
"""

import contextlib
import os
from collections.abc import Iterator, Set
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd
from pyarrow.parquet import ParquetFile

from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import ANOMALOUS, NORMAL, PARTS, Record
from anomaly_ft.errors import DataError, did_you_mean

SKETCH = "manifest.csv or manifest.parquet with the columns image_path, label_index, split, mask_path"
NAMES = ("manifest.csv", "manifest.parquet")
SPLITS = ("train", "test", *PARTS, "")
LABELS = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}
SHOWN, LONG = 8, 200  # mistakes in one message, and characters of a value in it
MAX_ROWS = 2_000_000
MAX_BYTES = 2**30


def recognise(tree: Tree) -> str:
    """What speaks for this layout; empty: nothing does."""
    if tree.root.is_file():
        return f"{tree.root.name} is a file"
    found = [name for name in NAMES if (tree.root / name).is_file()]
    return f"there is {' and '.join(found)}" if found else ""


def read(tree: Tree) -> list[Record]:
    """The images that a manifest, or the manifest in a folder, lists."""
    if tree.root.is_file():
        return read_manifest(tree.root, tree.root.parent)
    found = [tree.root / name for name in NAMES if (tree.root / name).is_file()]
    if len(found) != 1:
        raise DataError(f"data.root: expected one of {' and '.join(NAMES)} in {tree.root}, found {len(found)}")
    return read_manifest(found[0], tree.root)


def read_manifest(path: Path, base: Path, *, group_column: str = "") -> list[Record]:
    """The images that the table lists, paths relative to `base`.

    Args:
        path: a .csv or .parquet file.
        base: the folder below which all images are.
        group_column: a column whose value becomes the records' group.

    Raises:
        DataError: a table that cannot be read, or everything that is wrong with its rows.
    """
    table = _read_table(path)
    outside = _links_out(table, base) if path.resolve().is_relative_to(base.resolve()) else frozenset()
    mistakes = [f"column {name} is missing" for name in ("image_path", "label_index") if name not in table]
    if group_column and group_column not in table:
        mistakes.append(
            f"column {group_column} is missing{did_you_mean(group_column, map(str, table.columns))}"
        )
    if mistakes:
        raise DataError(f"{path}: {'; '.join(mistakes)}; got {_short(', '.join(map(str, table.columns)))}")
    records, seen = [], set()
    for number, row in enumerate(table.to_dict("records"), start=2):  # line 1 is the heading
        wrong = list(_mistakes(row, base, outside))
        name = _clean(row["image_path"])
        if name in seen:
            wrong.append(f"image_path {_short(repr(name))} stands twice")
        seen.add(name)
        mistakes += [f"row {number}: {what}" for what in wrong]
        if not wrong:
            records.append(_record(row, base, group_column))
    parts = {record.part for record in records if record.split == "train"}
    if None in parts and len(parts) > 1:
        mistakes.append("split: train stands beside fit, watch or calibrate; use one or the other")
    if mistakes:
        more = f"\n  and {len(mistakes) - SHOWN} more" if len(mistakes) > SHOWN else ""
        head = f"{path}: {len(mistakes)} mistakes (paths are relative to {base})"
        raise DataError("\n  ".join([head, *mistakes[:SHOWN]]) + more)
    return records


def is_column(path: Path, name: str) -> bool:
    """Whether the table has a column of this name."""
    return name in _read_table(path)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = _table_of(path)
    except DataError:
        raise
    except Exception as cause:  # pandas and pyarrow raise nearly anything on damaged files
        said = _short(f"{type(cause).__name__}: {cause}")
        raise DataError(f"{path}: cannot be read as a CSV or Parquet table: {said}") from cause
    if len(table) > MAX_ROWS:
        raise DataError(f"{path}: more than {MAX_ROWS:,} rows, the most that a manifest may have")
    return table


def _table_of(path: Path) -> pd.DataFrame:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise DataError(f"{path}: {size:,} bytes, a manifest may have {MAX_BYTES:,}")
    if path.suffix.lower() != ".parquet":
        return pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True, nrows=MAX_ROWS + 1)
    with ParquetFile(path) as file:  # a small file can stand for more rows than fit into memory
        rows = file.metadata.num_rows
    if rows > MAX_ROWS:
        raise DataError(f"{path}: {rows:,} rows, a manifest may have {MAX_ROWS:,}")
    table = pd.read_parquet(path)
    return table.astype(object).where(table.notna(), "").astype(str)


def _links_out(table: pd.DataFrame, base: Path) -> frozenset[str]:
    """Paths of a manifest that came with its images and that lead out of their folder over a link."""
    root = os.path.realpath(base) + os.sep
    named = {path for key in ("image_path", "mask_path") if key in table for path in table[key]}
    found = set()
    for path in map(_clean, named):
        with contextlib.suppress(OSError, ValueError):
            if path and not os.path.realpath(base / path).startswith(root):
                found.add(path)
    return frozenset(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _short(text: str) -> str:
    return text if len(text) <= LONG else f"{text[:LONG]}... ({len(text):,} characters)"


def _clean(path: str) -> str:
    """The path as written on any system, with forward slashes, without needless dots."""
    return "" if not path else PurePosixPath(path.replace("\\", "/")).as_posix()


def _mistakes(row: dict[Any, Any], base: Path, outside: Set[str]) -> Iterator[str]:
    for key in ("image_path", "mask_path"):
        path = _clean(row.get(key, ""))
        if not path:
            if key == "image_path":
                yield "image_path is empty"
        elif PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive:
            yield f"{key} is absolute: {_short(path)}; expected a path below the manifest's folder"
        elif ".." in PurePosixPath(path).parts:
            yield f"{key} leads out of the manifest's folder: {_short(path)}"
        elif path in outside:
            yield f"{key} leads out of the manifest's folder over a link: {_short(path)}"
        elif not _is_file(base / path):
            yield f"{key}: no such file: {_short(path)}"
    label, split = row["label_index"], row.get("split", "")
    if label not in LABELS:
        yield f"label_index: expected 0 (normal) or 1 (anomalous), got {_short(repr(label))}"
    if split not in SPLITS:
        hint = did_you_mean(split[:LONG], SPLITS)
        yield f"split: expected {', '.join(SPLITS[:-1])} or nothing, got {_short(repr(split))}{hint}"
    elif LABELS.get(label) and split not in ("test", ""):
        yield f"an anomalous image cannot be in split {split!r}: only normal images are trained with"


def _record(row: dict[Any, Any], base: Path, group_column: str) -> Record:
    name, mask = _clean(row["image_path"]), _clean(row.get("mask_path", ""))
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
