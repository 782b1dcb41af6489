"""What the README of an exported encoder says about where it comes from."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from anomaly_ft.cli.main import main


def call(run: Path, output: Path, *more: object) -> Result:
    arguments = ["export", run, "--format", "timm", "--output", output, *more]
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_model_card_has_the_head_that_a_hub_reads(small_run: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    assert call(small_run, export).exit_code == 0
    text = (export / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["library_name"] == "timm"
    assert head["license"] == "other"  # random weights have none
    assert "weights: random" in text
    assert "24 normal images" in " ".join(text.split())
    for name in ("image AUROC", "image average precision", "image F1, best threshold", "pixel AUROC"):
        assert re.search(rf"\n\| {name} \| \d\.\d{{4}} \| \d\.\d{{4}} \|\n", text), name
    page = (Path(__file__).parents[1] / "docs" / "files.md").read_text().split("### parity.json")[1]
    keys = json.loads((export / "parity.json").read_text()).keys()
    assert keys - set(re.findall(r"`(\w+)`", page)) == set(), "not documented"
    assert {path.name for path in export.iterdir()} == {
        "config.json",
        "model.safetensors",
        "parity.json",
        "README.md",
    }


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_model_card_says_whether_the_encoder_was_changed_at_all(
    epoch: int, small_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"best_epoch": epoch}))
    assert call(run, tmp_path / "export", "--count", 1).exit_code == 0
    text = " ".join((tmp_path / "export" / "README.md").read_text().split())
    assert ("fine-tuned with anomaly_ft" in text) == (epoch > 0)
    assert ("as it was pretrained" in text and "and kept it; no image of a defect" in text) == (epoch == 0)


def test_an_export_of_a_run_trained_in_bf16_agrees_with_what_predict_says(
    small_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe.replace("precision: fp32", "precision: bf16"))
    assert call(run, tmp_path / "export", "--count", 2).exit_code == 0
    parity = json.loads((tmp_path / "export" / "parity.json").read_text())
    assert parity["precision"] == "fp32"
    assert parity["score"]["max_relative"] < 1e-3
    assert parity["decisions_changed"] == 0
