"""Good images only, in one folder or in many: everything is for training."""

from pathlib import Path

from anomaly_ft.data.layouts.files import MASK_FOLDERS, image_names
from anomaly_ft.data.records import Record

SKETCH = "any folders with good images only"
# With one of these in its path an image is hardly meant as a good one to train with
SUSPICIOUS = MASK_FOLDERS | {
    *("anomaly", "anomalies", "anomalous", "defect", "defects", "defective", "error", "errors", "faulty"),
    *("bad", "broken", "damaged", "fail", "failed", "reject", "rejects", "rejected", "scrap"),
    *("ko", "ng", "nio", "nok", "not_ok", "test"),
}


def recognise(root: Path) -> str:
    """What speaks for this layout; empty: nothing does, or a folder's name speaks against it."""
    names = list(image_names(root))
    if not names or suspicious(names):
        return ""
    return f"there are {len(names)} images, and no folder's name speaks of defects, masks or a test"


def read(root: Path) -> list[Record]:
    """Every image is a normal training image."""
    return [Record(root, name, "train") for name in image_names(root)]


def masks(root: Path) -> list[Path]:
    """This layout has no masks."""
    del root
    return []


def suspicious(names: list[str]) -> list[str]:
    """Folder names on the way to the images which say that not all of them are good.

    >>> suspicious(["line 1/a.png", "Bad/b.png", "c.png"])
    ['Bad']
    """
    folders = {part for name in names for part in name.split("/")[:-1]}
    masks = {"*_mask" for name in names if name.rpartition(".")[0].endswith("_mask")}
    return sorted({folder for folder in folders if folder.lower() in SUSPICIOUS} | masks)
