"""What all readers need: image files below a folder, their names, and words for folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from anomaly_ft.data.images import SUFFIXES
from anomaly_ft.errors import DataError

ENDINGS = tuple(sorted(SUFFIXES))
NORMAL_WORDS = frozenset({"good", "ok", "normal"})
MASK_FOLDERS = frozenset({"ground_truth", "groundtruth", "mask", "masks"})


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, sorted; hidden files and folders are passed over."""
    return [Path(path) for path in _walk(str(folder))] if folder.is_dir() else []


def _walk(folder: str) -> Iterator[str]:
    """In the order of sorted paths, without holding or comparing them all."""
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):  # a link could lead back up
            yield from _walk(entry.path)
        elif is_image(entry.name) and entry.is_file():
            if not _is_text(entry.name):
                raise DataError(f"{folder}: the file name {os.fsencode(entry.name)!r} is not UTF-8; rename it")
            yield entry.path


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_image(name: str) -> bool:
    """Whether a file's name says that it is an image.

    >>> is_image("a.JPG"), is_image("._a.jpg"), is_image("a.txt")
    (True, False, False)
    """
    return not name.startswith(".") and name.lower().endswith(ENDINGS)


def has_images(folder: Path) -> bool:
    """Whether there is an image anywhere below; stops at the first."""
    return any(is_image(name) for _, _, files in os.walk(folder) for name in files)


def name_below(path: Path | None, root: Path) -> str:
    """The path from the root with forward slashes; empty for no path."""
    return path.relative_to(root).as_posix() if path else ""


def folders_in(folder: Path) -> list[Path]:
    """The sub-folders, sorted, without hidden ones; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def normal_folder(folder: Path) -> Path | None:
    """The sub-folder called `good`, `ok` or `normal`, in any case of letters."""
    return next((p for p in folders_in(folder) if p.name.lower() in NORMAL_WORDS), None)


def first_file(candidates: Iterable[Path]) -> Path | None:
    """The first of the paths that is a file."""
    return next((path for path in candidates if path.is_file()), None)


def mask_beside(truth: Path, stem: str) -> Path | None:
    """The mask of an image in a folder of masks: `<stem>_mask.*`, or just `<stem>.*`."""
    endings = (".png", ".bmp", ".tif", ".tiff")
    return first_file(truth / f"{stem}{tail}{ending}" for tail in ("_mask", "") for ending in endings)
