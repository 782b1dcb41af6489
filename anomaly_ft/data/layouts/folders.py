"""A folder of good images, and beside it any others: each one a type of defect."""

from pathlib import Path, PurePosixPath

from anomaly_ft.data.layouts.files import (
    MASK_FOLDERS,
    folders_in,
    has_images,
    image_names,
    images_below,
    mask_beside,
    name_below,
    normal_folder,
)
from anomaly_ft.data.records import Record

SKETCH = "good/ and any other folders, each a type of defect; masks, if any, in ground_truth/<type>/"


def recognise(root: Path) -> str:
    """What speaks for this layout; empty: nothing does."""
    normal, others = normal_folder(root), [f"{folder.name}/" for folder in _defects(root)]
    return f"there are {normal.name}/ and {', '.join(others)}" if normal and others else ""


def read(root: Path) -> list[Record]:
    """Images below `good` (or `ok`, `normal`) are undecided, all others are anomalous test images."""
    normal = normal_folder(root)
    records = [Record(root, name, "undecided") for name in image_names(root, normal)] if normal else []
    for folder in _defects(root):
        for name in image_names(root, folder):
            path = PurePosixPath(name)
            mask = next((m for t in _truths(root) if (m := mask_beside(t / path.parent, path.stem))), None)
            records.append(Record(root, name, "test", folder.name, name_below(mask, root)))
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
