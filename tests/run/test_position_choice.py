"""`gaussian.position: auto` on parts that lie anyhow and on parts that are placed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import lives
import numpy as np
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from settings import tracked, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.finetune.records import PositionChoice
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.positions import remember_position, remembered_position, summarise_position
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.summary_text import position_sentence
from anomaly_ft.run.train import METHODS

COLOURS = np.array([(220, 60, 50), (60, 200, 80), (70, 90, 230), (230, 210, 60)])
HOMES = np.array([(16, 16), (16, 48), (48, 16), (48, 48)])
CHANGES = (
    "expert.gaussian.grid=8", "variation.preset=none", "expert.data.val_share=0.6",
    "expert.data.calibration_share=0.1",
)  # fmt: skip
SCATTERED = (*CHANGES, "validation.augmentations=[cutout,confetti]", "expert.validation.severity=0.7")
PLACED = (*CHANGES, "validation.augmentations=[cutout]", "expert.validation.severity=0.3")


def discs(count: int, *, scattered: bool, seed: int = 0) -> np.ndarray:
    """Images of 64 x 64 pixels, each with one red disc anywhere, or with four of different colours at home."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64]
    images = np.full((count, 64, 64, 3), 90.0)
    for image in images:
        centres = rng.integers(7, 57, (1, 2)) if scattered else HOMES + rng.integers(-1, 2, (4, 2))
        for (row, column), colour in zip(centres, COLOURS, strict=False):
            image[(y - row) ** 2 + (x - column) ** 2 < 49] = colour
    return np.clip(images + rng.normal(0, 6, images.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of scattered parts and one of placed parts."""
    folder = tmp_path_factory.mktemp("discs")
    for name in ("scattered", "placed"):
        images = discs(60, scattered=name == "scattered")
        write_images(folder / name / "train" / "good", images)
    wrong = discs(4, scattered=True, seed=1)
    write_images(folder / "scattered" / "test" / "good", wrong)
    wrong[:, 20:40, 20:40] = 255
    write_images(folder / "scattered" / "test" / "hole", wrong)
    return {name: folder / name for name in ("scattered", "placed")}


def setup_of(folder: Path, root: Path, *changes: str) -> Setup:
    recipe = write_recipe(folder / "recipe.yaml", root, *changes)
    return prepare(read_recipe(recipe), Terminal(quiet=True))


@pytest.fixture(scope="module")
def free_run(roots: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, store: str) -> tuple[Path, str]:
    """A finished run on scattered parts, and what it said."""
    folder = tmp_path_factory.mktemp("free run")
    changes = (*SCATTERED, "name=free", "schedule.max_epochs=0", *tracked(store, "positions"))
    recipe = write_recipe(folder / "free.yaml", roots["scattered"], *changes)
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(folder / "runs")])
    assert result.exit_code == 0, result.output
    return folder / "runs" / "free-001", " ".join(result.output.split())


def test_parts_that_lie_anyhow_share_one_gaussian_and_the_run_says_why(
    free_run: tuple[Path, str], store: str
) -> None:
    folder, said = free_run
    summary = json.loads((folder / "summary.json").read_text())
    position = summary["position"]
    assert (position["asked"], position["chosen"]) == ("auto", "free")
    ahead = position["free_vicinal_auroc"] - position["fixed_vicinal_auroc"]
    assert ahead > 2 * position["standard_error"] > 0
    assert "Positions are free: your parts lie in different places" in said
    assert f"{position['fixed_vicinal_auroc']:.3f} with fixed positions" in said
    report = (folder / "report.html").read_text()
    assert "the parts lie in different places" in report
    assert f"{position['free_vicinal_auroc']:.3f} with free ones" in report
    logged = MlflowClient(store).get_run(summary["mlflow_run_id"]).data
    assert logged.tags["position"] == "free"
    for name in ("fixed", "free"):
        expected = pytest.approx(position[f"{name}_vicinal_auroc"], abs=1e-6)
        assert logged.metrics[f"{name}_position/vicinal_auroc"] == expected
    assert "your parts lie in different places" in logged.tags["mlflow.note.content"]


def test_parts_that_are_placed_keep_a_gaussian_at_each_position(roots: dict[str, Path], tmp_path: Path) -> None:
    setup = setup_of(tmp_path, roots["placed"], *PLACED)
    method = METHODS["gaussian"](setup)
    assert method.fit().state_dict()["dense_mean"].dim() == 2
    choice = method.position
    assert choice is not None
    assert choice.position == "fixed"
    assert choice.aurocs["fixed"] > choice.aurocs["free"] + 2 * choice.standard_error


def test_a_recipe_that_says_what_positions_mean_is_not_asked_again(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_ft.run.train.position_of", lambda *_: pytest.fail("chosen all the same"))
    setup = setup_of(tmp_path, roots["placed"], *PLACED, "gaussian.position=free")
    method = METHODS["gaussian"](setup)
    assert method.fit().state_dict()["dense_mean"].dim() == 1
    summary = summarise_position(setup)
    assert (summary.asked, summary.chosen, summary.free_vicinal_auroc) == ("free", "free", None)
    assert "as the recipe says" in position_sentence(summary)


def test_images_on_black_borders_keep_a_gaussian_at_each_position(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_ft.run.train.position_of", lambda *_: pytest.fail("chosen all the same"))
    setup = setup_of(tmp_path, roots["scattered"], *SCATTERED, "data.resize=letterbox")
    method = METHODS["gaussian"](setup)
    assert method.fit().state_dict()["dense_mean"].dim() == 2
    assert "Nothing else fits images that letterbox puts on black" in position_sentence(
        summarise_position(setup)
    )


def test_a_run_that_goes_on_keeps_what_it_chose(
    roots: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomaly_ft.run.train.position_of", lambda *_: pytest.fail("chosen again"))
    choice = PositionChoice("free", {"fixed": 0.7, "free": 0.8}, 0.02)
    remember_position(tmp_path, choice)
    setup = replace(setup_of(tmp_path, roots["placed"], *PLACED), position=remembered_position(tmp_path))
    assert setup.position == choice
    method = METHODS["gaussian"](setup)
    assert method.fit().state_dict()["dense_mean"].dim() == 1
    assert summarise_position(setup).free_vicinal_auroc == 0.8


@pytest.mark.parametrize("text", ["", "{", "{}", '{"position": "sideways", "aurocs": {}, "standard_error": 0}'])
def test_a_choice_that_cannot_be_read_is_made_again(text: str, tmp_path: Path) -> None:
    assert remembered_position(tmp_path) is None
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "position.json").write_text(text)
    assert remembered_position(tmp_path) is None


@pytest.mark.parametrize("form", ["onnx", "pt2", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_detector_without_positions_is_exported_with_parity(
    form: str, free_run: tuple[Path, str], tmp_path: Path
) -> None:
    output = tmp_path / form
    arguments = ["export", str(free_run[0]), "--format", form, "--output", str(output)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    parity = json.loads((output / "parity.json").read_text())
    assert parity["passed"] is True
    assert parity["map"]["max_relative"] <= 1e-3


def test_a_run_older_than_the_setting_is_compared_predicted_and_exported_beside_one_without_positions(
    free_run: tuple[Path, str], small_run: Path, tmp_path: Path
) -> None:
    older = shutil.copytree(small_run, tmp_path / "older-001")
    for name, path in (("summary.json", ("position",)), ("detector.json", ("settings", "position"))):
        whole = json.loads((older / name).read_text())
        part = whole[path[0]] if len(path) > 1 else whole
        del part[path[-1]]
        (older / name).write_text(json.dumps(whole))
    recipe = (older / "recipe.yaml").read_text()
    (older / "recipe.yaml").write_text(recipe.replace("gaussian:\n  position: auto\n", "", 1))
    assert "position" not in (older / "recipe.yaml").read_text()
    compared = CliRunner().invoke(main, ["compare", str(older), str(free_run[0])])
    assert compared.exit_code == 0, compared.output
    root = json.loads((free_run[0] / "summary.json").read_text())["data"]["root"]
    image = next((Path(root) / "test" / "hole").iterdir())
    for run in (older, free_run[0]):
        predicted = CliRunner().invoke(main, ["predict", str(run), str(image)])
        assert predicted.exit_code == 0, predicted.output
        output = tmp_path / f"exported {run.name}"
        exported = CliRunner().invoke(main, ["export", str(run), "--format", "timm", "--output", str(output)])
        assert exported.exit_code == 0, exported.output
        assert json.loads((output / "parity.json").read_text())["passed"] is True


def test_a_run_without_positions_that_was_killed_ends_with_the_same_bits(
    roots: dict[str, Path], tmp_path: Path
) -> None:
    recipe = write_recipe(
        tmp_path / "recipe.yaml", roots["scattered"], *SCATTERED, "name=killed", "tracking.mlflow=false",
        "schedule.max_epochs=2", "expert.schedule.epoch_steps=2", "expert.runtime.checkpoint_minutes=0",
    )  # fmt: skip
    log, ends = tmp_path / "log.txt", []
    for folder, death in (("whole", None), ("cut", {"step": 3})):
        asked = ["train", str(recipe), "--output", str(tmp_path / folder)]
        if death:
            assert lives.run(asked, log, death) == lives.KILLED, log.read_text()
            asked.append("--resume")
        assert lives.run(asked, log) == 0, log.read_text()
        ends.append(tmp_path / folder / "killed-001")
    assert json.loads((ends[1] / "summary.json").read_text())["position"]["chosen"] == "free"
    for name in ("history.jsonl", "detector.safetensors", "encoder/model.safetensors"):
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name
