"""Decide what each image file is: a photograph, a mask, or depth beside photographs.

Names alone decide, but for a PNG beside a JPEG of the same name: a few of those are looked at.
"""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from anomaly_ft.data.layouts.files import (
    DEPTH_FOLDERS,
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    MASK_FOLDERS,
    stem_of,
    without_tail,
)
from anomaly_ft.data.layouts.tree import Tree

PHOTOGRAPHS = re.compile(r"\.(jpe?g|jfif|bmp|tiff?)$", re.IGNORECASE)
LOOKED_AT = 3  # pairs of a photograph and a PNG of the same name
FEW_COLOURS = 16


def sort_out(tree: Tree) -> Tree:
    """Tell photographs, masks and depth images of a tree apart; returns the tree."""
    masks: set[str] | None = None
    last, whole, mixed = "", None, False
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        if folder != last or whole is None:
            last, whole, mixed = folder, _role(folder, tree), folder in tree.mixed
        stem = file.rpartition(".")[0]
        if whole is not tree.images:
            whole.append(name)
        elif stem[-1:].isdigit() and not mixed:  # most names, and soon said
            tree.images.append(name)
        else:
            masks = _beside(tree) if masks is None else masks
            (tree.masks if name in masks else tree.images).append(name)
    return tree


def _role(folder: str, tree: Tree) -> list[str]:
    """Decide what all files of a folder are, unless a name says otherwise."""
    masks, depths = (_holds(folder, tree, masks=masks) for masks in (True, False))
    if masks:
        return tree.masks
    if depths:
        return tree.depths
    return tree.images


def _beside(tree: Tree) -> set[str]:
    """Find masks in the folders of their images, known by their names."""
    stems = [stem_of(name).lower() for name in tree.names]
    times = Counter(stems)
    paired = _pairs(tree, [(n, stem) for n, stem in zip(tree.names, stems, strict=True) if times[stem] == 2])
    for name, path in zip(tree.names, stems, strict=True):
        folder, _, stem = path.rpartition("/")
        image = without_tail(stem)
        if image == stem:
            continue
        if f"{folder}/{image}".lstrip("/") in times or folder.rpartition("/")[2] in LABEL_FOLDERS:
            paired.add(name)
    return paired


def _holds(folder: str, tree: Tree, *, masks: bool) -> bool:
    """Tell whether a folder, or one on the way to it, is for masks; or for depth images."""
    parts = folder.split("/") if folder else []
    for i, part in enumerate(parts):
        word = part.lower()
        if masks and word in MASK_FOLDERS:
            return True
        beside, wanted = (LABEL_FOLDERS, IMAGE_FOLDERS) if masks else (DEPTH_FOLDERS, {"rgb"})
        if word in beside and any(name.lower() in wanted for name in tree.inside("/".join(parts[:i]))):
            return True
    return False


def _pairs(tree: Tree, twice: list[tuple[str, str]]) -> set[str]:
    """Find PNGs that are the mask of a photograph beside them: names that are there twice but for the
    ending."""
    photographs = {stem for name, stem in twice if PHOTOGRAPHS.search(name)}
    masks = [name for name, stem in twice if name.lower().endswith(".png") and stem in photographs]
    if not all(_looks_like_mask(tree.root / n) for n in _spread(masks, LOOKED_AT)):
        return set()
    return set(masks)


def _spread(names: list[str], count: int) -> Iterable[str]:
    step = max(1, len(names) // count)
    return names[::step][:count]


def _looks_like_mask(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.getcolors(FEW_COLOURS) is not None
    except Exception:  # decoders raise nearly anything on damaged files
        return True
