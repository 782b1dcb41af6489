"""Readers of folder layouts: each takes a root and returns the same frozen records.

To add a layout write one reader and name it in `READERS`.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from anomaly_ft.data.images import SUFFIXES
from anomaly_ft.data.records import NORMAL, Record
from anomaly_ft.errors import DataError

DEMO = "demo:"
DEMOS = ("demo:elpv-mono", "demo:elpv-poly")
DEMO_TEST_SHARE = 0.2  # of the normal cells; all anomalous ones are test images
DEMO_SEED = 0  # the split between train and test belongs to the data, not to the run


def read_mvtec(root: Path) -> list[Record]:
    """`train/good`, `test/<kind>`, and where there are masks `ground_truth/<kind>/<stem>_mask.png`."""
    records = [
        Record(path, path.relative_to(root).as_posix(), "train") for path in _images(root / "train" / NORMAL)
    ]
    test = root / "test"
    for folder in sorted(p for p in test.iterdir() if p.is_dir()) if test.is_dir() else []:
        truth = root / "ground_truth" / folder.name
        for path in _images(folder):
            masks = (truth / f"{path.stem}_mask.png", truth / f"{path.stem}.png")
            mask = next((m for m in masks if m.is_file()), None)
            mask_name = mask.relative_to(root).as_posix() if mask else ""
            name = path.relative_to(root).as_posix()
            records.append(Record(path, name, "test", folder.name, mask, mask_name))
    return records


def read_elpv(name: str) -> list[Record]:
    """Solar cells of the `elpv-dataset` package (Deitsch et al., 2019), one kind of module.

    Normal: defect probability 0. Anomalous: probability 1, for the test only. The uncertain ones
    between are left out. A seeded fifth of the normal cells is kept for the test.
    """
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise DataError('data.root: the package elpv-dataset is not installed; pip install "anomaly-ft[demo]"')
    folder = Path(found.origin).parent / "data"
    module = name.removeprefix("demo:elpv-")
    rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="ascii").splitlines()]
    cells = [(path, float(probability)) for path, probability, kind in rows if kind == module]
    normal = [path for path, probability in cells if probability == 0]
    test = set(np.random.default_rng(DEMO_SEED).permutation(normal)[: round(DEMO_TEST_SHARE * len(normal))])
    records = [Record(folder / path, path, "test" if path in test else "train") for path in normal]
    return records + [Record(folder / path, path, "test", "defective") for path, p in cells if p == 1]


READERS: dict[str, Callable[[Path], list[Record]]] = {"mvtec": read_mvtec}


def read_layout(root: str) -> tuple[str, list[Record]]:
    """The layout's name and the records below `root`, a folder or one of the demo sources.

    Raises:
        DataError: no such folder or demo source, a layout that is not known, or no normal images.
    """
    if root.startswith(DEMO):
        if root not in DEMOS:
            raise DataError(f"data.root: no demo source {root!r}; there are {', '.join(DEMOS)}")
        return "elpv", read_elpv(root)
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"data.root: folder does not exist: {root}")
    if not (folder / "train" / NORMAL).is_dir():
        seen = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise DataError(
            f"data.root: {root} is not laid out as expected; needed train/good with normal images, "
            f"optional test/<kind> and ground_truth/<kind>; saw {seen}"
        )
    records = READERS["mvtec"](folder)
    if not any(record.split == "train" for record in records):
        raise DataError(
            f"data.root: no images in {folder / 'train' / NORMAL}; known endings: {', '.join(sorted(SUFFIXES))}"
        )
    return "mvtec", records


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
