"""A real MLflow server killed, frozen or slow while a run trains: nothing is lost, nothing arrives twice."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import lives
import pytest
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, tracked, write_recipe
from test_servers import start_server
from test_sync import assert_all_there, sync

from anomaly_ft.tracking.ui_server import free_port

pytestmark = pytest.mark.faults


class Server:
    """A tracking server that can be killed, frozen and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.port, self._folder = free_port("127.0.0.1", 5900), folder
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = start_server(f"sqlite:///{self._folder / 'server.db'}", self._folder, self.port)

    def signal(self, number: int) -> None:
        if self._process:
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        if self._process:
            self._process.wait(60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    with suppress(ProcessLookupError):
        server.kill()


class Life:
    """A run of six epochs that logs to an address."""

    def __init__(self, folder: Path, root: Path, address: str) -> None:
        self._recipe, self._log, self.output = folder / "r.yaml", folder / "log.txt", folder / "runs"
        changes = ["name=tiny", "schedule.max_epochs=6", "expert.schedule.patience=99"]
        changes += ["expert.schedule.margin=99", *ONE_AUGMENTATION, *tracked(address, "faults")]
        write_recipe(self._recipe, root, *changes)

    def start(self, patience: int = 2) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(patience))
            arguments = ["train", str(self._recipe), "--output", str(self.output)]
            self._process = lives.start(arguments, self._log)

    def reach_epoch(self, number: int) -> None:
        history = self.output / ".tiny-001.partial" / "history.jsonl"
        while not (history.is_file() and history.read_text().count("\n") > number):
            assert self._process.is_alive(), self.said()
            time.sleep(0.005)

    def end(self) -> Path:
        self._process.join(300)
        assert self._process.exitcode == 0, self.said()
        assert "Traceback" not in self.said()
        folder = self.output / "tiny-001"
        assert (folder / "history.jsonl").read_text().count("\n") == 7
        return folder

    def said(self) -> str:
        return self._log.read_text()


def assert_one_run(address: str) -> None:
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("faults")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_server_killed_midway_costs_nothing_and_sync_sends_the_rest(
    epoch: int, server: Server, mvtec_folder: Path, tmp_path: Path
) -> None:
    life = Life(tmp_path, mvtec_folder, server.address)
    life.start()
    life.reach_epoch(epoch)
    server.kill()
    folder = life.end()
    assert life.said().count(f"tracking: MLflow at {server.address} failed") == 1
    server.start()
    sync(folder, server.address)
    assert_all_there(folder, server.address)
    assert_one_run(server.address)


@pytest.mark.parametrize("epoch", [-1, 2])
def test_a_server_that_stops_answering_costs_nothing_and_nothing_arrives_twice(
    epoch: int, server: Server, mvtec_folder: Path, tmp_path: Path
) -> None:
    life = Life(tmp_path, mvtec_folder, server.address)
    if epoch < 0:
        server.signal(signal.SIGSTOP)
    life.start()
    life.reach_epoch(max(epoch, 0))
    server.signal(signal.SIGSTOP)
    folder = life.end()
    assert life.said().count(f"tracking: MLflow at {server.address} failed") == 1
    server.signal(signal.SIGCONT)  # it now does what had been asked of it
    time.sleep(5)
    sync(folder, server.address)
    assert_all_there(folder, server.address)
    if epoch >= 0:  # else it also makes the run that was given up
        assert_one_run(server.address)


def test_a_slow_server_gets_everything(server: Server, mvtec_folder: Path, tmp_path: Path) -> None:
    with slowed(server.port, seconds=0.05) as address:
        life = Life(tmp_path, mvtec_folder, address)
        life.start(patience=20)
        folder = life.end()
    assert "failed" not in life.said()
    assert_all_there(folder, server.address)
    assert_one_run(server.address)


class slowed:  # noqa: N801 - it reads like a function
    """The address of a server in front of that at `port` that keeps everything it is sent for a while."""

    def __init__(self, port: int, seconds: float) -> None:
        self._port, self._seconds = port, seconds
        self._door = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> str:
        self._porter = threading.Thread(target=self._take)
        self._porter.start()
        return f"http://127.0.0.1:{self._door.getsockname()[1]}"

    def __exit__(self, *error: object) -> None:
        self._door.shutdown(socket.SHUT_RDWR)  # ends accept
        self._porter.join()
        self._door.close()

    def _take(self) -> None:
        with suppress(OSError), ThreadPoolExecutor(64) as guests:
            while True:
                guests.submit(self._serve, self._door.accept()[0])

    def _serve(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            back = threading.Thread(target=_carry, args=(far, near, 0.0))
            back.start()
            _carry(near, far, self._seconds)
            back.join()


def _carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            time.sleep(seconds)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
