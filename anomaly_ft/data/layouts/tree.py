"""List all image files below a folder once, so that readers need not go to the disk.

A link to a folder is followed unless it leads back into what is listed anyway. Nothing is left out
silently: what is passed over is kept with the reason.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anomaly_ft.data.pixels import FOREIGN, SUFFIXES
from anomaly_ft.errors import DataError

HIDDEN = "hidden: a name begins with a dot"
JUNK = "put there by a system: @eaDir, __MACOSX, $RECYCLE.BIN and the like"
JUNK_FOLDERS = frozenset(
    {"@eadir", "__macosx", "$recycle.bin", "#recycle", "@__thumb", "system volume information"}
)
NOTHING_THERE = "links that lead nowhere, or no files"
NO_ENDING = f"no ending in the name, which would say what they are; expected {', '.join(sorted(SUFFIXES))}"
MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM", b"GIF8")
NOTES = frozenset({".json", ".txt", ".xml"})  # which may hold labels


@dataclass
class Tree:
    """Names below a root with forward slashes, in the order of sorted paths."""

    root: Path
    names: list[str] = field(default_factory=list)  # of image files
    passed: dict[str, list[str]] = field(default_factory=dict)  # image files passed over, by the reason
    notes: list[str] = field(default_factory=list)  # other files, which may hold labels
    folders: dict[str, list[str]] = field(default_factory=dict)  # names of the folders in each folder
    spans: dict[str, tuple[int, int]] = field(default_factory=dict)  # where in `names` each folder's stand
    mixed: set[str] = field(default_factory=set)  # folders with images of several endings in them
    images: list[str] = field(default_factory=list)  # the names once more, told apart by `sort_out`
    masks: list[str] = field(default_factory=list)
    depths: list[str] = field(default_factory=list)  # beside photographs
    memo: dict[str, Any] = field(default_factory=dict, repr=False)  # what was found out about it already

    def below(self, folder: str) -> list[str]:
        """List all image files below a folder; none where there is no such folder."""
        start, end = self.spans.get(folder, (0, 0))
        return self.names[start:end]

    def inside(self, folder: str = "") -> list[str]:
        """List the folders in a folder, sorted."""
        return self.folders.get(folder, [])

    def has(self, folder: str) -> bool:
        """Tell whether there is such a folder."""
        return folder in self.folders

    def sub(self, folder: str) -> "Tree":
        """View a folder below the root as a tree."""
        start, cut = self.spans[folder][0], len(folder) + 1
        inner = {key: key[cut:] for key in self.folders if key == folder or key.startswith(f"{folder}/")}
        return Tree(
            self.root / folder,
            [name[cut:] for name in self.below(folder)],
            {},
            [name[cut:] for name in self.notes if name.startswith(f"{folder}/")],
            {new: self.folders[key] for key, new in inner.items()},
            {new: (self.spans[key][0] - start, self.spans[key][1] - start) for key, new in inner.items()},
            {new for key, new in inner.items() if key in self.mixed},
        )


def list_tree(root: Path) -> Tree:
    """List what is below a folder; a tree without names where there is no such folder.

    Raises:
        DataError: a folder that cannot be listed, or a name that is not UTF-8.
    """
    tree = Tree(root)
    if root.is_dir():
        _Walk(tree, os.path.realpath(root)).folder("", (), "")
    return tree


def images_below(folder: Path) -> list[Path]:
    """List all files below a folder that are images or may be, sorted; also those of a kind that cannot be
    read here, since `predict` has to name them. Hidden and system files are passed over.

    Raises:
        DataError: a folder that cannot be listed, or a name that is not UTF-8.
    """
    tree = list_tree(folder)
    odd = [name for why, names in tree.passed.items() if why not in (HIDDEN, JUNK) for name in names]
    return sorted(folder / name for name in (*tree.names, *odd))


@dataclass
class _Walk:
    tree: Tree
    real: str  # path of the root, links resolved

    def folder(self, name: str, through: tuple[str, ...], passing: str) -> None:
        """List a folder; `through` holds the targets of links on the way, `passing` why all in it is passed."""
        tree, start = self.tree, len(self.tree.names)
        folders, endings = [], {""}
        for entry in _entries(tree.root / name if name else tree.root):
            below = f"{name}/{entry.name}" if name else entry.name
            if entry.is_dir():
                why = passing or _no_folder(entry.name)
                targets = self._targets(entry, through)
                if targets is None:
                    continue  # what it leads to is listed anyway
                _refuse_foreign_text(below, tree.root)
                if not why:
                    folders.append(entry.name)
                self.folder(below, targets, why)
            else:
                endings.add(self._file(entry, below, passing))
        if not passing:
            tree.folders[name], tree.spans[name] = folders, (start, len(tree.names))
            tree.mixed |= {name} if len(endings) > 2 else set()

    def _file(self, entry: "os.DirEntry[str]", below: str, passing: str) -> str:
        """Enter a file; returns the ending of an image, else an empty string."""
        stem, dot, tail = entry.name.rpartition(".")
        ending = f".{tail.lower()}" if stem and dot else ""
        if ending in SUFFIXES or ending in FOREIGN:
            _refuse_foreign_text(below, self.tree.root)
            why = passing or (HIDDEN if entry.name.startswith(".") else "") or FOREIGN.get(ending, "")
            why = why or ("" if entry.is_file() else NOTHING_THERE)
            if why:
                self.tree.passed.setdefault(why, []).append(below)
            else:
                self.tree.names.append(below)
                return ending
        elif ending in NOTES and not passing:
            self.tree.notes.append(below)
        elif not ending and not passing and not entry.name.startswith(".") and _is_image_inside(entry):
            self.tree.passed.setdefault(NO_ENDING, []).append(below)
        return ""

    def _targets(self, entry: "os.DirEntry[str]", through: tuple[str, ...]) -> tuple[str, ...] | None:
        """Add a link's target to those of the links up to here; empty where it leads back into what is
        listed."""
        if not entry.is_symlink():
            return through
        target = os.path.realpath(entry.path)
        if any(_within(target, other) or _within(other, target) for other in (self.real, *through)):
            return None
        return (*through, target)


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            yield from sorted(entries, key=lambda entry: entry.name)
    except OSError as cause:
        raise DataError(f"{folder}: the folder cannot be listed: {cause.strerror or cause}") from cause


def _no_folder(name: str) -> str:
    if name.startswith("."):
        return HIDDEN
    if name.lower() in JUNK_FOLDERS:
        return JUNK
    return ""


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _is_image_inside(entry: "os.DirEntry[str]") -> bool:
    try:
        with open(entry.path, "rb") as file:  # noqa: PTH123 - a Path for each of many files
            return file.read(4).startswith(MAGIC)
    except OSError:
        return False


def _refuse_foreign_text(below: str, root: Path) -> None:
    if below.isascii():
        return
    try:
        below.encode()
    except UnicodeEncodeError:
        raise DataError(f"{root}: the file name {os.fsencode(below)!r} is not UTF-8; rename it") from None
