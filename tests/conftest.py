"""Where the real images are: $ANOMALY_FT_DATA, else beside the project. Tests that need them are skipped."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = Path(os.environ.get("ANOMALY_FT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real images in {root}; set ANOMALY_FT_DATA")
    return root
