"""Whether `predict` and `evaluate` say that today's images are not those the detector knows."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.errors import RunError
from anomaly_ft.run.today import ImageWatch, read_appearance


def call(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)], input=given)


def darkened(source: Path, folder: Path) -> Path:
    """The images of a folder in a third of their light."""
    folder.mkdir(parents=True)
    for path in sorted(source.glob("*.png")):
        Image.fromarray((np.asarray(Image.open(path)) // 3).astype(np.uint8)).save(folder / path.name)
    return folder


@pytest.fixture
def dark(mvtec_folder: Path, tmp_path: Path) -> Path:
    return darkened(mvtec_folder / "train" / "good", tmp_path / "dark")


@pytest.fixture
def watchful(small_run: Path, tmp_path: Path) -> Path:
    """The run as if it had been calibrated on many images: five can hardly tell what is unusual."""
    folder = shutil.copytree(small_run, tmp_path / "watchful-001")
    described = json.loads((folder / "detector.json").read_text())
    described["appearance"] |= {"errors": 3.5, "images": 100}
    (folder / "detector.json").write_text(json.dumps(described))
    return folder


def forgetful(run: Path, folder: Path) -> Path:
    """The run as an older version left it."""
    shutil.copytree(run, folder)
    described = json.loads((folder / "detector.json").read_text())
    del described["appearance"]
    (folder / "detector.json").write_text(json.dumps(described))
    return folder


def test_a_run_keeps_how_its_calibration_images_look(small_run: Path) -> None:
    known = read_appearance(small_run)
    assert known is not None
    assert known.images == json.loads((small_run / "summary.json").read_text())["data"]["calibration"]
    assert 60 < known.low["brightness"] <= known.high["brightness"] < 200


def test_darker_images_are_said_to_be_darker_on_stderr_and_change_no_row(
    watchful: Path, small_run: Path, dark: Path, tmp_path: Path
) -> None:
    said = call("predict", watchful, dark)
    assert re.search(r"these 24 images are darker \(by \d+\.\d spreads\)", said.stderr)
    assert "the threshold may not hold; check lamp and exposure" in said.stderr
    assert said.exit_code == 0
    silent = call("predict", forgetful(small_run, tmp_path / "old-001"), dark)
    assert "darker" not in silent.stderr
    assert said.stdout == silent.stdout


def test_images_as_before_are_not_remarked_upon(watchful: Path, mvtec_folder: Path) -> None:
    assert "than those the detector knows" not in call("predict", watchful, mvtec_folder / "train").stderr


def test_paths_on_stdin_are_watched_too(watchful: Path, dark: Path) -> None:
    given = "".join(f"{path}\n" for path in dark.iterdir())
    assert "these 24 images are darker" in call("predict", watchful, "-", given=given).stderr


def test_a_remark_changes_no_exit_code(watchful: Path, dark: Path, tmp_path: Path, small_run: Path) -> None:
    remembered = call("predict", watchful, dark, "--fail-on-anomaly")
    forgotten = call("predict", forgetful(small_run, tmp_path / "old-001"), dark, "--fail-on-anomaly")
    assert remembered.exit_code == forgotten.exit_code


def test_a_run_of_an_older_version_says_once_that_it_cannot_tell(
    small_run: Path, dark: Path, tmp_path: Path
) -> None:
    result = call("predict", forgetful(small_run, tmp_path / "old-001"), dark)
    assert result.exit_code == 0
    assert result.stderr.count("this run keeps no record of how its images look") == 1


def test_far_more_rejected_images_than_promised_are_said(small_run: Path, mvtec_folder: Path) -> None:
    result = call("predict", small_run, *[mvtec_folder / "test" / "hole"] * 5)
    rejected = sum(row["decision"] == "anomalous" for row in csv.DictReader(io.StringIO(result.stdout)))
    assert rejected == 20, "white squares are anomalies"
    assert "20 of 20 images rejected where at most " in result.stderr


def test_unreadable_images_are_neither_looked_at_nor_counted(
    watchful: Path, dark: Path, tmp_path: Path
) -> None:
    (dark / "broken.png").write_bytes(b"no image")
    assert "these 24 images are darker" in call("predict", watchful, dark).stderr
    alone = tmp_path / "alone.png"
    alone.write_bytes(b"no image")
    assert "note:" not in call("predict", watchful, alone).stderr


@pytest.mark.parametrize("stored", [3, {"images": 5}, {"low": None}])
def test_a_damaged_record_is_refused(stored: object, small_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(small_run, tmp_path / "damaged-001")
    described = json.loads((folder / "detector.json").read_text())
    (folder / "detector.json").write_text(json.dumps(described | {"appearance": stored}))
    with pytest.raises(RunError, match="no usable appearance"):
        ImageWatch(folder)


def test_an_evaluation_says_and_writes_down_that_images_differ(
    watchful: Path, dark: Path, tmp_path: Path
) -> None:
    result = call("evaluate", watchful, "--data", dark, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert "these 24 good images are darker" in result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["appearance"]["differs"][0] == "brightness"
    assert found["appearance"]["spreads"]["brightness"] < -found["appearance"]["limit"]
    assert any("darker" in notice for notice in found["notices"])
    page = (tmp_path / "out" / "watchful-001-evaluation-001" / "report.html").read_text()
    assert "these 24 good images are darker" in page


def test_an_evaluation_looks_at_good_images_where_it_knows_them(
    watchful: Path, mvtec_folder: Path, tmp_path
) -> None:
    result = call("evaluate", watchful, "--output", tmp_path / "out", "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["appearance"]["images"] == 6


def test_an_evaluation_of_an_older_run_cannot_tell(small_run: Path, dark: Path, tmp_path: Path) -> None:
    old = forgetful(small_run, tmp_path / "old-001")
    result = call("evaluate", old, "--data", dark, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert "this run keeps no record of how its images look" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["appearance"] is None
