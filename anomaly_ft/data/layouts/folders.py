"""A folder of good images, and beside it any others: each one a type of defect."""

from pathlib import Path

from anomaly_ft.data.layouts.files import (
    MASK_FOLDERS,
    folders_in,
    has_images,
    images_below,
    mask_beside,
    name_below,
    normal_folder,
)
from anomaly_ft.data.records import Record

SKETCH = "good/ and any other folders, each a type of defect; masks, if any, in ground_truth/<type>/"


def recognise(root: Path) -> str:
    """What speaks for this layout; empty: nothing does."""
    normal, others = normal_folder(root), _defects(root)
    return f"there are {normal.name}/ and {', '.join(p.name for p in others)}" if normal and others else ""


def read(root: Path) -> list[Record]:
    """Images below `good` (or `ok`, `normal`) are undecided, all others are anomalous test images."""
    normal = normal_folder(root)
    good = images_below(normal) if normal else []
    records = [Record(path, name_below(path, root), "undecided") for path in good]
    for folder in _defects(root):
        for path in images_below(folder):
            inner = path.parent.relative_to(root)
            mask = next((m for t in _truths(root) if (m := mask_beside(t / inner, path.stem))), None)
            record = Record(path, name_below(path, root), "test", folder.name, mask, name_below(mask, root))
            records.append(record)
    return records


def masks(root: Path) -> list[Path]:
    """Every mask file there is, used or not."""
    return [path for folder in _truths(root) for path in images_below(folder)]


def _truths(root: Path) -> list[Path]:
    return [folder for folder in folders_in(root) if folder.name.lower() in MASK_FOLDERS]


def _defects(root: Path) -> list[Path]:
    """Other folders with images in them; `train` or `test` among them means another layout."""
    normal = normal_folder(root)
    others = [
        p for p in folders_in(root) if p != normal and p.name.lower() not in MASK_FOLDERS and has_images(p)
    ]
    return [] if {p.name.lower() for p in others} & {"train", "test"} else others
