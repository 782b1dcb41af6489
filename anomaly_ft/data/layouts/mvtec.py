"""MVTec AD and sets laid out like it: a folder for training and one for testing, in each good and other images.

BTAD (`ok`, `ko`), MVTec AD 2 (`test_public`, `validation`), LOCO and AutoVI (a folder of masks for each image),
BMAD (`img` and `label` below each type), MVTec 3D-AD (`rgb`, `xyz`, `gt`), Lookout for Vision
(`train/anomaly`), Keras (`train`, `val`, `test`).
"""

from anomaly_ft.data.layouts.files import MASK_FOLDERS, TEST, TRAIN, VALIDATION, means_normal
from anomaly_ft.data.layouts.matching import match_masks
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import NORMAL, Record

SKETCH = "train/good, test/<type>, ground_truth/<type>/<name>_mask.png (good may be called ok or normal)"


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    folders = [
        f"{split}/{kind}" for split in _splits(tree, TRAIN) for kind in tree.inside(split) if means_normal(kind)
    ]
    if not folders:
        return ""
    return f"there is {folders[0]}"


def read(tree: Tree) -> list[Record]:
    """Read good images of the folders for training and validation as train; all others are test images."""
    usable = set(tree.images)
    photographs = _images(tree, TRAIN | VALIDATION, usable)
    train = [Record(tree.root, name, "train") for name, kind in photographs if kind == NORMAL]
    tested = [(name, kind) for name, kind in photographs if kind != NORMAL] + _images(tree, TEST, usable)
    masks = match_masks([n for n, kind in tested if kind != NORMAL], tree.masks)
    return train + [Record(tree.root, n, "test", kind, masks.get(n, "")) for n, kind in tested]


def _splits(tree: Tree, names: frozenset[str]) -> list[str]:
    return [folder for folder in tree.inside() if folder.lower() in names]


def _images(tree: Tree, splits: frozenset[str], usable: set[str]) -> list[tuple[str, str]]:
    """List names and kinds of the photographs in these folders."""
    photographs = []
    for split in _splits(tree, splits):
        for folder in tree.inside(split):
            if folder.lower() not in MASK_FOLDERS:
                kind = NORMAL if means_normal(folder) else folder
                photographs += [(name, kind) for name in tree.below(f"{split}/{folder}") if name in usable]
    return photographs
