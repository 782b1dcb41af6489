"""Runs that train adapters: what is left of them, and that every command goes on from there."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from click.testing import CliRunner
from cut_short import cut_short
from safetensors.torch import load_file, save_file
from settings import ONE_AUGMENTATION, textures, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.model.loading import load_detector

ADAPTER = "adapter/adapter_model.safetensors"
STEPS = ("schedule.max_epochs=2", "expert.schedule.epoch_steps=3", "expert.schedule.tolerance=0")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("backbone") / "weights.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=0).state_dict(), file)
    return file


@pytest.fixture(scope="session")
def recipe(backbone: Path, mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter recipe")
    adapters = (
        f"encoder.weights={backbone}",
        "encoder.adapt=lora",
        "expert.encoder.rank=2",
        "optimizer.lr=0.01",
    )
    return write_recipe(folder / "r.yaml", mvtec_folder, "name=tiny", *adapters, *STEPS, *ONE_AUGMENTATION)


def call(*words: object) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


def train(recipe: Path, output: Path, *settings: str, options: tuple[str, ...] = ()) -> Path:
    call("train", recipe, "--output", output, *(word for s in settings for word in ("-s", s)), *options)
    return output / "tiny-001"


@pytest.fixture(scope="session")
def adapter_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe, tmp_path_factory.mktemp("adapter run"), "expert.schedule.patience=1")


def test_an_adapter_is_kept_in_place_of_an_encoder(adapter_run: Path, backbone: Path) -> None:
    names = {path.relative_to(adapter_run).as_posix() for path in adapter_run.rglob("*")}
    assert not [name for name in names if name.startswith(("encoder", "checkpoint"))]
    about = json.loads((adapter_run / "adapter" / "backbone.json").read_text())
    assert (about["name"], about["weights"]) == ("test_efficientnet", str(backbone))


def test_predict_gives_what_training_wrote(adapter_run: Path, mvtec_folder: Path) -> None:
    rows = pd.read_csv(adapter_run / "predictions.csv")
    out = adapter_run.parent / "predicted.csv"
    call("predict", adapter_run, mvtec_folder / "test", "--output", out)
    again = pd.read_csv(next(out.rglob("*.csv")) if out.is_dir() else out)
    np.testing.assert_allclose(np.sort(again["score"]), np.sort(rows["score"]), rtol=1e-6)


def test_exports_are_plain_timm_models(adapter_run: Path, tmp_path: Path) -> None:
    call("export", adapter_run, "--format", "timm", "--output", tmp_path / "out")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    merged = load_detector(adapter_run).encoder.model.state_dict()
    assert loaded.state_dict().keys() == merged.keys()
    assert all(torch.equal(merged[key], value) for key, value in loaded.state_dict().items())


def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    whole = train(recipe, tmp_path / "whole", "expert.runtime.checkpoint_minutes=0")
    again = ("train", recipe, "--output", tmp_path / "cut", "-s", "expert.runtime.checkpoint_minutes=0")
    with cut_short(3):  # in the middle of an epoch
        assert CliRunner().invoke(main, [str(word) for word in again]).exit_code
    cut = train(recipe, tmp_path / "cut", "expert.runtime.checkpoint_minutes=0", options=("--resume",))
    for name in (
        "history.jsonl",
        "predictions.csv",
        "detector.safetensors",
        "adapter/adapter_model.safetensors",
    ):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_an_epoch_that_is_not_kept_leaves_an_adapter_that_adds_nothing(recipe: Path, tmp_path: Path) -> None:
    run = train(recipe, tmp_path, "expert.schedule.tolerance=1000")
    factors = load_file(run / ADAPTER)
    assert all(not value.any() for key, value in factors.items() if "lora_B" in key)
    assert json.loads((run / "summary.json").read_text())["best_epoch"] == 0


def test_early_blocks_are_computed_once_and_brakes_work(recipe: Path, tmp_path: Path) -> None:
    late = (
        "encoder.train_blocks=[blocks.3, blocks.4, conv_head]", "expert.objective.distillation=0.1",
        "expert.schedule.interpolate=[0.5]", "expert.runtime.gradient_checkpointing=true",
    )  # fmt: skip
    once = train(recipe, tmp_path / "once", *late)
    always = train(recipe, tmp_path / "always", *late, "expert.runtime.cache_gib=0", "runtime.cache=memory")
    histories = [pd.read_json(run / "history.jsonl", lines=True) for run in (once, always)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_commands_say_in_one_line_which_backbone_is_missing(
    adapter_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(adapter_run, tmp_path / "tiny-001"))
    about = json.loads((run / "adapter" / "backbone.json").read_text())
    (run / "adapter" / "backbone.json").write_text(json.dumps(about | {"weights": "gone.safetensors"}))
    result = CliRunner().invoke(main, ["predict", str(run), str(mvtec_folder / "test")])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert (
        f"needs its backbone test_efficientnet, weights from gone.safetensors, sha256 {about['sha256']}" in line
    )


def test_without_peft_a_run_is_used_but_not_trained(
    adapter_run: Path, recipe: Path, mvtec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    call("predict", adapter_run, mvtec_folder / "test" / "good" / "000.png")
    write_images(tmp_path / "new", textures(4, 64, seed=9))
    call("update", adapter_run, tmp_path / "new", "--output", tmp_path)
    updated = next(tmp_path.glob("*-update-*")) / ADAPTER
    assert updated.read_bytes() == (adapter_run / ADAPTER).read_bytes()
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "encoder.adapt: lora needs peft, which is not installed; pip install peft" in result.stderr


def test_adapters_that_have_nothing_to_stand_beside_are_refused(recipe: Path, tmp_path: Path) -> None:
    words = ["train", recipe, "--output", tmp_path, "-s", "encoder.train_blocks=[bn1]"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2
    assert "encoder.adapt: lora: no linear layer and no 1 x 1 convolution in bn1" in result.stderr


def test_random_weights_are_refused(recipe: Path, tmp_path: Path) -> None:
    words = ["train", recipe, "--output", tmp_path, "-s", "encoder.weights=random"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 2
    assert "random ones cannot; set encoder.adapt: full" in result.stderr
