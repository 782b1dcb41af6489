"""What all readers need: image files below a folder, their names, and words for folders."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from anomaly_ft.data.pixels import SUFFIXES
from anomaly_ft.errors import DataError

ENDINGS = tuple(sorted(SUFFIXES))
NORMAL_WORDS = frozenset({"good", "ok", "normal"})
MASK_FOLDERS = frozenset({"ground_truth", "groundtruth", "mask", "masks"})


def image_names(root: Path, below: Path | None = None) -> Iterator[str]:
    """All image files below a folder of the root (unset: the root) as the root sees them, in the order of
    sorted paths; hidden files and folders are passed over."""
    folder = below or root
    inner = name_below(folder, root)
    if folder.is_dir():
        yield from _walk(folder, "" if inner == "." else f"{inner}/")


def images_below(folder: Path) -> list[Path]:
    """The paths of all image files below a folder, sorted; hidden files and folders are passed over."""
    return [folder / name for name in image_names(folder)]


def _walk(folder: Path, prefix: str) -> Iterator[str]:
    """Names with forward slashes, without holding or comparing them all."""
    with os.scandir(folder) as entries:
        found = sorted((entry.name, _is_folder(entry)) for entry in entries if _wanted(entry))
    for name, is_folder in found:
        if is_folder:
            yield from _walk(folder / name, f"{prefix}{name}/")
        elif _is_text(name):
            yield prefix + name
        else:
            raise DataError(f"{folder}: the file name {os.fsencode(name)!r} is not UTF-8; rename it")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False)  # a link could lead back up


def _wanted(entry: os.DirEntry[str]) -> bool:
    hidden = entry.name.startswith(".")
    return not hidden and (_is_folder(entry) or (is_image(entry.name) and entry.is_file()))


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
