"""Magnetic Tile Defects as its authors publish it (Huang et al., The Visual Computer, 2018)."""

from pathlib import Path

from anomaly_ft.data.layouts.files import first_file, folders_in, name_below
from anomaly_ft.data.records import NORMAL, Record

SKETCH = "MT_Free/Imgs/*.jpg and MT_<type>/Imgs/*.jpg, each with a mask of the same name ending in .png"
NORMALS = "MT_Free"


def recognise(root: Path) -> str:
    """What speaks for this layout; empty: nothing does."""
    return "there is MT_Free/Imgs" if (root / NORMALS / "Imgs").is_dir() else ""


def read(root: Path) -> list[Record]:
    """Normal images are undecided; the type of the others is their folder's name without `MT_`."""
    records = []
    for folder in _folders(root):
        kind = NORMAL if folder.name == NORMALS else folder.name.removeprefix("MT_").lower()
        for path in sorted((folder / "Imgs").glob("*.jpg")):
            name = name_below(path, root)
            if kind == NORMAL:
                records.append(Record(root, name, "undecided"))
                continue
            mask = first_file([path.with_suffix(".png")])
            records.append(Record(root, name, "test", kind, name_below(mask, root)))
    return records


def masks(root: Path) -> list[Path]:
    """Every mask file there is, used or not; those of normal images are empty and not used."""
    folders = [folder for folder in _folders(root) if folder.name != NORMALS]
    return [path for folder in folders for path in sorted((folder / "Imgs").glob("*.png"))]


def _folders(root: Path) -> list[Path]:
    return [p for p in folders_in(root) if p.name.startswith("MT_") and (p / "Imgs").is_dir()]
