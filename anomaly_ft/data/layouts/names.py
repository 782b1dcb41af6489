"""Labels in the names of files: `OK_01.png` beside `NG_01.png`, `cast_ok_0.jpeg` beside `cast_def_0.jpeg`."""

from anomaly_ft.data.layouts.files import means_defect, means_normal, stem_of
from anomaly_ft.data.layouts.matching import match_masks
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record

SKETCH = "OK_<name> beside NG_<name>: every file's name says good (ok, normal) or defective (ng, def, bad, ...)"


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not, or not every name says what the image is."""
    names = tree.images
    good = sum(means_normal(_file(name)) for name in names)
    bad = sum(means_defect(_file(name)) for name in names)
    if not good or not bad or good + bad < len(names):
        return ""
    return f"the names of {good} files speak of good parts, those of {bad} of defects"


def read(tree: Tree) -> list[Record]:
    """Read good images as undecided, all others as anomalous test images."""
    defective = [name for name in tree.images if not means_normal(_file(name))]
    masks = match_masks(defective, tree.masks)
    return [
        Record(tree.root, name, "undecided", NORMAL)
        if means_normal(_file(name))
        else Record(tree.root, name, "test", ANOMALOUS, masks.get(name, ""))
        for name in tree.images
    ]


def _file(name: str) -> str:
    return stem_of(name).rpartition("/")[2]
