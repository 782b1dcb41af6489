import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, tracked, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.run.compare import Row, compare
from anomaly_ft.run.console import Terminal, show_table


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def row(name: str, **settings: str) -> Row:
    metrics = {"gain/image_auroc": 0.01234, "test/image_auroc": 0.9, "frozen/image_auroc": None}
    return Row(name, {"name": name, "seed": "0", **settings}, metrics, [0.8, 0.9], "kept epoch 1 of 1")


@pytest.fixture(scope="module")
def runs(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small run, and a copy of it with another learning rate that lost at once."""
    folder = tmp_path_factory.mktemp("several runs")
    shutil.copytree(small_run, folder / "small-001")
    other = shutil.copytree(small_run, folder / "small-002")
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    recipe["optimizer"]["lr"] = 0.5
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    summary = json.loads((other / "summary.json").read_text())
    falling = sorted(summary["vicinal_auroc"], reverse=True)
    summary |= {"best_epoch": 0, "stop_reason": "forgetting", "vicinal_auroc": falling}
    (other / "summary.json").write_text(json.dumps(summary))
    shutil.copytree(small_run, folder / ".small-003.partial")
    return folder


def test_only_settings_that_differ_are_shown() -> None:
    found = compare([row("a", lr="1", epochs="3"), row("b", lr="2", epochs="3")])
    assert found.headings == (
        "run", "lr", "fine-tuned image AUROC", "gain in image AUROC", "vicinal AUROC", "verdict"
    )  # fmt: skip
    assert found.rows[0] == ("a", "1", "0.9000", "+0.0123", "▁█", "kept epoch 1 of 1")
    assert [line[:2] for line in found.rows] == [("a", "1"), ("b", "2")]


def test_a_setting_that_one_run_does_not_have_differs() -> None:
    found = compare([row("a"), row("b", new="x")])
    assert [line[:2] for line in found.rows] == [("a", ""), ("b", "x")]


def test_what_is_long_is_cut_at_its_beginning_for_people_alone() -> None:
    rows = [row("a", root="/very" * 20 + "/bottle"), row("b", root="other")]
    assert compare(rows).rows[0][1].startswith("…")
    assert compare(rows).rows[0][1].endswith("/bottle")
    assert compare(rows, exact=True).rows[0][1] == "/very" * 20 + "/bottle"


def test_markdown_is_a_table_whose_cells_hide_no_bar() -> None:
    lines = compare([row("a", x="1|2"), row("b", x="3")]).markdown().splitlines()
    assert lines[1] == "|" + " --- |" * 6
    assert "1\\|2" in lines[2]


def test_runs_are_read_from_their_folders(runs: Path) -> None:
    result = run(str(runs / "small-002"), str(runs / "small-001"), "--format", "csv")
    assert result.exit_code == 0, result.output
    second, first = csv.DictReader(io.StringIO(result.stdout))
    summary = json.loads((runs / "small-001" / "summary.json").read_text())
    assert (first["run"], second["run"]) == ("small-001", "small-002")
    assert (first["optimizer.lr"], second["optimizer.lr"]) == ("0.0003", "0.5")
    assert float(first["test/image_auroc"]) == summary["test"]["image_auroc"]
    assert [float(v) for v in first["val/vicinal_auroc"].split()] == summary["vicinal_auroc"]
    assert second["verdict"] == "forgot after epoch 0 of 1, kept pretrained"
    assert "seed" not in first


def test_a_folder_of_runs_stands_for_its_finished_ones(runs: Path) -> None:
    result = run(str(runs))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines if line.strip().startswith("small")] == ["small-001", "small-002"]
    assert "lr" in lines[0] + lines[1]
    assert "data.root" not in result.stdout


def test_mlflow_gives_the_same_row_as_the_folder(store: str, mvtec_folder: Path, tmp_path: Path) -> None:
    changes = ("name=tracked", "expert.tracking.images=0", *ONE_AUGMENTATION, *tracked(store, "compared"))
    recipe = write_recipe(tmp_path / "tiny.yaml", mvtec_folder, *changes)
    done = CliRunner().invoke(main, ["train", str(recipe), "--output", str(tmp_path / "runs"), "--json"])
    assert done.exit_code == 0, done.output
    run_id = json.loads(done.stdout)["mlflow_run_id"]
    from_folder, from_mlflow = (
        list(csv.DictReader(io.StringIO(run(name, "--store", store, "--format", "csv").stdout)))
        for name in (str(tmp_path / "runs"), run_id)
    )
    assert from_mlflow == from_folder
    assert from_folder[0]["run"] == "tracked-001"

    client = MlflowClient(store)
    experiment = client.get_run(run_id).info.experiment_id
    parent = client.create_run(experiment, run_name="sweep").info.run_id
    client.set_tag(run_id, "mlflow.parentRunId", parent)
    children = csv.DictReader(io.StringIO(run(parent, "--store", store, "--format", "csv").stdout))
    assert [child["run"] for child in children] == ["tracked-001"], "a parent stands for its children"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no-such-run", "no-such-run"),
        ("empty", "neither a finished run nor a folder of finished runs"),
        ("half", "half is not a finished run: summary.json, history.jsonl, detector.json, "),
        ("other", "is not a finished run: no usable summary.json (name: Field required; "),
    ],
)
def test_what_is_no_run_is_said(name: str, said: str, store: str, small_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "half").mkdir()
    shutil.copy(small_run / "recipe.yaml", tmp_path / "half")
    shutil.copytree(small_run, tmp_path / "other")
    (tmp_path / "other" / "summary.json").write_text("{}")
    result = run(str(tmp_path / name), "--store", store)
    assert result.exit_code == 2, result.output
    assert said in result.stderr


def test_a_store_that_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    result = run("0123456789abcdef0123456789abcdef", "--output", str(tmp_path))
    assert result.exit_code == 2
    assert f"there is no {tmp_path / 'mlflow.db'}" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("columns", "first"), [(300, "bottle-001"), (100, "optimizer.lr"), (20, "bottle-001")])
def test_no_cell_is_cut_however_narrow_the_terminal(
    columns: int, first: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    numbers = {f"number {i}": f"0.12345{i}" for i in range(9)}
    cells = {"optimizer.lr": "0.0003", **numbers, "verdict": "epoch 5 of 6"}
    show_table(["run", *cells], [["bottle-001", *cells.values()], ["bottle-002", *cells.values()]])
    printed = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    lines = [line.split() for line in printed.splitlines() if line.strip()]
    words = [word for line in lines for word in line]
    assert words.count("0.123458") == words.count("bottle-001") * 2 == 2
    assert lines[2][0] == first


def test_a_table_in_a_log_file_has_every_cell_whole(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"category": "kolektor", **{f"number {i}": f"+0.12345{i}" for i in range(12)}}
    Terminal().table("image AUROC, mean ± sd over seeds", [row])
    printed = "".join(capsys.readouterr())
    assert "image AUROC, mean ± sd over seeds\n" in printed
    assert all(f" {value} " in printed for value in row.values())
