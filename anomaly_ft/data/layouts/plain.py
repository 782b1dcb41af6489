"""Good images only, in one folder or in many: everything is for training."""

from collections.abc import Iterable

from anomaly_ft.data.layouts.files import DEFECT_WORDS, MASK_FOLDERS, TEST, means_defect, stem_of
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import Record

SKETCH = "any folders with good images only"
# With one of these in its path an image is hardly meant as a good one to train with
SUSPICIOUS = MASK_FOLDERS | DEFECT_WORDS | TEST | {"not_ok"}

SEVERAL = 2  # a single file called `bad.png` may be a name like any other


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not, or a name suggests a defect."""
    if not tree.names or suspicious(tree):
        return ""
    return f"there are {len(tree.names)} images, and no name speaks of defects, masks or a test"


def read(tree: Tree) -> list[Record]:
    """Read every photograph as a normal training image."""
    return [Record(tree.root, name, "train") for name in tree.images]


def suspicious(tree: Tree) -> list[str]:
    """Find signs that not all images are good: folders, several files named for defects, and masks."""
    folders = {part for name in tree.names for part in name.split("/")[:-1]}
    spoken = {folder for folder in folders if folder.lower() in SUSPICIOUS or means_defect(folder)}
    defects = named_for_defects(tree.names)
    masks = [name for name in tree.masks if not set(name.split("/")[:-1]) & spoken]
    signs = [f"{len(defects)} files named like {defects[0]}"] if len(defects) >= SEVERAL else []
    signs += [f"{len(masks)} masks such as {masks[0]}"] if masks else []
    return sorted(spoken) + signs


def named_for_defects(names: Iterable[str]) -> list[str]:
    """Find names of files that suggest a defect."""
    return [name for name in names if means_defect(stem_of(name).rpartition("/")[2])]
