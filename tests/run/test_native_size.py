"""Images that are no squares and keep their proportions, from training to what is taken away."""

import json
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from PIL import Image
from settings import ONE_AUGMENTATION, textures, tracked, write_images, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.data.images import Decoder
from anomaly_ft.errors import DataError, EncoderError, RecipeError
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.run.begin import write_start
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.resume import refuse_changes
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.sweep import finished
from anomaly_ft.run.train import METHODS

NATIVE = (
    *ONE_AUGMENTATION,
    "data.resize=native",
    "gaussian.position=free",
    "name=strip",
    "variation.flips=0.5",
)


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts of 120 x 60 pixels (width x height), a few a little longer, and defective ones with masks."""
    root = tmp_path_factory.mktemp("strips")
    write_images(root / "train" / "good", textures(24, 120, seed=1)[:, :60])
    write_images(root / "train" / "good", textures(2, 124, seed=9)[:, :61], name="long{:03d}.png")
    write_images(root / "test" / "good", textures(4, 120, seed=2)[:, :60])
    wrong, masks = textures(4, 120, seed=3)[:, :60].copy(), np.zeros((4, 60, 120), np.uint8)
    wrong[:, 20:40, 70:100] = 255
    masks[:, 20:40, 70:100] = 255
    write_images(root / "test" / "hole", wrong)
    write_images(root / "ground_truth" / "hole", masks, name="{:03d}_mask.png")
    return root


@pytest.fixture(scope="module")
def run_of_strips(strips: Path, tmp_path_factory: pytest.TempPathFactory, store: str) -> Path:
    """A finished run on the strips, with free positions."""
    folder = tmp_path_factory.mktemp("runs of strips")
    recipe = write_recipe(folder / "strip.yaml", strips, *NATIVE, *tracked(store, "strips"))
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(folder)])
    assert result.exit_code == 0, result.output
    return folder / "strip-001"


def test_a_run_keeps_the_images_proportions_and_finds_the_hole(run_of_strips: Path) -> None:
    summary = json.loads((run_of_strips / "summary.json").read_text())
    recipe = read_recipe(run_of_strips / "recipe.yaml")
    assert (recipe.data.image_size, recipe.data.resize) == ((48, 96), "native")
    assert summary["test"]["pixel_auroc"] > 0.9, "masks lie where maps do"
    assert json.loads((run_of_strips / "detector.json").read_text())["image_size"] == [48, 96]
    report = (run_of_strips / "report.html").read_text()
    assert "hole" in report


def test_maps_lie_over_images_of_their_own_size(run_of_strips: Path, strips: Path, tmp_path: Path) -> None:
    image = strips / "test" / "hole" / "000.png"
    arguments = ["predict", str(run_of_strips), str(image), "--maps", "--output", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    (raw,) = tmp_path.rglob("*.npy")
    values = np.load(raw)
    assert values.shape == (60, 120)
    assert values[20:40, 70:100].mean() > 1.5 * np.median(values)


def test_an_image_of_other_proportions_is_a_row_that_says_so(run_of_strips: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "new", textures(1, 100, seed=4))
    result = CliRunner().invoke(main, ["predict", str(run_of_strips), str(tmp_path / "new")])
    assert result.exit_code == 2
    assert "100 x 100 pixels do not have the proportions" in " ".join(result.output.split())


def test_the_run_is_measured_again_with_the_same_numbers(run_of_strips: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(run_of_strips), "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (again,) = tmp_path.glob("*/summary.json")
    before = json.loads((run_of_strips / "summary.json").read_text())["test"]
    for name, value in json.loads(again.read_text())["test"].items():
        assert value == pytest.approx(before[name], abs=1e-6), name


@pytest.mark.parametrize("form", ["onnx", pytest.param("pt2", marks=pytest.mark.slow), "timm"])
def test_an_export_takes_what_the_run_takes(form: str, run_of_strips: Path, tmp_path: Path) -> None:
    output = tmp_path / form
    result = CliRunner().invoke(main, ["export", str(run_of_strips), "--format", form, "--output", str(output)])
    assert result.exit_code == 0, result.output
    assert json.loads((output / "parity.json").read_text())["passed"] is True
    readme = (output / "README.md").read_text()
    if form == "timm":
        assert "96 x 48 pixels" in readme
    if form == "onnx":
        assert "image.resize((96, 48)" in readme
        (taken,) = onnxruntime.InferenceSession(output / "detector.onnx").get_inputs()
        assert taken.shape == ["batch", 3, 48, 96]


def test_the_model_in_mlflow_scores_as_predict_does(run_of_strips: Path, strips: Path, store: str) -> None:
    image = strips / "test" / "hole" / "001.png"
    run_id = json.loads((run_of_strips / "summary.json").read_text())["mlflow_run_id"]
    (output,) = MlflowClient(store).get_run(run_id).outputs.model_outputs
    mlflow.set_tracking_uri(store)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    finally:
        mlflow.set_tracking_uri(None)
    (row,) = model.predict(pd.DataFrame({"image": [str(image)]}), params={"map": True}).to_dict("records")
    result = CliRunner().invoke(main, ["predict", str(run_of_strips), str(image)])
    score = float(result.stdout.splitlines()[1].split(",")[1])
    assert row["score"] == pytest.approx(score, rel=1e-4)
    assert np.shape(row["map"]) == (48, 96)


def test_a_run_that_goes_on_has_the_same_size(strips: Path, tmp_path: Path) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "strip.yaml", strips, *NATIVE))
    partial = tmp_path / ".strip-001.partial"
    partial.mkdir()
    write_start(partial, prepare(recipe, Terminal(quiet=True)))
    setup = prepare(recipe, Terminal(quiet=True))
    refuse_changes(partial, setup)
    assert setup.data.test.pixels.shape[1:] == (48, 96, 3)
    assert setup.varied("train").pixels[-1].shape == (48, 96, 3)
    assert any(line.startswith("images   48 x 96 pixels") for line in setup.describe())


def test_a_sweep_takes_a_finished_run_for_finished_and_trains_another_size(
    run_of_strips: Path, strips: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "strip.yaml", strips, *NATIVE))
    found = finished(recipe, run_of_strips.parent)
    assert found is not None
    assert found.folder == run_of_strips
    other = write_recipe(tmp_path / "other.yaml", strips, *NATIVE, "data.image_size=96")
    assert finished(read_recipe(other), run_of_strips.parent) is None


def test_a_run_whose_images_are_gone_is_not_taken_for_finished(
    run_of_strips: Path, strips: Path, tmp_path: Path
) -> None:
    recipe = read_recipe(write_recipe(tmp_path / "strip.yaml", strips, *NATIVE))
    (tmp_path / "empty").mkdir()
    gone = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": str(tmp_path / "empty")})})
    assert finished(gone, run_of_strips.parent) is None


def test_images_of_mixed_proportions_are_refused_in_one_line(strips: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "mixed" / "train" / "good", textures(20, 60, seed=1))
    write_images(tmp_path / "mixed" / "test" / "good", textures(2, 120, seed=2)[:, :60])
    recipe = write_recipe(tmp_path / "mixed.yaml", tmp_path / "mixed", *NATIVE)
    with pytest.raises(DataError, match=r"^data\.resize: native needs images of the same proportions, but "
                       r"\S+ has \d+ x 60 pixels and \S+ has \d+ x 60; set it to letterbox"):  # fmt: skip
        prepare(read_recipe(recipe), Terminal(quiet=True))


def test_height_and_width_may_be_given(strips: Path, tmp_path: Path) -> None:
    changes = (*ONE_AUGMENTATION, "data.image_size=[64, 80]")
    setup = prepare(read_recipe(write_recipe(tmp_path / "r.yaml", strips, *changes)), Terminal(quiet=True))
    assert setup.data.test.pixels.shape[1:] == (64, 80, 3)
    assert setup.encoder.image_size == (64, 80)


def test_free_positions_refuse_black_borders(strips: Path, tmp_path: Path) -> None:
    changes = ("data.resize=letterbox", "gaussian.position=free")
    with pytest.raises(RecipeError, match=r"position: free counts all places alike, so the black border"):
        read_recipe(write_recipe(tmp_path / "r.yaml", strips, *changes))


def test_free_positions_need_a_grid(strips: Path, tmp_path: Path) -> None:
    changes = ("gaussian.position=free", "expert.gaussian.dense_levels=[blocks.4]", "data.image_size=32")
    recipe = write_recipe(tmp_path / "r.yaml", strips, *changes)
    with pytest.raises(EncoderError, match=r"^gaussian\.position: free needs a grid, but blocks\.4 have"):
        METHODS["gaussian"](prepare(read_recipe(recipe), Terminal(quiet=True))).fit()


def test_a_transformer_has_a_grid_of_the_images_shape() -> None:
    encoder = load_encoder("test_vit", "random", image_size=(64, 160))
    assert Decoder(encoder.image_size).nbytes == 64 * 160 * 3
    maps = encoder(torch.zeros(1, 3, 64, 160))
    assert {tuple(level.shape[2:]) for level in maps} == {(4, 10)}


def test_letterbox_leaves_no_padding_and_native_none_at_all(strips: Path) -> None:
    path = strips / "test" / "good" / "000.png"
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB").resize((96, 48), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(Decoder((48, 96), "native")(path), expected)
    boxed = Decoder((64, 64), "letterbox")(path)
    assert boxed[:16].max() == 0
    assert boxed[16:48].min() > 0
