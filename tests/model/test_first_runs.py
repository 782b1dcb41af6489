"""Folders of the very first runs, which left it to their recipe how images are read."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from anomaly_ft.cli.main import main
from anomaly_ft.data.images import Decoder
from anomaly_ft.errors import RunError
from anomaly_ft.model.loading import load_run
from anomaly_ft.run.open import open_run

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def first(tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(FIXTURES / "format-1", tmp_path / "first"))
    return Path(shutil.copytree(FIXTURES / "format-1-first", folder, dirs_exist_ok=True))


def test_the_first_recipe_is_still_read_and_says_how_images_are_resized(first: Path) -> None:
    recipe, run = open_run(first)
    assert recipe.name == "first"
    assert run.decoder == Decoder(32, "letterbox", None)
    assert run.point.threshold == 1.5


def test_predict_takes_a_first_run(first: Path, mvtec_folder: Path) -> None:
    result = CliRunner().invoke(main, ["predict", str(first), str(mvtec_folder / "test"), "--format", "jsonl"])
    assert result.exit_code == 0, result.output
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(found) == 10
    assert {row["decision"] for row in found} <= {"normal", "anomalous"}


def test_without_its_recipe_nobody_guesses_how_images_were_read(first: Path) -> None:
    with pytest.raises(RunError, match=r"no usable preprocessing \(it is of the first runs"):
        load_run(first)
    run = load_run(first, preprocessing={"resize": "squash", "range": [0, 4095]})
    assert run.decoder == Decoder(32, "squash", (0.0, 4095.0))
