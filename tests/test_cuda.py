"""What runs on a processor runs on an NVIDIA card too, and says the same up to rounding."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_model
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.model.encoder.weights import load_pretrained
from anomaly_ft.model.inference import score_images
from anomaly_ft.model.loading import load_run

DEVICE = "cuda"
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA card here"),
]


def call(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def train(folder: Path, images: Path, *changes: str) -> Path:
    recipe = write_recipe(folder / "r.yaml", images, "name=card", *ONE_AUGMENTATION, *changes)
    call("train", recipe, "--output", folder / "runs")
    return folder / "runs" / "card-001"


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A file with weights, for what cannot be had from random ones."""
    path = tmp_path / "backbone.safetensors"
    save_model(load_pretrained("test_efficientnet", "random", 64), str(path))
    return path


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_vit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_comes_to_its_end_in_every_precision(
    encoder: str, precision: str, mvtec_folder: Path, tmp_path: Path
) -> None:
    changes = (f"encoder.name={encoder}", f"runtime.device={DEVICE}", f"runtime.precision={precision}")
    summary = json.loads((train(tmp_path, mvtec_folder, *changes) / "summary.json").read_text())
    assert summary["epochs"] == 1
    assert 0 <= summary["test"]["image_auroc"] <= 1


def test_scores_of_a_card_and_of_a_processor_are_alike(mvtec_folder: Path, tmp_path: Path) -> None:
    """`predict` takes the card by itself."""
    run = train(tmp_path, mvtec_folder, f"runtime.device={DEVICE}")
    call("predict", run, mvtec_folder / "test" / "good", "--output", tmp_path)
    rows = pd.read_csv(tmp_path / "predictions.csv")
    loaded = load_run(run, device="cpu", precision="fp32")
    pixels = np.stack([loaded.decoder(Path(path)) for path in rows["path"]])
    scores = score_images(loaded.detector, pixels, loaded.compute)[loaded.detector.decides]
    np.testing.assert_allclose(rows["score"], scores, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        ("encoder.adapt=lora", "optimizer.lr=1e-2"),
        ("objective.teacher=test_vit", "expert.objective.teacher_weights=random"),
        ("encoder.train_blocks=[blocks.3, blocks.4]", "expert.runtime.gradient_checkpointing=true"),
        (
            "model.kind=filter",
            "expert.filter.width=16",
            "expert.filter.grid=4",
            "validation.augmentations=[line]",
        ),
    ],
    ids=lambda changes: changes[0],
)
def test_every_way_to_train_comes_to_its_end(
    changes: tuple[str, ...], backbone: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    run = train(tmp_path, mvtec_folder, f"runtime.device={DEVICE}", f"encoder.weights={backbone}", *changes)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["epochs"] == 1
    assert 0 <= summary["test"]["image_auroc"] <= 1


def test_doctor_names_the_card(tmp_path: Path) -> None:
    findings = json.loads(call("doctor", "--json", "--output", tmp_path))
    (says,) = (each["says"] for each in findings if each["topic"] == "cuda:0")
    assert torch.cuda.get_device_name(0) in says
