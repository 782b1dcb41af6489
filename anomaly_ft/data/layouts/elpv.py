"""Demo images that come as a package: solar cells, `demo:elpv-mono` and `demo:elpv-poly`."""

import importlib.util
from pathlib import Path

import numpy as np

from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError

DEMO = "demo:"
DEMOS = ("demo:elpv-mono", "demo:elpv-poly")
DEMO_TEST_SHARE = 0.2  # of the normal cells; all anomalous ones are test images
DEMO_SEED = 0  # the split between train and test belongs to the data, not to the run


def read_elpv(name: str) -> list[Record]:
    """Read solar cells of the `elpv-dataset` package (Deitsch et al., 2019), one kind of module.

    Normal: defect probability 0. Anomalous: probability 1, for the test only. The uncertain ones
    between are left out. A seeded fifth of the normal cells is kept for the test.

    Raises:
        DataError: no such demo source, or its package is not installed.
    """
    if name not in DEMOS:
        raise DataError(f"data.root: no demo source {name!r}; there are {', '.join(DEMOS)}")
    folder = elpv_folder()
    module = name.removeprefix("demo:elpv-")
    rows = [line.split() for line in (folder / "labels.csv").read_text(encoding="ascii").splitlines()]
    cells = [(path, float(probability)) for path, probability, kind in rows if kind == module]
    normal = [path for path, probability in cells if probability == 0]
    test = set(np.random.default_rng(DEMO_SEED).permutation(normal)[: round(DEMO_TEST_SHARE * len(normal))])
    records = [Record(folder, path, "test" if path in test else "train") for path in normal]
    return records + [Record(folder, path, "test", "defective") for path, p in cells if p == 1]


def elpv_folder() -> Path:
    """Find the folder in which the package keeps its images.

    Raises:
        DataError: it is not installed.
    """
    spec = importlib.util.find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise DataError("data.root: the package elpv-dataset is not installed; pip install elpv-dataset")
    return Path(spec.origin).parent / "data"
