import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient

from anomaly_ft.cli.main import main
from anomaly_ft.errors import RunError
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.store import first_page
from anomaly_ft.tracking.tracker import MlflowTracker, TrackedRun
from anomaly_ft.tracking.ui_server import free_port, serve


def test_without_a_database_nothing_is_started(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["ui", "--output", str(tmp_path), "--no-open"])
    assert result.exit_code == 2
    assert f"there is no MLflow database at {tmp_path / 'mlflow.db'}" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_stepped_over() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 50


def test_a_host_that_is_not_this_machines_is_refused() -> None:
    with pytest.raises(RunError, match=r"no server can listen on 192\.0\.2\.1"):
        free_port("192.0.2.1", 5000)


@pytest.mark.slow
def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"mlflow ui on nonsense://x ended with code"),
        serve("nonsense://x", host="127.0.0.1", port=5500),
    ):
        pytest.fail("there is nothing to look at")


def test_the_experiment_worked_on_last_is_opened_in_its_view(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    for name in ("older", "newer"):
        with MlflowTracker(
            store, TrackedRun(name, "run", experiment_tags=experiment_tags()), artifacts=tmp_path.as_uri()
        ):
            pass
    newer = client.get_experiment_by_name("newer")
    assert newer is not None
    client.set_experiment_tag(newer.experiment_id, "touched", "last of ours")
    other = client.create_experiment("somebody else's", artifact_location=tmp_path.as_uri())
    client.set_experiment_tag(other, "touched", "last of all")
    page = first_page(store)
    assert page.startswith(f"/#/experiments/{newer.experiment_id}/runs?")
    assert "viewStateShareKey=anomaly-ft" in page


def test_a_page_of_a_store_that_is_not_there_is_an_error_and_makes_none(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no"):
        first_page(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ui_serves_the_store_until_it_is_told_to_end(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with MlflowTracker(
        store, TrackedRun("e", "r", experiment_tags=experiment_tags()), artifacts=tmp_path.as_uri()
    ):
        pass
    command = [
        sys.executable,
        "-m",
        "anomaly_ft",
        "ui",
        "--output",
        str(tmp_path),
        "--no-open",
        "--port",
        "5600",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        page = process.stdout.readline().strip()
        assert page.endswith("viewStateShareKey=anomaly-ft")
        address = page.split("/#")[0]
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert answer.read() == b"OK"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/health")
    running = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running
