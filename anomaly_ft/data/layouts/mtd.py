"""Magnetic Tile Defects as its authors publish it (Huang et al., The Visual Computer, 2018)."""

from anomaly_ft.data.layouts.files import stem_of
from anomaly_ft.data.layouts.tree import Tree
from anomaly_ft.data.records import NORMAL, Record

SKETCH = "MT_Free/Imgs/*.jpg and MT_<type>/Imgs/*.jpg, each with a mask of the same name ending in .png"
NORMALS = "mt_free"


def recognise(tree: Tree) -> str:
    """Say why this layout fits; empty: it does not."""
    normal_folders = [folder for folder in _folders(tree) if folder.split("/")[0].lower() == NORMALS]
    if not normal_folders:
        return ""
    return f"there is {normal_folders[0]}"


def read(tree: Tree) -> list[Record]:
    """Read normal images as undecided; the type of the others is their folder's name without `MT_`."""
    records = []
    for folder in _folders(tree):
        top = folder.split("/")[0].lower()
        kind = NORMAL if top == NORMALS else top.removeprefix("mt_")
        names = tree.below(folder)
        masks = {stem_of(name).lower(): name for name in names if name.lower().endswith(".png")}
        images = [name for name in names if not name.lower().endswith(".png")]
        for name in images or names:  # without any JPEG the PNGs are photographs
            mask = masks.get(stem_of(name).lower(), "") if images and kind != NORMAL else ""
            records.append(Record(tree.root, name, "undecided" if kind == NORMAL else "test", kind, mask))
    return records


def _folders(tree: Tree) -> list[str]:
    tops = [top for top in tree.inside() if top.lower().startswith("mt_")]
    return [f"{top}/{inner}" for top in tops for inner in tree.inside(top) if inner.lower() == "imgs"]
