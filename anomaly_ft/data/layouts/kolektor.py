"""Images with their mask beside them: KolektorSDD (`_label.bmp`) and KolektorSDD2 (`_GT.png`).

An empty mask means a normal image. Where there are folders `train` and `test` they are the split;
defective images in `train` are not used, as in the published protocol.
"""

import re
from typing import Literal

import numpy as np

from anomaly_ft.data.layouts.files import LABEL_FOLDERS, MASK_FOLDERS, stem_of
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.masks import read_mask
from anomaly_ft.data.records import ANOMALOUS, NORMAL, Record
from anomaly_ft.errors import DataError

SKETCH = "<name>.jpg beside <name>_label.bmp, or <name>.png beside <name>_GT.png; an empty mask means normal"
TAIL = re.compile(r"(.+)(_label|_GT)( \(.+\))?")  # the published KolektorSDD2 has `10301_GT (copy).png`
Split = Literal["train", "test", "undecided"]
GIVEN: dict[str, Split] = {"train": "train", "test": "test"}


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    masks = _masks(tree)
    paired = bool(masks) and sum(stem_of(name) in masks for name in tree.names)
    if not masks or 2 * paired < len(tree.names) - len(masks):
        return ""
    return f"there are {len(masks)} masks such as {next(iter(masks.values()))}"


def read(tree: Tree) -> list[Record]:
    """Read labels from the masks; without folders `train` and `test` normal images are undecided.

    Raises:
        DataError: an image without a mask or with one that cannot be read: nobody knows its label.
    """
    by_image = _masks(tree)
    masks = set(by_image.values())
    images = [name for name in tree.names if name not in masks]
    alone = [name for name in images if stem_of(name) not in by_image]
    if alone:
        raise DataError(
            f"data.root: {len(alone)} of {len(images)} images have no mask beside them, so whether they are "
            f"normal is not known: {', '.join(alone[:5])}; add a mask for each (empty: a normal image), or "
            "use a manifest"
        )
    records = []
    for name in images:
        mask = by_image[stem_of(name)]
        split: Split = GIVEN.get(name.split("/")[0].lower(), "undecided")
        if _any_defect(tree, mask):
            records.append(Record(tree.root, name, "train" if split == "train" else "test", ANOMALOUS, mask))
        else:
            records.append(Record(tree.root, name, split, NORMAL))
    return records


def _masks(tree: Tree) -> dict[str, str]:
    """Find the mask of each image, by the image's name without ending; not those in a folder of their own."""
    mask_folders = MASK_FOLDERS | LABEL_FOLDERS
    masks = {}
    for name in tree.names:
        match = TAIL.fullmatch(stem_of(name)) if "_label" in name or "_GT" in name else None
        if match and not mask_folders & set(name.lower().split("/")[:-1]):
            masks[match[1] + (match[3] or "")] = name
    return masks


def _any_defect(tree: Tree, mask: str) -> bool:
    try:
        return bool(np.any(read_mask(tree.root / mask)))
    except Exception as cause:  # decoders raise nearly anything on damaged files
        raise DataError(
            f"data.root: a mask that cannot be read leaves its image without label: {tree.root / mask}: {cause}"
        ) from cause
