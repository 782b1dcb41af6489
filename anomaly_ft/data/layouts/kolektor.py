"""Images with their mask beside them: KolektorSDD (`_label.bmp`) and KolektorSDD2 (`_GT.png`).

An empty mask means a normal image. Where there are folders `train` and `test` they are the split;
defective images in `train` are left out, for only normal ones are trained with.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from anomaly_ft.data.images import UNREADABLE, read_mask
from anomaly_ft.data.layouts.files import images_below, name_below
from anomaly_ft.data.records import ANOMALOUS, Record
from anomaly_ft.errors import DataError

SKETCH = "<name>.jpg beside <name>_label.bmp, or <name>.png beside <name>_GT.png; an empty mask means normal"
TAILS = ("_label", "_GT")
GIVEN: dict[str, Literal["train", "test"]] = {"train": "train", "test": "test"}


def recognise(root: Path) -> str:
    """What speaks for this layout; empty: nothing does."""
    found = masks(root)
    return f"there are {len(found)} masks such as {name_below(found[0], root)}" if found else ""


def read(root: Path) -> list[Record]:
    """Labels come from the masks; without folders `train` and `test` normal images are undecided.

    Raises:
        DataError: an image without a mask or with one that cannot be read: nobody knows its label.
    """
    by_image = {_image_key(path): path for path in masks(root)}
    images = [path for path in images_below(root) if not path.stem.endswith(TAILS)]
    alone = [name_below(path, root) for path in images if path.with_suffix("") not in by_image]
    if alone:
        raise DataError(
            f"data.root: {len(alone)} of {len(images)} images have no mask beside them, so whether they are "
            f"normal is not known: {', '.join(alone[:5])}; add empty masks or use a manifest"
        )
    records = []
    for path in images:
        mask, name = by_image[path.with_suffix("")], name_below(path, root)
        below = name.split("/")[0]
        defective = _any_defect(mask)
        if below == "train" and defective:
            continue
        if defective:
            records.append(Record(root, name, "test", ANOMALOUS, name_below(mask, root)))
        else:
            records.append(Record(root, name, GIVEN.get(below, "undecided")))
    return records


def masks(root: Path) -> list[Path]:
    """Every mask file there is, used or not."""
    return [path for path in images_below(root) if path.stem.endswith(TAILS)]


def _image_key(mask: Path) -> Path:
    tail = next(tail for tail in TAILS if mask.stem.endswith(tail))
    return mask.with_name(mask.stem.removesuffix(tail))


def _any_defect(mask: Path) -> bool:
    try:
        return bool(np.any(read_mask(mask)))
    except UNREADABLE as cause:
        raise DataError(
            f"data.root: a mask that cannot be read leaves its image without label: {mask}: {cause}"
        ) from cause
