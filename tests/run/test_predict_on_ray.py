"""`anomaly-ft predict --engine ray`, on a run with random weights."""

import io
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import anomaly_ft.run.predict_on_ray
from anomaly_ft.cli.main import main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


@pytest.fixture
def ray_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers give way to all else on a machine; beside other work they would not be done in time."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")


def test_an_address_is_for_ray(small_run: Path, mvtec_folder: Path) -> None:
    result = call(small_run, mvtec_folder, "--address", "auto")
    assert result.exit_code == 2
    assert "add --engine ray" in result.stderr


def test_without_ray_the_way_to_get_it_is_named(
    small_run: Path, mvtec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    result = call(small_run, mvtec_folder / "test", "--engine", "ray")
    assert result.exit_code == 2
    assert "pip install ray" in result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("ray_workers")
def test_workers_find_what_one_process_finds_in_the_order_of_the_paths(
    small_run: Path, mvtec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anomaly_ft.run.predict_on_ray, "PIECE", 2)
    monkeypatch.chdir(mvtec_folder)
    images = [*sorted(Path("test").rglob("*.png")), Path("no.png")]
    here = call(small_run, *images)
    there = call(small_run, *images, "--engine", "ray", "--output", tmp_path, "--maps")
    assert there.exit_code == 0, there.output
    old, new = pd.read_csv(io.StringIO(here.stdout)), pd.read_csv(tmp_path / "predictions.csv")
    assert new["path"].tolist() == list(map(str, images))
    assert new["decision"].fillna("-").tolist() == old["decision"].fillna("-").tolist()
    np.testing.assert_allclose(new["score"], old["score"], rtol=1e-4)
    assert new["error"].tolist()[-1] == "file does not exist"
    assert len(list((tmp_path / "maps").glob("*.png"))) == len(images) - 1
    notes = [line for line in here.stderr.splitlines() if line.startswith("note")]
    assert [line for line in there.stderr.splitlines() if line.startswith("note")] == notes


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.usefixtures("ray_workers")
def test_a_worker_that_dies_leaves_rows_that_can_be_gone_on_with(
    small_run: Path, mvtec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = sorted((mvtec_folder / "test").rglob("*.png"))
    real = anomaly_ft.run.predict_on_ray.Worker

    class Mortal(real):  # type: ignore[misc, valid-type]
        def score(self, paths: list[Path], maps: bool) -> Any:
            if images[5] in paths:
                time.sleep(1)  # its answers to what came before are on their way
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(paths, maps)

    monkeypatch.setattr(anomaly_ft.run.predict_on_ray, "PIECE", 2)
    asked = partial(call, small_run, *images, "--output", tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(anomaly_ft.run.predict_on_ray, "Worker", Mortal)
        result = asked("--engine", "ray")
    assert result.exit_code == 2
    assert "a worker died" in result.stderr, result.stderr
    assert len(pd.read_csv(tmp_path / "predictions.csv")) == 4
    assert asked("--engine", "ray", "--resume").exit_code == 0
    assert pd.read_csv(tmp_path / "predictions.csv")["path"].tolist() == list(map(str, images))
