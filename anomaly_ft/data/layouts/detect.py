"""Detect the layout of a root, and read the records below it.

To add a layout write one file beside this one with `SKETCH`, `recognise` and `read`, and name it in
`READERS`. Image files that the chosen reader does not use are named with the reason, see `unused`.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from anomaly_ft.data.layouts import annotated, dagm, folders, kolektor, manifest, mtd, mvtec, names, plain, visa
from anomaly_ft.data.layouts.elpv import DEMO, elpv_folder, read_elpv
from anomaly_ft.data.layouts.roles import sort_out
from anomaly_ft.data.layouts.tables import is_column
from anomaly_ft.data.layouts.tree import Tree, list_tree
from anomaly_ft.data.layouts.unused import Unused, find_unused, notes_on, notes_on_views, tree_of_listed
from anomaly_ft.data.pixels import SUFFIXES
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError, did_you_mean


class Reader(NamedTuple):
    """One layout. `recognise` says why it fits, or nothing."""

    sketch: str
    recognise: Callable[[Tree], str]
    read: Callable[[Tree], list[Record]]


def _reader(module: ModuleType) -> Reader:
    return Reader(module.SKETCH, module.recognise, module.read)


READERS: dict[str, Reader] = {
    "mvtec": _reader(mvtec),
    "visa": _reader(visa),
    "mtd": _reader(mtd),
    "kolektor": _reader(kolektor),
    "dagm": _reader(dagm),
    "folders": _reader(folders),
    "annotated": _reader(annotated),
    "names": _reader(names),
    "plain": _reader(plain),
    "manifest": _reader(manifest),
}
FALLBACKS = ("annotated", "names", "plain")  # in turn, where nothing else fits
SHOWN = 8


@dataclass(frozen=True)
class Reading:
    """What was found below a root: the layout, why it was taken for that, the images, and what is not used."""

    layout: str
    why: str
    root: Path
    records: tuple[Record, ...]
    unused: tuple[Unused, ...] = ()
    notes: tuple[str, ...] = ()  # on what is used otherwise than its folder's name says


def read_root(root: str, *, layout: str = "auto", manifest_path: str = "", group_by: str = "") -> Reading:
    """Find out the layout of a root and read it.

    Args:
        root: a folder, a manifest, or a demo source such as `demo:elpv-mono`.
        layout: `auto`, or the name of one of `READERS`.
        manifest_path: a table that says which images below `root` to use and how they are split.
        group_by: where this is a column of a manifest, it becomes the records' group.

    Raises:
        DataError: nothing there, a layout that is not known or ambiguous, or no normal images.
    """
    demo = root.startswith(DEMO)
    folder = elpv_folder() if demo and manifest_path else Path(root).expanduser()
    if not demo:
        _refuse_name(root)
    if not demo and not folder.exists():
        raise DataError(f"data.root: folder does not exist: {root}")
    if manifest_path:
        path = Path(manifest_path).expanduser()
        return _listed(path, folder, f"the split is that of {manifest_path}", group_by)
    if demo:
        return Reading("elpv", "it is the demo source", elpv_folder(), tuple(read_elpv(root)))
    if layout not in ("auto", *READERS):
        raise DataError(f"data.layout: no layout {layout!r}{did_you_mean(layout, READERS)}; {known_layouts()}")
    tree = sort_out(list_tree(folder))
    name, why = detect(tree) if layout == "auto" else (layout, "data.layout says so")
    if folder.is_file() and name == "manifest":
        return _listed(folder, folder.parent, why, group_by)
    all_records = READERS[name].read(tree)
    records = tuple(record for record in all_records if not (record.split == "train" and record.anomalous))
    sketch = f"outside of layout {name} ({READERS[name].sketch})"
    unused = find_unused(tree, all_records, "not listed in the manifest" if name == "manifest" else sketch)
    return _checked(Reading(name, why, folder, records, unused, _notes(name, records)))


def _notes(layout: str, records: Sequence[Record]) -> tuple[str, ...]:
    """List what is to be known of images that are used."""
    if layout != "plain":
        return (*(notes_on(records) if layout == "mvtec" else ()), *notes_on_views(records))
    odd = plain.named_for_defects(record.name for record in records)
    if not odd:
        return ()
    return (f"{len(odd)} files to train with are named like {odd[0]}: are they good?",)


def detect(tree: Tree) -> tuple[str, str]:
    """Detect the layout; returns its name and why it fits.

    Raises:
        DataError: none or several fit.
    """
    fitting = {n: why for n, r in READERS.items() if n not in FALLBACKS and (why := r.recognise(tree))}
    if not fitting and not sets_below(tree):
        fitting = dict([(n, why) for n in FALLBACKS if (why := READERS[n].recognise(tree))][:1])
    if len(fitting) == 1:
        return next(iter(fitting.items()))
    folder = tree.root
    if fitting:
        reasons = "; ".join(f"{name}: {why}" for name, why in fitting.items())
        several = f"{folder} could be several layouts ({reasons}); say which with data.layout"
        raise DataError(f"data.root: {several}\n{known_layouts()}")
    raise DataError(f"data.root: {_unknown(tree)}\n{known_layouts()}")


def sets_below(tree: Tree) -> list[str]:
    """Find sub-folders which are each a data set of their own."""
    each = [r for n, r in READERS.items() if n in ("mvtec", "visa", "mtd", "dagm", "folders")]
    return [name for name in tree.inside() if any(reader.recognise(tree.sub(name)) for reader in each)]


def known_layouts() -> str:
    """List the layouts for people, one a line."""
    lines = [f"  {name:<9} {reader.sketch}" for name, reader in READERS.items()]
    return "\n".join(["known layouts (data.layout):", *lines])


def _unknown(tree: Tree) -> str:
    """Say what is there instead of a known layout, and what to do."""
    folder, sets = tree.root, sets_below(tree)
    if sets:
        return (
            f"{folder} holds {len(sets)} data sets, a run works on one: {_some(sets)}; "
            f"set data.root to one of them, such as {folder / sets[0]}"
        )
    inside = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    seen = f"saw {_some(inside) or 'nothing'}"
    if not tree.names:
        passed = "".join(f"; {unused}" for unused in find_unused(tree, [], ""))
        return f"no images below {folder} (endings {', '.join(sorted(SUFFIXES))}); {seen}{passed}"
    speaks = ", ".join(plain.suspicious(tree))
    return (
        f"{folder} with {len(tree.names)} images is not laid out in a known way; {seen}; {speaks} speaks "
        "against good images only: call the folder of normal images good, or set data.layout to plain if all "
        "are good"
    )


def _listed(path: Path, base: Path, why: str, group_by: str) -> Reading:
    """Read what a manifest lists, and which images beside those it does not."""
    records = tuple(manifest.read_manifest(path, base, group_column=_column(path, group_by)))
    unused = find_unused(sort_out(tree_of_listed(base, records)), records, "not listed in the manifest")
    return _checked(Reading("manifest", why, base, records, unused))


def _refuse_name(root: str) -> None:
    try:
        root.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"data.root: the name {os.fsencode(root)!r} is not UTF-8, so no recipe can hold it; rename it"
        ) from None


def _checked(reading: Reading) -> Reading:
    """Refuse a reading without normal images to train with."""
    if not any(record.split != "test" for record in reading.records):
        raise DataError(
            f"data.root: no normal images to train with in {reading.root}, read as layout {reading.layout} "
            f"({READERS[reading.layout].sketch}; {reading.why}); "
            f"endings known are {', '.join(sorted(SUFFIXES))}"
        )
    return reading


def _column(path: Path, group_by: str) -> str:
    if group_by and is_column(path, group_by):
        return group_by
    return ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
