"""`anomaly-ft evaluate` on a run with random weights."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient
from PIL import Image
from settings import textures, write_images
from sklearn.metrics import roc_auc_score

from anomaly_ft.cli.main import main
from anomaly_ft.data import images
from anomaly_ft.run.by_condition import condition_metrics


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
    assert found["thresholds"] == trained["thresholds"] | {"decided_by": ""}, "training alone knows it"


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


def test_a_folder_of_good_images_alone_says_how_many_false_alarms_there_are(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(mvtec_folder / "test" / "good", tmp_path / "march")
    result = call(small_run, "--data", root, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    observed, promise = found["test_threshold"]["observed"], found["thresholds"]["guaranteed_fpr"]
    assert observed["images"] == found["data"]["test_normal"] == 6
    rate, low, high = (f"{100 * observed[name]:.1f} %" for name in ("rate", "low", "high"))
    line = (
        f"{observed['rejected']} of 6 good images rejected ({rate}; 95 % interval {low} to {high}), promised "
        f"at most {100 * promise:.1f} %"
    )
    assert found["notices"][0].startswith(line)
    assert line in result.stderr
    assert f"{observed['low']:.4f} to {observed['high']:.4f}" in result.stderr
    page = (tmp_path / "out" / "small-001-evaluation-001" / "report.html").read_text()
    assert line in page


def test_images_that_the_run_was_made_from_are_said(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    month = tmp_path / "month"
    write_images(month, textures(3, 64, 9))
    said = call(small_run, "--data", month, "--output", tmp_path / "out")
    assert said.exit_code == 0, said.output
    assert "was fitted to" not in said.stderr
    for name in ("000", "001"):
        shutil.copyfile(mvtec_folder / "train" / "good" / f"{name}.png", month / f"again {name}.png")
    said = call(small_run, "--data", month, "--output", tmp_path / "out")
    assert said.exit_code == 0, said.output
    assert "2 of 5 images are images that the run was fitted to or its threshold was set with" in said.stderr
    assert "such as again 000.png" in said.stderr


def test_far_more_rejected_good_images_than_promised_are_said(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    for k in range(5):  # white squares that somebody calls good
        shutil.copytree(mvtec_folder / "test" / "hole", tmp_path / "march" / f"week{k}")
    result = call(small_run, "--data", tmp_path / "march", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "20 of 20 good images rejected where at most " in result.stderr


def cameras(mvtec_folder: Path, folder: Path) -> Path:
    """The set with half of the images of each kind from one camera and half from the other."""
    root = shutil.copytree(mvtec_folder, folder)
    for kind in (root / "train" / "good", root / "test" / "good", root / "test" / "hole"):
        for i, path in enumerate(sorted(kind.glob("*.png"))):
            (kind / f"cam{i % 2}").mkdir(exist_ok=True)
            path.rename(kind / f"cam{i % 2}" / path.name)
    return root


@pytest.mark.parametrize("by", ["folder", r"(cam\d)/"])
def test_each_condition_has_a_row_in_summary_table_report_and_terminal(
    by: str, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    root = cameras(mvtec_folder, tmp_path / "two")
    result = call(small_run, "--data", root, "--output", tmp_path / "out", "--by", by, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["by"] == by
    assert [(row["condition"], row["normal"], row["anomalous"]) for row in found["conditions"]] == [
        ("cam0", 3, 2), ("cam1", 3, 2)
    ]  # fmt: skip
    folder = tmp_path / "out" / "small-001-evaluation-001"
    images = pd.read_csv(folder / "predictions.csv")
    for row in found["conditions"]:
        own = images[images["condition"] == row["condition"]]
        assert row["image_auroc"] == pytest.approx(roc_auc_score(own["label"], own["score"]))
        good = own[own["label"] == 0]
        assert row["false_alarms"]["rejected"] == (good["decision"] == "anomalous").sum()
        assert row["frozen"] is None
    table = pd.read_csv(folder / "conditions.csv")
    assert table["image_auroc"].tolist() == pytest.approx([row["image_auroc"] for row in found["conditions"]])
    assert "cam1" in (folder / "report.html").read_text()
    assert "cam1" in result.stderr
    assert "the frozen detector is not at hand for other images than the run's own" in result.stderr
    assert "schedule.max_epochs=0" in result.stderr


def test_the_frozen_detector_stands_beside_on_the_runs_own_test_images(small_run: Path, tmp_path: Path) -> None:
    result = call(small_run, "--output", tmp_path / "out", "--by", r"test/good/(\d)|test", "--json")
    assert result.exit_code == 2, "holes match without a group"
    result = call(small_run, "--output", tmp_path / "out", "--by", r"^(test)/|^train", "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout.splitlines()[-1])["conditions"]
    trained = pd.read_csv(small_run / "predictions.csv")
    frozen = json.loads((small_run / "summary.json").read_text())["frozen_test"]
    assert row["frozen"]["image_auroc"] == pytest.approx(frozen["image_auroc"])
    rejected = trained["frozen_decision"] == "anomalous"
    assert row["frozen"]["found"]["rejected"] == rejected[trained["label"] == 1].sum()
    assert row["frozen"]["false_alarms"]["rejected"] == rejected[trained["label"] == 0].sum()
    assert "not at hand" not in result.stderr


def test_a_run_without_the_frozen_detectors_word_says_so(small_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(small_run, tmp_path / "old-001")
    table = pd.read_csv(run / "predictions.csv").drop(columns=["frozen_score", "frozen_decision"])
    table.to_csv(run / "predictions.csv", index=False)
    result = call(run, "--by", "^(test)|^train")
    assert result.exit_code == 0, result.output
    assert "the frozen detector is not at hand in this run's predictions.csv" in result.stderr


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("camera", "--by: 'camera' is no column of the manifest"),
        ("folder", "no folder below that of its kind holds 10 of 10 test images"),
        ("(train|test)/", "no test images of train"),
        ("cam(", "is no regular expression with a"),
    ],
)
def test_conditions_that_are_not_there_end_with_two(
    by: str, message: str, small_run: Path, tmp_path: Path
) -> None:
    result = call(small_run, "--output", tmp_path / "out", "--by", by)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_condition_whose_images_are_damaged_ends_with_two(
    small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    root = cameras(mvtec_folder, tmp_path / "two")
    for path in root.glob("test/*/cam1/*.png"):
        path.write_bytes(b"no image")
    result = call(small_run, "--data", root, "--output", tmp_path / "out", "--by", "folder")
    assert result.exit_code == 2
    assert "not one image of cam1 can be read" in result.stderr


def test_conditions_that_mlflow_would_call_alike_keep_their_numbers_apart() -> None:
    names = ["cam:1", "cam/1", "cam_1_2", "cam,1", "x" * 120, "x" * 110]
    rows = [
        {"condition": name, "normal": 1, "anomalous": 1, "image_auroc": k / 10, "frozen": None}
        for k, name in enumerate(names)
    ]
    metrics = {name: value for of_one in condition_metrics(rows) for name, value in of_one.items()}
    known = {name: value for name, value in metrics.items() if name.endswith(".image_auroc")}
    assert list(known.values()) == [k / 10 for k in range(6)]
    assert known["condition/cam_1.image_auroc"] == 0
    assert known["condition/cam_1_2.image_auroc"] == 0.1
    assert all(re.fullmatch(r"[\w.\- /]{,250}", name) for name in metrics)


def test_conditions_are_metrics_in_mlflow(
    store: str, small_run: Path, mvtec_folder: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(small_run, tmp_path / "measured-002")
    CliRunner().invoke(main, ["sync", str(run), "--store", store])
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["tracking"] |= {"uri": store}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    root = cameras(mvtec_folder, tmp_path / "two")
    for path in sorted(root.glob("test/*/cam1")):
        path.rename(path.with_name("cam,1é"))
    shutil.rmtree(root / "train" / "good" / "cam1")
    done = call(run, "--data", root, "--by", "folder", "--mlflow", "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout.splitlines()[-1])["conditions"]
    client = MlflowClient(store)
    (below,) = client.search_runs(
        [client.get_experiment_by_name(recipe["tracking"]["experiment"]).experiment_id],
        "attributes.run_name = 'measured-002-evaluation-001'",
    )
    for row, name in zip(rows, ("cam,1é", "cam0"), strict=True):
        assert row["condition"] == name
        logged = {key: value for key, value in below.data.metrics.items() if key.startswith("condition/")}
        key = f"condition/{name.replace(',', '_')}.image_auroc"
        assert logged[key] == pytest.approx(row["image_auroc"])
