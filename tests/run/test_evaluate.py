"""`anomaly-ft evaluate` on a run with random weights."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient
from PIL import Image
from sklearn.metrics import roc_auc_score

from anomaly_ft.cli.main import main
from anomaly_ft.data import images


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def digest(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_measuring_again_gives_the_same_numbers_in_a_folder_of_its_own(small_run: Path, tmp_path: Path) -> None:
    before = digest(small_run)
    result = call(small_run, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert digest(small_run) == before
    folder = tmp_path / "out" / "small-001-evaluation-001"
    assert {p.name for p in folder.iterdir()} == {
        "recipe.yaml", "summary.json", "predictions.csv", "report.html"
    }  # fmt: skip
    found = json.loads((folder / "summary.json").read_text())
    assert json.loads(result.stdout.splitlines()[-1]) == found
    trained = json.loads((small_run / "summary.json").read_text())
    for name, value in trained["test"].items():
        assert found["test"][name] == pytest.approx(value, abs=1e-6), name
    assert found["test_by_kind"] == trained["test_by_kind"]
    assert found["thresholds"] == trained["thresholds"]


def test_other_data_are_measured_with_the_threshold_of_the_run(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "other"
    shutil.copytree(mvtec_folder, root)
    shutil.rmtree(root / "ground_truth")
    shutil.copytree(root / "test" / "hole", root / "test" / "crack")
    (root / "test" / "hole" / "000.png").write_bytes(b"no image")
    result = call(small_run, "--data", root, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "small-001-evaluation-001"
    found = json.loads((folder / "summary.json").read_text())
    assert [(row["kind"], row["images"]) for row in found["test_by_kind"]] == [
        ("good", 6), ("crack", 4), ("hole", 3)
    ]  # fmt: skip
    assert found["test"]["pixel_auroc"] is None
    assert [Path(item["path"]).name for item in found["data"]["skipped"]] == ["000.png"]
    table = pd.read_csv(folder / "predictions.csv")
    assert found["test"]["image_auroc"] == pytest.approx(roc_auc_score(table["label"], table["score"]))
    above = table["score"] > found["thresholds"]["threshold"]
    assert (above == (table["decision"] == "anomalous")).all()
    observed = found["test_threshold"]["observed"]
    assert observed["rejected"] == int((above & (table["label"] == 0)).sum())
    assert observed["low"] <= observed["rate"] <= observed["high"]


def test_normal_images_alone_still_show_the_observed_rate(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    root = tmp_path / "calm"
    shutil.copytree(mvtec_folder / "train", root / "train")
    shutil.copytree(mvtec_folder / "test" / "good", root / "test" / "good")
    assert call(small_run, "--data", root, "--output", tmp_path / "out").exit_code == 0
    found = json.loads((tmp_path / "out" / "small-001-evaluation-001" / "summary.json").read_text())
    assert found["test"]["image_auroc"] is None
    assert found["test_intervals"] == {}
    assert found["test_threshold"]["observed"]["images"] == 6


def test_data_that_moved_are_asked_for(small_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    recipe = (folder / "recipe.yaml").read_text()
    line = next(line for line in recipe.splitlines() if line.startswith("  root:"))
    (folder / "recipe.yaml").write_text(recipe.replace(line, "  root: moved/away"))
    result = call(folder)
    assert result.exit_code == 2
    assert "moved/away" in result.stderr


def test_without_labelled_images_nothing_is_measured(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(mvtec_folder / "train", tmp_path / "normal" / "train")
    result = call(small_run, "--data", tmp_path / "normal", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "there are no labelled test images to measure on" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    result = call(tmp_path)
    assert result.exit_code == 2
    assert "is not a finished run" in result.stderr


def test_pixel_numbers_need_no_square_images(small_run: Path, mvtec_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "wide"
    shutil.copytree(mvtec_folder, root)
    for path in [*root.glob("test/*/*.png"), *root.glob("ground_truth/*/*.png")]:
        Image.open(path).resize((100, 40), Image.Resampling.NEAREST).save(path)
    empty = root / "ground_truth" / "hole" / "001_mask.png"
    Image.fromarray(np.zeros((40, 100), np.uint8)).save(empty)
    assert call(small_run, "--data", root, "--output", tmp_path / "out").exit_code == 0
    found = json.loads((tmp_path / "out" / "small-001-evaluation-001" / "summary.json").read_text())
    assert 0 <= found["test"]["pixel_aupro"] <= 1
    assert found["test_masks"]["with_mask"] == 3
    assert found["test_masks"]["empty_masks"] == 1


def test_measuring_reads_images_from_the_cache_as_training_does(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(small_run, tmp_path / "run")
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["runtime"] |= {"cache": "disk"}
    recipe["expert"]["runtime"] |= {"cache_dir": str(tmp_path / "cache")}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    first = call(run, "--json")
    assert first.exit_code == 0, first.output
    decoded = []
    monkeypatch.setattr(images, "read_image", lambda *_: decoded.append(1))
    second = call(run, "--json")
    assert second.exit_code == 0, second.output
    assert decoded == []
    assert (
        json.loads(second.stdout.splitlines()[-1])["test"] == json.loads(first.stdout.splitlines()[-1])["test"]
    )


def test_an_evaluation_is_a_run_below_the_one_it_measures(store: str, small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "measured-001")
    sent = CliRunner().invoke(main, ["sync", str(run), "--store", store])
    assert sent.exit_code == 0, sent.output
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["tracking"] |= {"uri": store}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = call(run, "--mlflow", "--json")
    assert done.exit_code == 0, done.output
    found, measured = json.loads(done.stdout.splitlines()[-1]), json.loads((run / "summary.json").read_text())
    client = MlflowClient(store)
    (below,) = client.search_runs(
        [client.get_experiment_by_name(recipe["tracking"]["experiment"]).experiment_id],
        f"tags.`mlflow.parentRunId` = '{measured['mlflow_run_id']}'",
    )
    assert below.info.run_name == "measured-001-evaluation-001"
    assert below.info.status == "FINISHED"
    assert below.data.metrics["test/image_auroc"] == found["test"]["image_auroc"]
    compared = CliRunner().invoke(
        main, ["compare", measured["mlflow_run_id"], "--store", store, "--format", "csv"]
    )
    assert "measured-001" in compared.output
    assert "evaluation" not in compared.output


def test_an_evaluation_of_a_run_that_mlflow_does_not_know_says_how_it_learns_of_it(
    small_run: Path, tmp_path: Path
) -> None:
    result = call(small_run, "--output", tmp_path / "out", "--mlflow")
    assert result.exit_code == 2
    assert f"{small_run} is no run in MLflow; anomaly-ft sync {small_run} makes it one" in result.stderr
    assert not (tmp_path / "out").exists()
