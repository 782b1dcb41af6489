"""Runs whose encoder is a vision transformer, with and without register tokens: what comes of them agrees."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main

MODELS = ("test_vit", "test_vit2")  # the second has register tokens


def call(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module", params=MODELS)
def run(request: pytest.FixtureRequest, mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformer run")
    changes = (f"encoder.name={request.param}", "data.image_size=96", "name=vit", *ONE_AUGMENTATION)
    recipe = write_recipe(folder / "vit.yaml", mvtec_folder, *changes)
    call("train", recipe, "--output", folder / "runs")
    return folder / "runs" / "vit-001"


@pytest.mark.parametrize("form", ["timm", "onnx", "pt2", "encoder-onnx", "encoder-pt2"])
def test_every_export_agrees_with_the_detector(form: str, run: Path, tmp_path: Path) -> None:
    call("export", run, "--format", form, "--output", tmp_path / "out")
    parity = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["images"] == 10
    assert parity["score"]["max_relative"] <= 1e-3
    assert parity["decisions_changed_outside_band"] == 0


def test_predict_gives_what_training_wrote(run: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    call("predict", run, mvtec_folder / "test", "--output", tmp_path)
    written, again = (pd.read_csv(folder / "predictions.csv") for folder in (run, tmp_path))
    np.testing.assert_allclose(np.sort(again["score"]), np.sort(written["score"]), rtol=1e-5)
