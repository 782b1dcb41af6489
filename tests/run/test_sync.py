"""MLflow that is down, dies or does not answer: the run ends, and `anomaly-ft sync` sends what was missed."""

import json
import re
import warnings
from pathlib import Path

import lives
import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, tracked, write_recipe
from test_offline import silent_server  # noqa: F401

import anomaly_ft.tracking.retry_queue
from anomaly_ft.cli.main import main
from anomaly_ft.tracking.tracker import MlflowTracker, TrackedRun


def train(tmp_path: Path, root: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A run folder, and what was said, of a run whose store is `store`."""
    log, changes = tmp_path / "log.txt", ("name=tiny", *ONE_AUGMENTATION, *tracked(store, tmp_path.name))
    recipe = write_recipe(tmp_path / "r.yaml", root, *changes)
    code = lives.run(["train", str(recipe), "--output", str(tmp_path / "runs")], log)
    assert code == 0, log.read_text()
    return tmp_path / "runs" / "tiny-001", log.read_text()


def sync(folder: Path, store: str) -> str:
    result = CliRunner().invoke(main, ["sync", str(folder), "--store", store])
    assert result.exit_code == 0, result.output
    return result.output


def assert_all_there(folder: Path, store: str) -> None:
    """Every number of the run folder is in the store, once."""
    summary = json.loads((folder / "summary.json").read_text())
    client = MlflowClient(store)
    run = client.get_run(summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == folder.name
    assert run.data.params["encoder.name"] == "test_efficientnet"
    assert run.data.tags["git.commit"] == summary["git_commit"]
    assert run.data.metrics["test/image_auroc"] == pytest.approx(summary["test"]["image_auroc"], abs=1e-6)
    assert len(run.inputs.dataset_inputs) == 1
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for key in ("val/vicinal_auroc", "train/loss"):
        points = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, key)]
        assert points == [(line["epoch"], line[key]) for line in lines if line[key] is not None]
    assert "report.html" in {artifact.path for artifact in client.list_artifacts(run.info.run_id)}


def test_a_server_that_is_down_from_the_start_costs_nothing_and_sync_sends_all(
    mvtec_folder: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said = train(tmp_path, mvtec_folder, "http://127.0.0.1:9", monkeypatch)
    assert said.count("tracking: MLflow at http://127.0.0.1:9 failed") == 1
    assert "anomaly-ft sync RUN uploads what is missing" in said
    first = sync(folder, store)
    assert_all_there(folder, store)
    run_id = json.loads((folder / "summary.json").read_text())["mlflow_run_id"]
    assert f"tiny-001 is complete as run {run_id} in {store}" in first
    assert sync(folder, store) == first, "a second time sends nothing and makes no run"
    assert_all_there(folder, store)


@pytest.mark.faults
def test_a_server_that_never_answers_ends_nothing(
    mvtec_folder: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    silent_server: str,  # noqa: F811
) -> None:  # fmt: skip
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    folder, said = train(tmp_path, mvtec_folder, silent_server, monkeypatch)
    assert said.count(f"tracking: MLflow at {silent_server} failed") == 1
    sync(folder, store)
    assert_all_there(folder, store)


def test_sync_to_a_store_that_is_down_says_so(small_run: Path) -> None:
    result = CliRunner().invoke(main, ["sync", str(small_run), "--store", "sqlite:////proc/none/mlflow.db"])
    assert result.exit_code == 2
    assert re.search(
        r"MLflow at sqlite:////proc/none/mlflow.db failed .*the same command sends the rest", result.stderr
    )
    assert json.loads((small_run / "summary.json").read_text())["mlflow_run_id"] is None


def test_what_a_library_warns_of_is_not_taken_for_the_trouble(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(tracker: MlflowTracker) -> None:
        warnings.warn("a library's old way", FutureWarning, stacklevel=1)
        raise ConnectionError("gone")

    monkeypatch.setattr(MlflowTracker, "_start", start)
    with pytest.warns(FutureWarning, match="a library's old way"):
        result = CliRunner().invoke(main, ["sync", str(small_run), "--store", "http://127.0.0.1:9"])
    assert result.exit_code == 2
    assert "small-001: tracking: MLflow at http://127.0.0.1:9 failed (ConnectionError: gone); " in result.stderr
    assert "old way" not in result.stderr


@pytest.mark.parametrize("what", ["empty", "unfinished", "damaged"])
def test_sync_refuses_what_is_no_finished_run(what: str, tmp_path: Path) -> None:
    if what != "empty":
        (tmp_path / "recipe.yaml").write_text("data: {root: x}")
    if what == "damaged":
        (tmp_path / "summary.json").write_text("[]")
    result = CliRunner().invoke(main, ["sync", str(tmp_path)])
    assert result.exit_code == 2
    assert re.search("is not a finished run|cannot be read as a run", result.stderr)


def test_what_a_store_missed_is_sent_when_it_is_back_in_order_and_once(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anomaly_ft.tracking.retry_queue, "PAUSE", 0.0)
    tracker = MlflowTracker(store, TrackedRun(tmp_path.name, "run"), artifacts=tmp_path.as_uri())
    with tracker:
        tracker.metrics({"a": 1.0}, 0)
        with monkeypatch.context() as patch:

            def gone(*arguments: object, **named: object) -> None:
                raise ConnectionError("gone")

            patch.setattr(tracker._client, "log_batch", gone)
            with pytest.warns(UserWarning, match="ConnectionError: gone"):
                tracker.metrics({"a": 2.0}, 1)
            tracker.params({"late": 1})
        tracker._queue._again_at = 0.0  # the pause is over
        tracker.metrics({"a": 3.0}, 2)
    assert tracker.complete
    client = MlflowClient(store)
    points = client.get_metric_history(tracker.run_id, "a")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert client.get_run(tracker.run_id).data.params == {"late": "1"}


def test_a_run_gone_on_with_gets_no_point_and_no_parameter_twice(store: str, tmp_path: Path) -> None:
    first = MlflowTracker(store, TrackedRun(tmp_path.name, "run"), artifacts=tmp_path.as_uri())
    frame = pd.DataFrame({"image_path": ["a.png"], "label_index": [0]})
    with first:
        first.params({"lr": 1})
        first.metrics({"a": 1.0}, 0)
        first.dataset(frame, "x", "x")
    again = MlflowTracker(store, TrackedRun(tmp_path.name, "run", first.run_id), artifacts=tmp_path.as_uri())
    with again:
        assert again.run_id == first.run_id
        assert MlflowClient(store).get_run(first.run_id).info.status == "RUNNING"
        again.params({"lr": 2, "new": 3})
        for step, value in enumerate((1.0, 2.0)):
            again.metrics({"a": value}, step)
        again.dataset(frame.assign(label_index=1), "x", "x")
    run = MlflowClient(store).get_run(first.run_id)
    points = MlflowClient(store).get_metric_history(first.run_id, "a")
    assert [(point.step, point.value) for point in points] == [(0, 1.0), (1, 2.0)]
    assert run.data.params == {"lr": "1", "new": "3"}
    assert len(run.inputs.dataset_inputs) == 1
    assert run.info.status == "FINISHED"


def test_a_run_that_another_store_does_not_know_is_made_there(store: str, tmp_path: Path) -> None:
    tracker = MlflowTracker(store, TrackedRun(tmp_path.name, "run", "f" * 32), artifacts=tmp_path.as_uri())
    with tracker:
        tracker.params({"lr": 1})
    assert tracker.run_id not in (None, "f" * 32)
    assert MlflowClient(store).get_run(tracker.run_id).data.params == {"lr": "1"}


def test_a_clock_that_jumps_back_moves_no_point_into_the_past(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([2e9, 1e9, 1e9, 1e9, 1e9, 1e9])
    tracker = MlflowTracker(store, TrackedRun(tmp_path.name, "run"), artifacts=tmp_path.as_uri())
    with tracker:
        monkeypatch.setattr("anomaly_ft.tracking.tracker.time.time", lambda: next(clock))
        for step in range(3):
            tracker.metrics({"a": float(step)}, step)
        monkeypatch.undo()
    points = MlflowClient(store).get_metric_history(tracker.run_id, "a")
    assert [point.timestamp for point in points] == [2_000_000_000_000] * 3
    assert MlflowClient(store).get_run(tracker.run_id).data.metrics["a"] == 2.0
