"""`anomaly-ft predict --regions`, on a run with random weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from anomaly_ft.cli.main import main
from anomaly_ft.evaluation.pictures import REGION
from anomaly_ft.evaluation.regions import find_regions, place
from anomaly_ft.run.open import open_run
from anomaly_ft.run.predict import predict
from anomaly_ft.run.region_rows import COLUMNS, allow


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def changed(run: Path, folder: Path, change: Mapping[str, Any]) -> Path:
    """A copy of the run whose detector.json says something else; None takes a key out."""
    shutil.copytree(run, folder)
    described = json.loads((folder / "detector.json").read_text()) | change
    kept = {key: value for key, value in described.items() if value is not None}
    (folder / "detector.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_regions_lie_beside_the_predictions_and_on_the_maps(
    form: str, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    images = sorted((mvtec_folder / "test" / "hole").iterdir())
    place_of = ["--output", tmp_path / "out", "--format", form]
    result = call(small_run, *images, "no.png", *place_of, "--maps", "--regions", "--epsilon", 3)
    assert result.exit_code == 0, result.output
    path = tmp_path / "out" / f"regions.{form}"
    rows = pd.read_csv(path) if form == "csv" else pd.read_json(path, lines=True)
    run = open_run(small_run)[1]  # computes as the command does
    allowed, expected = allow(run, 3), []
    for number, prediction in enumerate(predict(run, images, maps=True)):
        drawn = np.asarray(Image.open(tmp_path / "out" / "maps" / f"{number:06d}-{number:03d}.png"))
        regions = find_regions(prediction.map, allowed.chance, 3)
        assert bool(regions) == (drawn == REGION).all(2).any()
        for region in regions:
            placed = place(region, 64, 64, run.decoder)
            box = placed.left, placed.top, placed.right, placed.bottom
            expected.append((prediction.path, region.nfa, *box, placed.area, region.highest))
    assert len(expected) > 0
    assert tuple(rows.columns) == COLUMNS
    assert rows["path"].tolist() == [row[0] for row in expected]
    np.testing.assert_allclose(rows.iloc[:, 1:], [row[1:] for row in expected], rtol=1e-3)
    assert (rows["nfa"] <= 3).all()


def test_regions_leave_predictions_as_they_are_and_need_no_maps(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    for name, more in (("plain", []), ("with", ["--regions"])):
        assert call(small_run, mvtec_folder / "test", "--output", tmp_path / name, *more).exit_code == 0
    same = [(tmp_path / name / "predictions.csv").read_text() for name in ("plain", "with")]
    assert same[0] == same[1]
    assert {path.name for path in (tmp_path / "with").iterdir()} == {
        "predict.json",
        "predictions.csv",
        "regions.csv",
    }
    assert (pd.read_csv(tmp_path / "with" / "regions.csv")["nfa"] <= 0.1).all(), "by default"


def test_fewer_alarms_than_images_can_show_are_said_to_be_extrapolated(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    images = mvtec_folder / "test" / "good"
    count = json.loads((small_run / "summary.json").read_text())["data"]["calibration"]
    rare, usual = (
        call(small_run, images, "--output", tmp_path, "--regions", "--epsilon", epsilon)
        for epsilon in (0.01, 1)
    )
    assert f"--epsilon 0.01 is extrapolated: {count} held-out images show no fewer" in rare.stderr
    assert "extrapolated" not in usual.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--regions"], "--regions needs a folder to write to"),
        (["--epsilon", "1", "--output", "out"], "--epsilon is of --regions"),
        (["--regions", "--output", "out", "--epsilon", "0"], "--epsilon 0: expected false alarms an image"),
        (["--regions", "--output", "out", "--epsilon", "-1"], "--epsilon -1: expected"),
        (["--regions", "--output", "out", "--epsilon", "nan"], "--epsilon nan: expected"),
        (["--regions", "--output", "out", "--epsilon", "inf"], "--epsilon inf: expected"),
    ],
)
def test_no_alarms_at_all_and_no_folder_are_refused(
    options: list[str], message: str, small_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(small_run, "no.png", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_runs_without_distances_at_positions_or_without_what_is_known_are_refused(
    small_run: Path, tmp_path: Path
) -> None:
    described = json.loads((small_run / "detector.json").read_text())
    pooled = {"settings": described["settings"] | {"score": "pooled"}}
    changes = {
        "has no map of distances at single places": pooled,
        "keeps nothing of chance in maps of good images": {"chance": None},
        "detector.json has no usable chance": {"chance": {"positions": 3}},
    }
    for number, (message, change) in enumerate(changes.items()):
        folder = changed(small_run, tmp_path / f"run-{number:03d}", change)
        result = call(folder, "no.png", "--regions", "--output", tmp_path / "out")
        assert result.exit_code == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_where_regions_cannot_be_written_it_says_so(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "regions.csv").mkdir()
    result = call(small_run, mvtec_folder / "test" / "good", "--output", tmp_path, "--regions")
    assert result.exit_code == 2
    assert "regions.csv cannot be written" in result.stderr
