"""What `data` and `init` say of a folder's parts, and the sheet that they draw."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from parts import shots
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.data.checks.pose import turn
from anomaly_ft.data.checks.samples import evenly, grey_thumbnails, sample_pixels
from anomaly_ft.data.deep_values import Limits
from anomaly_ft.data.records import Record
from anomaly_ft.data.variation import CHANGES
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.variation import PRESETS, VariationSection
from anomaly_ft.run.advice import limits


def fill(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")


def turned(picture, rng):
    return turn(picture, rng.uniform(-180, 180))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Turned parts to train with; upright ones to test with, which are not to be looked at."""
    fill(tmp_path / "set/train/good", shots(turned, count=14))
    fill(tmp_path / "set/test/good", shots(lambda picture, rng: picture, count=3))
    fill(tmp_path / "set/test/hole", shots(lambda picture, rng: picture[:, ::-1], count=3))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "set"


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def one_line(done):
    """The message of a command that was asked for something that cannot be done."""
    assert done.exit_code == 2, done.output
    messages = [line for line in done.stderr.splitlines() if line.startswith("error") or "Error" in line]
    assert "Traceback" not in done.stderr
    return messages[-1] if messages else done.stderr.strip().splitlines()[-1]


def test_data_proposes_from_good_training_images_alone(root):
    before = run("data", root).stdout
    assert "varies    camera with rotation 180" in before
    proposal = json.loads(run("data", root, "--json").stdout)["variation"]
    assert proposal["strengths"]["rotation"] == 180
    assert "match best when turned" in proposal["why"]["rotation"]
    for folder in ("good", "hole"):
        for i, image in enumerate(shots(lambda picture, rng: 255 - picture, count=3)):
            Image.fromarray(image).save(root / "test" / folder / f"{i:03d}.png")
    assert json.loads(run("data", root, "--json").stdout)["variation"] == proposal


def test_init_writes_the_proposal_with_its_reasons_and_the_warning(root):
    done = run("init", root)
    assert done.exit_code == 0, done.output
    text = Path("set.yaml").read_text()
    recipe = read_recipe(Path("set.yaml"))
    assert recipe.variation.strengths() == PRESETS["camera"] | {"rotation": 180.0}
    assert "match best when turned, at angles of all kinds\n  rotation: 180" in text
    words = " ".join(text.replace("#", " ").split())
    assert "the detector will no longer see: with brightness a faded print, with focus a blurred seal" in words
    assert "Look at set-variation.png: are all of these good parts?" in words
    with Image.open("set-variation.png") as sheet:
        assert sheet.width > 7 * 224


def test_the_warning_stands_where_nothing_is_proposed_too(tmp_path, monkeypatch):
    fill(tmp_path / "still", shots(lambda picture, rng: picture, count=10))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("init", tmp_path / "still").exit_code == 0
    text = Path("still.yaml").read_text()
    assert "the detector will no longer see" in text
    assert "one fixed pose" in text
    assert read_recipe(Path("still.yaml")).variation == VariationSection()


def test_a_sheet_that_is_there_is_not_replaced_unless_forced(root):
    Path("set-variation.png").write_text("mine")
    assert "set-variation.png exists" in run("init", root).stderr
    assert Path("set-variation.png").read_text() == "mine"
    assert not Path("set.yaml").exists()
    assert run("init", root, "--force").exit_code == 0
    with Image.open("set-variation.png") as sheet:
        sheet.verify()


def test_init_among_the_images_draws_no_sheet_that_would_be_taken_for_one(tmp_path, monkeypatch):
    fill(tmp_path / "plain", shots(lambda picture, rng: picture, count=10))
    monkeypatch.chdir(tmp_path / "plain")
    done = run("init", ".")
    assert done.exit_code == 0, done.output
    assert "no sheet was drawn among your images" in done.stderr
    assert len(list(Path().glob("*.png"))) == 10
    assert "variation.png" not in Path("plain.yaml").read_text()


def test_data_draws_a_sheet_on_request(root):
    assert run("data", root, "--sheet", "sheet.png").exit_code == 0
    with Image.open("sheet.png") as sheet:
        assert (sheet.width, sheet.height) > (7 * 224, 8 * 224)


@pytest.mark.parametrize("name", ["nowhere/sheet.png", "sheet.txt", "sheet.psd", "sheet", "sheet.hdf"])
def test_a_sheet_that_cannot_be_written_is_said_in_one_line(root, name):
    message = one_line(run("data", root, "--sheet", name))
    assert f"{name}: the sheet cannot be written" in message


def test_a_sheet_among_the_images_is_refused(root):
    message = one_line(run("data", root, "--sheet", root / "train/good/sheet.png"))
    assert "would be taken for an image; name another folder" in message
    assert not (root / "train/good/sheet.png").exists()


def test_a_recipe_that_cannot_be_written_leaves_no_sheet(root, monkeypatch):
    def full(path, text):
        raise OSError("no space left")

    monkeypatch.setattr("anomaly_ft.system.files.write_text", full)
    assert "set.yaml: cannot be written: no space left" in one_line(run("init", root))
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", [["data", "--sheet", "sheet.png"], ["init"]])
def test_without_a_good_image_there_is_no_sheet(root, command):
    for path in (root / "train/good").iterdir():
        path.write_bytes(b"no image")
    message = one_line(run(*command, root))
    assert "has no good training image that can be read" in message
    assert list(Path().iterdir()) == []


def test_few_images_get_no_proposal(tmp_path):
    fill(tmp_path / "few", shots(turned, count=7))
    assert "fewer than 8 good training images" in run("data", tmp_path / "few").stdout


def test_limits_are_those_of_the_recipe():
    assert limits().keys() == CHANGES.keys()
    for name, (low, high) in limits().items():
        assert VariationSection(**{name: low, "preset": "none"}).strengths().get(name, 0) == low
        assert VariationSection(**{name: high}).strengths()[name] == high
        for beyond in (low - 0.01, high + 0.01):
            with pytest.raises(ValueError, match=name):
                VariationSection(**{name: beyond})


def test_samples_are_spread_evenly_and_leave_out_what_cannot_be_read(tmp_path):
    fill(tmp_path / "a", np.stack([np.full((30, 60), 10 * i, np.uint8) for i in range(11)]))
    (tmp_path / "a/005.png").write_bytes(b"no image")
    records = [Record(tmp_path, f"a/{i:03d}.png", "train") for i in range(11)]
    chosen = evenly(records, 5)
    assert [record.name for record in chosen] == [f"a/{i:03d}.png" for i in (0, 2, 5, 8, 10)]
    thumbnails = grey_thumbnails(chosen)
    assert thumbnails.shape == (4, 64, 128)
    assert thumbnails[:, 0, 0].tolist() == [0, 20, 80, 100]
    assert sample_pixels(chosen, 32).shape == (4, 32, 32, 3)
    assert evenly([], 5) == []
    assert len(grey_thumbnails([])) == len(sample_pixels([], 32)) == 0


def test_deep_images_are_looked_at_between_their_limits(tmp_path):
    values = np.full((16, 16), 1000, np.uint16)
    values[8:] = 3000
    fill(tmp_path / "deep", values[None])
    record = Record(tmp_path, "deep/000.png", "train")
    seen = grey_thumbnails([record], Limits(1000, 3000, floating=False, lost=0))[0]
    assert (seen.min(), seen.max()) == (0, 255)


def test_the_page_has_the_strengths_of_the_preset():
    page = Path(__file__).parents[2] / "docs" / "variation.md"
    rows = re.findall(r"^\| (`.*?) \| .*? \| ([\d., ]+|off) \| .* \|$", page.read_text(encoding="utf-8"), re.M)
    documented = {}
    for names, strengths in rows:
        found = re.findall(r"\w+", names)
        values = [0.0] * len(found) if strengths == "off" else [float(s) for s in strengths.split(", ")]
        documented |= dict(zip(found, values, strict=True))
    assert documented == {name: PRESETS["camera"].get(name, 0) for name in CHANGES}
