"""A class of DAGM 2007: `Train` and `Test`, in each a folder `Label` with masks of the defective images alone.

Defective images in `Train` are not used: only normal ones are trained with.
"""

from anomaly_ft.data.layouts.files import LABEL_FOLDERS, TEST, TRAIN, without_tail
from anomaly_ft.data.layouts.matching import match_masks
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record

SKETCH = "Train/<name>.PNG, Test/<name>.PNG and masks of the defective ones in Train/Label and Test/Label"


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    labels = [f"{a}/{b}" for a in tree.inside() for b in tree.inside(a) if b.lower() in LABEL_FOLDERS]
    masks = [name for folder in labels for name in tree.below(folder) if _is_mask(name)]
    if not masks:
        return ""
    return f"there are {len(masks)} masks such as {masks[0]}"


def read(tree: Tree) -> list[Record]:
    """Read images with a mask as defective, all others as normal."""
    images = [n for n in tree.images if n.count("/") == 1 and n.split("/")[0].lower() in TRAIN | TEST]
    masks = match_masks(images, tree.masks)
    return [
        Record(
            tree.root,
            name,
            "train" if name.split("/")[0].lower() in TRAIN else "test",
            ANOMALOUS if name in masks else NORMAL,
            masks.get(name, ""),
        )
        for name in images
    ]


def _is_mask(name: str) -> bool:
    """Tell whether a path is `Train/Label/<name>_label.<ending>` or the like in `Test`."""
    *folders, file = name.lower().split("/")
    stem = file.rpartition(".")[0]
    given = len(folders) == 2 and folders[0] in TRAIN | TEST and folders[1] in LABEL_FOLDERS
    return given and without_tail(stem) != stem
