import json
import logging
import re
import signal
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from anomaly_ft.system.signals import ended_by_signals
from anomaly_ft.tracking.interface import NullTracker
from anomaly_ft.tracking.store import store_of
from anomaly_ft.tracking.tracker import MlflowTracker, TrackedRun, make_tracker


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)


@pytest.fixture
def tracker(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> MlflowTracker:
    """A tracker in an experiment of its own, with artifacts below `tmp_path`."""
    artifacts = (tmp_path / "mlartifacts").as_uri()
    return MlflowTracker(
        store, TrackedRun(f"experiment of {request.node.name}", "some-run-001"), artifacts=artifacts
    )


def logged(tracker: MlflowTracker) -> Run:
    assert tracker.run_id is not None
    return MlflowClient(tracker.uri).get_run(tracker.run_id)


def test_a_run_holds_what_it_was_told(tracker: MlflowTracker, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text("{}")
    (tmp_path / "run" / "encoder").mkdir()
    (tmp_path / "run" / "encoder" / "config.json").write_text("{}")
    (tmp_path / "run" / ".summary.json.new").write_text("{")  # left by a kill
    (tmp_path / "run" / ".encoder.old").mkdir()
    (tmp_path / "run" / ".encoder.old" / "config.json").write_text("{")
    with tracker as inside:
        inside.params({"optimizer.lr": 1e-4, "encoder.levels": [0, "bn2"], "tracking.uri": None})
        inside.tags({"encoder": "resnet18"})
        (tmp_path / "run" / "sums.safetensors").write_text("large")
        inside.artifacts(tmp_path / "run", without={"sums.safetensors"})
        assert logged(tracker).info.status == "RUNNING"
    run = logged(tracker)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "some-run-001"
    assert run.data.params == {"optimizer.lr": "0.0001", "encoder.levels": "[0, 'bn2']", "tracking.uri": "None"}
    assert run.data.tags["encoder"] == "resnet18"
    assert run.data.tags["mlflow.source.name"] == "anomaly-ft"
    client = MlflowClient(tracker.uri)
    listed = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
    assert listed == ["encoder", "summary.json"]
    (inner,) = client.list_artifacts(run.info.run_id, "encoder")
    assert inner.path == "encoder/config.json"
    assert any(tmp_path.glob("mlartifacts/**/summary.json"))


def test_the_step_is_the_epoch_and_zero_the_pretrained_encoder(tracker: MlflowTracker) -> None:
    with tracker:
        for epoch, auroc in enumerate([0.8, 0.84, 0.82]):
            tracker.metrics({"val/vicinal_auroc": auroc, "val/vicinal_auroc.scar": auroc / 2}, epoch)
        tracker.metrics({"best/epoch": 1})
    history = MlflowClient(tracker.uri).get_metric_history(tracker.run_id, "val/vicinal_auroc")
    assert [(point.step, point.value) for point in history] == [(0, 0.8), (1, 0.84), (2, 0.82)]
    assert logged(tracker).data.metrics["best/epoch"] == 1


@pytest.mark.parametrize("source", ["demo:elpv-mono", "/data/bottle", "no such folder", "C:\\parts"])
def test_a_dataset_may_come_from_anywhere(tracker: MlflowTracker, source: str) -> None:
    with tracker:
        tracker.dataset(pd.DataFrame({"image_path": ["a.png"], "label_index": [0]}), source, "some data")
    (linked,) = logged(tracker).inputs.dataset_inputs
    assert json.loads(linked.dataset.source) == {"uri": source}


def test_a_missing_or_infinite_number_is_no_point_on_a_curve(tracker: MlflowTracker) -> None:
    with tracker:
        tracker.metrics({"train/loss": None, "a": float("nan"), "b": float("inf"), "val/vicinal_auroc": 0.5})
    assert logged(tracker).data.metrics == {"val/vicinal_auroc": 0.5}


def test_the_data_is_linked_with_a_digest_of_its_rows(tracker: MlflowTracker) -> None:
    frame = pd.DataFrame({"image_path": ["a.png", "b.png"], "label_index": [0, 1], "split": ["train", "test"]})
    with tracker:
        tracker.dataset(frame, "/data/bottle", "bottle")
        tracker.dataset(frame, "/elsewhere/copy", "copy")
        tracker.dataset(frame.assign(label_index=1), "/data/bottle", "other")
    digests = {linked.dataset.name: linked.dataset.digest for linked in logged(tracker).inputs.dataset_inputs}
    assert digests.keys() == {"bottle", "copy", "other"}
    assert digests["bottle"] == digests["copy"] != digests["other"]


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_crash_is_marked_failed_and_an_interrupt_killed(
    error: type[BaseException], status: str, tracker: MlflowTracker
) -> None:
    with pytest.raises(error), tracker:
        raise error
    assert logged(tracker).info.status == status


def signalled(tracker: MlflowTracker, times: int) -> None:
    """Fail in a run whose closing is disturbed by signals, as torchrun sends one when a process has died."""
    with ended_by_signals(), tracker:
        close = tracker._client.set_terminated

        def disturbed(*args: object) -> None:
            for _ in range(times):
                signal.raise_signal(signal.SIGTERM)
            close(*args)

        tracker._client.set_terminated = disturbed
        raise RuntimeError("connection closed by peer")


def test_a_signal_while_the_end_is_written_does_not_leave_a_run_running(tracker: MlflowTracker) -> None:
    with pytest.raises(RuntimeError, match="connection closed"):
        signalled(tracker, 1)
    assert logged(tracker).info.status == "FAILED"


def test_a_second_signal_ends_even_the_writing_of_the_end(tracker: MlflowTracker) -> None:
    with pytest.raises(KeyboardInterrupt):
        signalled(tracker, 2)


def test_a_second_run_joins_the_experiment(tracker: MlflowTracker, store: str) -> None:
    with tracker:
        pass
    again = MlflowTracker(store, TrackedRun(tracker.run.experiment, "some-run-002"))
    with again:
        pass
    assert logged(again).info.experiment_id == logged(tracker).info.experiment_id
    assert again.run_id != tracker.run_id


@pytest.mark.parametrize(
    "uri", ["sqlite:////proc/no/such/folder/mlflow.db", "nonsense://x", "sqlite:///{tmp}/damaged.db"]
)
def test_a_store_that_does_not_work_is_said_once_and_ends_nothing(uri: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.db").write_text("no database, and long enough to be seen as one that is damaged" * 20)
    address = uri.format(tmp=tmp_path)
    done = False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with MlflowTracker(address, TrackedRun("experiment", "run")) as tracker:
            tracker.params({"a": 1})
            tracker.metrics({"b": 2.0}, 1)
            tracker.tags({"c": "d"})
            tracker.dataset(pd.DataFrame({"a": [1]}), "source", "name")
            tracker.artifacts(tmp_path)
            done = True
    assert done
    assert tracker.run_id is None
    messages = [str(warning.message) for warning in said if "tracking:" in str(warning.message)]
    assert len(messages) == 1
    assert messages[0].startswith(f"tracking: MLflow at {address} failed (")
    assert "training goes on, the run folder will be complete" in messages[0]
    assert messages[0].endswith("anomaly-ft sync RUN uploads what is missing")


def test_trouble_on_the_way_is_said_once_and_the_end_is_still_marked(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ConnectionError("gone")

    with tracker:
        monkeypatch.setattr(tracker._client, "log_batch", broken)
        with pytest.warns(UserWarning, match=r"failed \(ConnectionError: gone\)"):
            tracker.metrics({"a": 1.0})
        tracker.metrics({"b": 1.0})  # a second warning would be an error
        tracker.tags({"c": "d"})
    assert logged(tracker).info.status == "FINISHED"


def test_trouble_with_the_store_hides_no_exception(tmp_path: Path) -> None:
    with (
        pytest.warns(UserWarning, match="tracking: MLflow at nonsense://x failed"),
        pytest.raises(KeyError, match="the real one"),
        MlflowTracker("nonsense://x", TrackedRun("experiment", "run")),
    ):
        raise KeyError("the real one")


def test_the_null_tracker_takes_everything_and_keeps_nothing(tmp_path: Path) -> None:
    made = make_tracker(TrackedRun("e", "n"), enabled=False, uri="sqlite:///x.db", output=tmp_path)
    with made as tracker:
        assert isinstance(tracker, NullTracker)
        tracker.params({"a": 1})
        tracker.tags({"a": "b"})
        tracker.metrics({"a": None}, 3)
        tracker.dataset(pd.DataFrame(), "source", "name")
        tracker.image(np.zeros((2, 2, 3), np.uint8), "a", 0)
        tracker.artifacts(tmp_path)
    assert tracker.run_id is None
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_the_one_named_else_the_environments_else_one_in_the_output_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uri(named: str | None) -> str | None:
        made = make_tracker(TrackedRun("e", "n"), enabled=True, uri=named, output=tmp_path)
        assert isinstance(made, MlflowTracker)
        return made.uri

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert uri("http://named") == "http://named"
    assert uri(None) == "http://environment"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert uri(None) == store_of(tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"


def test_an_image_is_logged_under_its_key_and_step(tracker: MlflowTracker) -> None:
    with tracker:
        for step in range(2):
            tracker.image(np.full((8, 8, 3), 100 * step, np.uint8), "maps/a hole", step)
    paths = [artifact.path for artifact in MlflowClient(tracker.uri).list_artifacts(tracker.run_id, "images")]
    # MLflow 3.10 writes # and % where later ones write ~ and +
    assert {tuple(re.split("[+%]", path.replace("#", "~"))[:3]) for path in paths} == {
        ("images/maps~a hole", "step", str(step)) for step in range(2)
    }


def test_a_new_experiment_gets_its_tags_and_an_old_one_keeps_its_own(store: str, tmp_path: Path) -> None:
    for note in ("first", "second"):
        with MlflowTracker(
            store,
            TrackedRun("tagged", "run", experiment_tags={"mlflow.note.content": note}),
            artifacts=tmp_path.as_uri(),
        ):
            pass
    assert MlflowClient(store).get_experiment_by_name("tagged").tags["mlflow.note.content"] == "first"


def test_the_load_of_the_machine_is_logged_when_asked_for(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with MlflowTracker(
        store, TrackedRun("busy", "run"), artifacts=tmp_path.as_uri(), system_metrics=True
    ) as tracker:
        time.sleep(0.5)
    assert {name.split("/")[0] for name in logged(tracker).data.metrics} == {"system"}
