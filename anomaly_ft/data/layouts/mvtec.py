"""MVTec AD and sets laid out like it (BTAD: `ok` and `ko` for good and defective)."""

from pathlib import Path, PurePosixPath

from anomaly_ft.data.layouts.files import (
    NORMAL_WORDS,
    folders_in,
    image_names,
    images_below,
    mask_beside,
    name_below,
    normal_folder,
)
from anomaly_ft.data.records import NORMAL, Record

SKETCH = "train/good, test/<type>, ground_truth/<type>/<name>_mask.png (good may be called ok or normal)"


def recognise(root: Path) -> str:
    """What speaks for this layout; empty: nothing does."""
    normal = normal_folder(root / "train")
    return f"there is train/{normal.name}" if normal else ""


def read(root: Path) -> list[Record]:
    """Train images from `train/good`; test images, with masks where there are any, from `test/<type>`."""
    normal = normal_folder(root / "train")
    records = [Record(root, name, "train") for name in image_names(root, normal)] if normal else []
    for folder in folders_in(root / "test"):
        truth = root / "ground_truth" / folder.name
        for name in image_names(root, folder):
            if folder.name.lower() in NORMAL_WORDS:
                records.append(Record(root, name, "test"))
                continue
            inner = PurePosixPath(name).relative_to("test", folder.name)
            mask = mask_beside(truth / inner.parent, inner.stem)
            records.append(Record(root, name, "test", folder.name, name_below(mask, root)))
    return records


def masks(root: Path) -> list[Path]:
    """Every mask file there is, used or not."""
    good = {NORMAL, *NORMAL_WORDS}
    folders = [folder for folder in folders_in(root / "ground_truth") if folder.name.lower() not in good]
    return [path for folder in folders for path in images_below(folder)]
