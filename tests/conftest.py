"""What several test files need: real images where there are any, made ones, one MLflow database."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import textures, write_images

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
REAL_DATA = Path(os.environ.get("ANOMALY_FT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny tensors: more threads cost more than they bring, and equal runs need an equal number."""
    torch.set_num_threads(1)


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Other numbers each time and in each test; `--randomly-seed=N` draws those of N again.

    They are drawn here and never as parameters: names of tests have to be the same in all worker processes.
    """
    return random.Random(f"{request.config.getoption('randomly_seed', 0)} {request.node.nodeid}")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; see CONTRIBUTING for what it holds."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real images at {REAL_DATA}; set ANOMALY_FT_DATA")
    return REAL_DATA


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of one MLflow database for all tests: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def mvtec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as MVTec AD lays it out: 24 normal images, 6 normal and 4 anomalous ones to test with."""
    root = tmp_path_factory.mktemp("textures")
    write_images(root / "train" / "good", textures(24, 64, seed=1))
    write_images(root / "test" / "good", textures(6, 64, seed=2))
    wrong = textures(4, 64, seed=3)
    wrong[:, 20:40, 20:40] = 255
    write_images(root / "test" / "hole", wrong)
    masks = np.zeros((4, 64, 64), np.uint8)
    masks[:, 20:40, 20:40] = 255
    write_images(root / "ground_truth" / "hole", masks, name="{:03d}_mask.png")
    return root


@pytest.fixture(scope="session")
def make_textures() -> Callable[[int, int, int], np.ndarray]:
    """`textures(count, size, seed)`, for tests that need arrays and no files."""
    return textures


@pytest.fixture(scope="session")
def small_run(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `mvtec_folder` whose encoder has random weights; to be read only."""
    from click.testing import CliRunner
    from settings import ONE_AUGMENTATION, write_recipe

    from anomaly_ft.cli.main import main

    folder = tmp_path_factory.mktemp("small run")
    changes = ("name=small", "expert.runtime.batch_size=4", *ONE_AUGMENTATION)
    recipe = write_recipe(folder / "small.yaml", mvtec_folder, *changes)
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(folder / "runs")])
    assert result.exit_code == 0, result.output
    return folder / "runs" / "small-001"
