"""What each image file is: a photograph, a mask, or depth beside photographs; and which mask is whose.

Names alone decide, but for a PNG beside a JPEG of the same name: a few of those are looked at.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from anomaly_ft.data.layouts.files import (
    DEPTH_FOLDERS,
    IMAGE_FOLDERS,
    LABEL_FOLDERS,
    MASK_FOLDERS,
    TEST,
    TRAIN,
    VALIDATION,
    stem_of,
    without_tail,
)
from anomaly_ft.data.layouts.tree import Tree

SPLITS = TRAIN | VALIDATION | TEST
PHOTOGRAPHS = re.compile(r"\.(jpe?g|jfif|bmp|tiff?)$", re.IGNORECASE)
NO_KIND = MASK_FOLDERS | LABEL_FOLDERS | IMAGE_FOLDERS  # folders that say nothing about what is in an image
LOOKED_AT = 3  # pairs of a photograph and a PNG of the same name
FEW_COLOURS = 16


@dataclass(frozen=True)
class Roles:
    """All names of a tree, each in one place."""

    images: list[str]
    masks: list[str]
    depths: list[str]


def sort_out(tree: Tree) -> Roles:
    """Tell photographs, masks and depth images apart; worked out once for a tree."""
    if "roles" not in tree.memo:
        tree.memo["roles"] = _sort_out(tree)
    found: Roles = tree.memo["roles"]
    return found


def _sort_out(tree: Tree) -> Roles:
    found = Roles([], [], [])
    pairs: set[str] | None = None
    last, whole, mixed = "", None, False
    for name in tree.names:
        folder, _, file = name.rpartition("/")
        if folder != last or whole is None:
            last, whole, mixed = folder, _role(folder, tree, found), folder in tree.mixed
        stem = file.rpartition(".")[0]
        if whole is not found.images:
            whole.append(name)
        elif stem[-1:].isdigit() and not mixed:  # most names, and soon said
            found.images.append(name)
        else:
            pairs = _beside(tree) if pairs is None else pairs
            (found.masks if name in pairs else found.images).append(name)
    return found


def _role(folder: str, tree: Tree, found: Roles) -> list[str]:
    """What all files of a folder are, unless a name says otherwise."""
    masks, depths = (_holds(folder, tree, masks=masks) for masks in (True, False))
    return found.masks if masks else found.depths if depths else found.images


def _beside(tree: Tree) -> set[str]:
    """Masks in the folders of their images, known by their names."""
    stems = [stem_of(name).lower() for name in tree.names]
    times = Counter(stems)
    found = _pairs(tree, [(n, stem) for n, stem in zip(tree.names, stems, strict=True) if times[stem] == 2])
    for name, path in zip(tree.names, stems, strict=True):
        folder, _, stem = path.rpartition("/")
        image = without_tail(stem)
        if image == stem:
            continue
        if f"{folder}/{image}".lstrip("/") in times or folder.rpartition("/")[2] in LABEL_FOLDERS:
            found.add(name)
    return found


def match_masks(images: Sequence[str], masks: Sequence[str]) -> dict[str, str]:
    """The mask of each image that has one: a file, or a folder of masks that count together.

    Names match without regard to upper and lower case, to words for masks and for images among the
    folders, and to the folder `test` where masks know none. Masks of one folder, not sorted by types of
    defects, match an image whose name is the only one of its kind.
    """
    by_key: dict[str, str] = {}
    for mask in sorted(masks, key=lambda name: (without_tail(stem_of(name)) == stem_of(name), name)):
        for key in (_key(mask), _key(mask, tail=True)):
            by_key.setdefault(key, mask)
    by_folder: dict[str, list[str]] = {}
    for mask in masks:
        by_folder.setdefault(_key(mask).rpartition("/")[0], []).append(mask)
    own = {image: _key(image, tail=True) for image in images}
    stems = Counter(key.rpartition("/")[2] for key in own.values())
    found = {}
    for image, key in own.items():
        head, _, rest = key.partition("/")
        stem = key.rpartition("/")[2]
        keys = [key, *([rest] if head in SPLITS else []), *([stem] if stems[stem] == 1 else [])]
        several = next((by_folder[k] for k in keys if k in by_folder and k), [])
        single = next((by_key[k] for k in keys if k in by_key), "")
        if single or several:
            together = several[0].rpartition("/")[0] if len(several) > 1 else several[0] if several else ""
            found[image] = single or together
    return found


def _holds(folder: str, tree: Tree, *, masks: bool) -> bool:
    """Whether a folder, or one on the way to it, is for masks; or for depth images."""
    parts = folder.split("/") if folder else []
    for i, part in enumerate(parts):
        siblings = {name.lower() for name in tree.inside("/".join(parts[:i]))}
        if masks and (
            part.lower() in MASK_FOLDERS or (part.lower() in LABEL_FOLDERS and siblings & IMAGE_FOLDERS)
        ):
            return True
        if not masks and part.lower() in DEPTH_FOLDERS and "rgb" in siblings:
            return True
    return False


def _pairs(tree: Tree, twice: list[tuple[str, str]]) -> set[str]:
    """PNGs that are the mask of a photograph beside them, of files whose name without ending is there twice."""
    photographs = {stem for name, stem in twice if PHOTOGRAPHS.search(name)}
    found = [name for name, stem in twice if name.lower().endswith(".png") and stem in photographs]
    return set(found) if all(_looks_like_mask(tree.root / n) for n in _spread(found, LOOKED_AT)) else set()


def _spread(names: list[str], count: int) -> Iterable[str]:
    step = max(1, len(names) // count)
    return names[::step][:count]


def _looks_like_mask(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.getcolors(FEW_COLOURS) is not None
    except Exception:  # decoders raise nearly anything on damaged files
        return True


def _key(name: str, *, tail: bool = False) -> str:
    """What a mask and its image have in common."""
    folder, _, file = name.rpartition("/")
    stem = file.rpartition(".")[0].lower()
    return _place(folder) + (stem if tail else without_tail(stem))


@lru_cache(maxsize=4096)
def _place(folder: str) -> str:
    """The folders that say what kind an image is of, with a slash at the end."""
    return "".join(f"{part}/" for part in folder.lower().split("/") if part and part not in NO_KIND)
