"""A folder of good images, and beside it any others: each one a type of defect. Real-IAD is laid out so."""

from anomaly_ft.data.layouts.files import (
    DEFECT_TYPES,
    MASK_FOLDERS,
    TEST,
    TRAIN,
    means_defect,
    means_normal,
    words,
)
from anomaly_ft.data.layouts.matching import match_masks
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import Record

SKETCH = "good/ and any other folders, each a type of defect; masks, if any, in ground_truth/<type>/"


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    normal, others = _normal(tree), [f"{folder}/" for folder in _defects(tree)]
    if not (normal and others):
        return ""
    return f"there are {normal}/ and {', '.join(others)}"


def read(tree: Tree) -> list[Record]:
    """Read images below `good` (or `ok`, `normal`) as undecided, all others as anomalous test images."""
    usable = set(tree.images)
    names = [name for name in tree.below(_normal(tree)) if name in usable]
    records = [Record(tree.root, name, "undecided") for name in names]
    tested = [(n, _kind(n)) for folder in _defects(tree) for n in tree.below(folder) if n in usable]
    masks = match_masks([name for name, _ in tested], tree.masks)
    return records + [Record(tree.root, name, "test", kind, masks.get(name, "")) for name, kind in tested]


def _kind(name: str) -> str:
    """Name the type of defect: the folder, or the one in it where the folder says no more than "defect"."""
    top, *inner = name.split("/")[:-1]
    if inner and means_defect(top) and not set(words(top)) & DEFECT_TYPES:
        return inner[0]
    return top


def _normal(tree: Tree) -> str:
    return next((folder for folder in tree.inside() if means_normal(folder)), "")


def _defects(tree: Tree) -> list[str]:
    """List other folders with images in them; `train` or `test` among them means another layout."""
    normal = _normal(tree)
    others = [f for f in tree.inside() if f != normal and f.lower() not in MASK_FOLDERS and tree.below(f)]
    if {folder.lower() for folder in others} & (TRAIN | TEST):
        return []
    return others
