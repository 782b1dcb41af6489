"""A finished run leaves its folder and MLflow."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from settings import ONE_AUGMENTATION, tracked, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.run.folder import locked_run
from anomaly_ft.run.open import open_summary


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_run, tmp_path / "runs" / "small-001")


def delete(run: Path, *options: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, ["delete", str(run), *options], input=answer)


def test_a_run_goes_where_somebody_says_yes_and_stays_otherwise(run: Path) -> None:
    for answer in ("n\n", ""):
        result = delete(run, answer=answer)
        assert result.exit_code == 2
        assert "nothing was deleted" in result.output
        assert run.is_dir()
    with locked_run(run):
        assert "another command is changing this run" in delete(run, "--yes").output
    result = delete(run, answer="y\n")
    assert result.exit_code == 0, result.output
    assert f"deleted {run}" in result.output
    assert [path for path in run.parent.iterdir() if path.is_dir()] == []
    result = delete(run, "--yes")
    assert result.exit_code == 2
    assert "not a finished run" in result.output


def test_what_the_registry_needs_stays_and_the_rest_goes_from_mlflow_too(
    mvtec_folder: Path, tmp_path: Path, store: str
) -> None:
    from mlflow import MlflowClient

    changes = ("name=gone", "schedule.max_epochs=0", *ONE_AUGMENTATION, *tracked(store, "deleted"))
    recipe = write_recipe(tmp_path / "gone.yaml", mvtec_folder, *changes)
    result = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path / "runs")])
    assert result.exit_code == 0, result.output
    run = tmp_path / "runs" / "gone-001"
    run_id = open_summary(run).mlflow_run_id
    assert run_id is not None
    assert CliRunner().invoke(main, ["promote", str(run), "--name", "going", "--store", store]).exit_code == 0
    result = delete(run, "--yes")
    assert result.exit_code == 2
    assert "version 1 of going in MLflow's registry is its detector" in result.output
    client = MlflowClient(store)
    assert client.get_run(run_id).info.lifecycle_stage == "active"
    client.delete_model_version("going", "1")
    assert "name the MLflow store" in delete(run, "--yes", "--store", "sqlite:///nowhere.db").output
    result = delete(run, "--yes")
    assert result.exit_code == 0, result.output
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"
    assert not run.exists()
