"""`anomaly-ft predict --resume`, on a run with random weights."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import anomaly_ft.run.prediction_files
from anomaly_ft.cli.main import main
from anomaly_ft.run.prediction_resume import NAME

SCORES = ["score", "pooled_score", "dense_score", "fused_score"]


def call(*arguments: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)], input=given)


@pytest.fixture
def images(mvtec_folder: Path) -> list[Path]:
    return [path for kind in ("hole", "good") for path in sorted((mvtec_folder / "test" / kind).iterdir())]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that are given to the detector."""
    seen: list[str] = []
    real = anomaly_ft.run.prediction_files.predict

    def watched(run: object, paths: Iterator[Path], **rest: object) -> object:
        def passed_on() -> Iterator[Path]:
            for path in paths:
                seen.append(str(path))
                yield path

        return real(run, passed_on(), **rest)

    monkeypatch.setattr(anomaly_ft.run.prediction_files, "predict", watched)
    return seen


def stopped(folder: Path, form: str, count: int) -> None:
    """Leave of a finished folder what a kill would: so many rows, and a part of the next one."""
    path = folder / f"predictions.{form}"
    lines = path.read_bytes().splitlines(keepends=True)
    rows = count + (form == "csv")
    path.write_bytes(b"".join(lines[:rows]) + lines[rows][:9])


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_images_that_have_a_row_are_not_scored_again(
    form: str, count: int, small_run: Path, images: list[Path], scored: list[str], tmp_path: Path
) -> None:
    drawn = ["--maps", "--regions", "--epsilon", 9]
    asked = [small_run, *images, "no.png", "--output", tmp_path, "--format", form, *drawn]
    assert call(*asked).exit_code == 0
    tables = [tmp_path / f"{name}.{form}" for name in ("predictions", "regions")]
    whole = [path.read_text() for path in tables]
    assert whole[1].count("\n") > 1
    stopped(tmp_path, form, count)
    scored.clear()
    result = call(*asked, "--resume")
    assert result.exit_code == 0, result.output
    assert scored == [*map(str, images[count:]), "no.png"]
    assert "11 images" in result.stderr
    for before, path in zip(whole, tables, strict=True):
        read = pd.read_csv if form == "csv" else partial(pd.read_json, lines=True)
        old, new = read(io.StringIO(before)), read(path)
        assert list(old) == list(new)
        pd.testing.assert_frame_equal(old, new, rtol=1e-4)


def test_what_is_finished_is_not_scored_again(
    small_run: Path, images: list[Path], scored: list[str], tmp_path: Path
) -> None:
    call(small_run, *images, "--output", tmp_path)
    before = (tmp_path / "predictions.csv").read_bytes()
    scored.clear()
    result = call(small_run, *images, "--output", tmp_path, "--resume")
    assert (result.exit_code, scored) == (0, [])
    assert (tmp_path / "predictions.csv").read_bytes() == before
    assert "10 images" in result.stderr


def test_more_images_than_before_are_added_and_so_are_those_of_stdin(
    small_run: Path, images: list[Path], scored: list[str], tmp_path: Path
) -> None:
    call(small_run, *images[:4], "--output", tmp_path)
    scored.clear()
    given = "".join(f"{path}\n" for path in images)
    result = call(small_run, "-", "--output", tmp_path, "--resume", given=given)
    assert result.exit_code == 0, result.output
    assert scored == list(map(str, images[4:]))
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == len(images)


def test_without_rows_it_begins(small_run: Path, images: list[Path], tmp_path: Path) -> None:
    assert call(small_run, *images, "--output", tmp_path / "new", "--resume").exit_code == 0
    assert len(pd.read_csv(tmp_path / "new" / "predictions.csv")) == len(images)


def other_run(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder)
    described = json.loads((folder / "detector.json").read_text())
    described["another"] = True
    (folder / "detector.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ("other images", "row 1 of .* is of .*000.png, now comes .*001.png"),
        ("fewer images", "there is no such image any more"),
        ("other detector", "was begun by .* with another"),
        ("maps", "with another maps"),
        ("no record", "predict.json does not say what its rows are of"),
        ("damaged row", r"is damaged at row 2 \(too few columns\)"),
        ("other columns", "its columns are a, b"),
        ("no folder", "--resume needs a folder to write to"),
    ],
)
def test_rows_of_something_else_are_refused_and_stay(
    mistake: str, says: str, small_run: Path, images: list[Path], tmp_path: Path
) -> None:
    out, asked = tmp_path / "out", list(images)
    call(small_run, *images, "--output", out)
    rows = out / "predictions.csv"
    run, more = small_run, ["--output", out]
    if mistake == "other images":
        asked = images[1:]
    elif mistake == "fewer images":
        asked = images[:2]
    elif mistake == "other detector":
        run = other_run(small_run, tmp_path / "other")
    elif mistake == "maps":
        more.append("--maps")
    elif mistake == "no record":
        (out / NAME).write_text("[]")
    elif mistake == "damaged row":
        lines = rows.read_text().splitlines(keepends=True)
        rows.write_text("".join([*lines[:2], "a,b\n", *lines[2:]]))
    elif mistake == "other columns":
        rows.write_text("a,b\n1,2\n")
    elif mistake == "no folder":
        more = []
    before = rows.read_bytes()
    result = call(run, *asked, *more, "--resume")
    assert result.exit_code == 2
    assert len(result.stderr.strip().splitlines()) <= 4
    assert re.search(says, " ".join(result.stderr.split())), result.stderr
    assert rows.read_bytes() == before


def test_a_path_of_two_lines_is_one_row(small_run: Path, images: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "a\nb.png"
    shutil.copy(images[0], odd)
    asked = [small_run, odd, images[1], "--output", tmp_path / "out"]
    call(*asked)
    before = (tmp_path / "out" / "predictions.csv").read_bytes()
    stopped_at = before.rindex(b"\n", 0, -1) + 20
    (tmp_path / "out" / "predictions.csv").write_bytes(before[:stopped_at])
    assert call(*asked, "--resume").exit_code == 0
    table = list(csv.DictReader(io.StringIO((tmp_path / "out" / "predictions.csv").read_text())))
    assert [row["path"] for row in table] == [str(odd), str(images[1])]


def test_a_process_that_was_killed_goes_on(small_run: Path, images: list[Path], tmp_path: Path) -> None:
    """The images come through a pipe, so that the kill falls between two of them."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "anomaly_ft", "predict", str(small_run), "-", "--output", str(out)]
    for i in range(200):
        Image.fromarray(np.full((64, 64, 3), i, np.uint8)).save(tmp_path / f"{i:03d}.png")
    names = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdin
        process.stdin.write("".join(f"{name}\n" for name in names[:150]))
        process.stdin.flush()
        rows = out / "predictions.csv"
        while not rows.exists() or rows.read_text().count("\n") < 2:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
    kept = pd.read_csv(rows.with_name("predictions.csv"), on_bad_lines="skip")["path"].tolist()
    assert 0 < len(kept) <= 150
    result = call(small_run, *names, "--output", out, "--resume")
    assert result.exit_code == 0, result.output
    table = pd.read_csv(rows)
    assert table["path"].tolist() == names
    again = CliRunner().invoke(main, ["predict", str(small_run), *names])
    np.testing.assert_allclose(table[SCORES], pd.read_csv(io.StringIO(again.stdout))[SCORES], rtol=1e-4)
