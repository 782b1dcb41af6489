"""Which layout a root has, and the records below it.

To add a layout write one file beside this one with `SKETCH`, `recognise`, `read` and `masks`, and
name it in `READERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from anomaly_ft.data.layouts import folders, kolektor, manifest, mtd, mvtec, plain, visa
from anomaly_ft.data.layouts.elpv import DEMO, elpv_folder, read_elpv
from anomaly_ft.data.layouts.files import folders_in, image_names
from anomaly_ft.data.pixels import SUFFIXES
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError, did_you_mean


class Reader(NamedTuple):
    """One layout. `recognise` says what speaks for it or nothing, `masks` finds all mask files."""

    sketch: str
    recognise: Callable[[Path], str]
    read: Callable[[Path], list[Record]]
    masks: Callable[[Path], list[Path]]


def _reader(module: ModuleType) -> Reader:
    return Reader(module.SKETCH, module.recognise, module.read, module.masks)


READERS: dict[str, Reader] = {
    "mvtec": _reader(mvtec),
    "visa": _reader(visa),
    "mtd": _reader(mtd),
    "kolektor": _reader(kolektor),
    "folders": _reader(folders),
    "plain": _reader(plain),
    "manifest": _reader(manifest),
}
SHOWN = 8


@dataclass(frozen=True)
class Reading:
    """What was found below a root: the layout, why it was taken for that, and the images."""

    layout: str
    why: str
    root: Path
    records: tuple[Record, ...]


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
    if not demo and not folder.exists():
        raise DataError(f"data.root: folder does not exist: {root}")
    if manifest_path:
        path = Path(manifest_path).expanduser()
        records = manifest.read_manifest(path, folder, group_column=_column(path, group_by))
        return _checked(Reading("manifest", f"the split is that of {manifest_path}", folder, tuple(records)))
    if demo:
        return Reading("elpv", "it is the demo source", elpv_folder(), tuple(read_elpv(root)))
    name, why = detect(folder) if layout == "auto" else (layout, "data.layout says so")
    if name not in READERS:
        raise DataError(f"data.layout: no layout {name!r}{did_you_mean(name, READERS)}; {known_layouts()}")
    if folder.is_file() and name == "manifest":
        records = manifest.read_manifest(folder, folder.parent, group_column=_column(folder, group_by))
        return _checked(Reading(name, why, folder.parent, tuple(records)))
    return _checked(Reading(name, why, folder, tuple(READERS[name].read(folder))))


def detect(folder: Path) -> tuple[str, str]:
    """The layout's name and what speaks for it.

    Raises:
        DataError: none or several fit.
    """
    found = {n: why for n, r in READERS.items() if n != "plain" and (why := r.recognise(folder))}
    if not found and not sets_below(folder) and (why := plain.recognise(folder)):
        found = {"plain": why}
    if len(found) == 1:
        return next(iter(found.items()))
    if found:
        said = "; ".join(f"{name}: {why}" for name, why in found.items())
        several = f"{folder} could be several layouts ({said}); say which with data.layout"
        raise DataError(f"data.root: {several}\n{known_layouts()}")
    raise DataError(f"data.root: {_unknown(folder)}\n{known_layouts()}")


def sets_below(folder: Path) -> list[str]:
    """Sub-folders which are each a data set of their own."""
    each = [r for n, r in READERS.items() if n in ("mvtec", "visa", "mtd", "folders")]
    return [p.name for p in folders_in(folder) if any(reader.recognise(p) for reader in each)]


def known_layouts() -> str:
    """The layouts there are, for people, one a line."""
    lines = [f"  {name:<9} {reader.sketch}" for name, reader in READERS.items()]
    return "\n".join(["known layouts (data.layout):", *lines])


def _unknown(folder: Path) -> str:
    """What is there instead of a known layout, and what to do."""
    sets = sets_below(folder)
    if sets:
        return (
            f"{folder} holds {len(sets)} data sets, a run works on one: {_some(sets)}; "
            f"set data.root to one of them, such as {folder / sets[0]}"
        )
    names = list(image_names(folder))
    inside = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir())
    seen = f"saw {_some(inside) or 'nothing'}"
    if not names:
        return f"no images below {folder} (endings {', '.join(sorted(SUFFIXES))}); {seen}"
    speaks = ", ".join(plain.suspicious(names))
    return (
        f"{folder} with {len(names)} images is not laid out in a known way; {seen}; {speaks} speaks against "
        "good images only: call the folder of normal images good, or set data.layout to plain if all are good"
    )


def _checked(reading: Reading) -> Reading:
    """The same reading, when it holds normal images to train with."""
    if not any(record.split != "test" for record in reading.records):
        raise DataError(
            f"data.root: no normal images to train with in {reading.root}, read as layout {reading.layout} "
            f"({READERS[reading.layout].sketch}); endings known are {', '.join(sorted(SUFFIXES))}"
        )
    return reading


def _column(path: Path, group_by: str) -> str:
    return group_by if group_by and manifest.is_column(path, group_by) else ""


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
