"""What leaves this machine: nothing that nobody named, and with --offline nothing at all."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.errors import EncoderError, OfflineError
from anomaly_ft.model.encoder.weights import load_pretrained
from anomaly_ft.system.offline import no_network

FAR = ("192.0.2.1", 80)  # a documentation address: nobody is there


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection(FAR, 1),
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", FAR),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
        lambda: socket.gethostbyname("example.org"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed")
def test_offline_lets_no_socket_out(reach: object) -> None:
    assert callable(reach)
    with no_network(), pytest.raises(OfflineError, match=r"--offline: \S+ may not be reached"):
        reach()


def test_offline_reaches_this_machine_and_ends_when_it_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with no_network():
            socket.create_connection(server.getsockname(), 1).close()
            assert socket.getaddrinfo("localhost", 80)
            assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert "HF_HUB_OFFLINE" not in os.environ
        with pytest.raises(OSError, match=r".+"):  # not an OfflineError: it is the network that refuses
            socket.create_connection(("127.0.0.1", 9), 0.2)


def test_offline_the_hub_is_not_asked_and_other_ways_are_named() -> None:
    began = time.monotonic()
    with no_network(), pytest.raises(EncoderError, match="could not fetch 'resnet10t' from the hub") as caught:
        load_pretrained("resnet10t", "hub", 64)
    assert "without a network use encoder.weights: FILE" in str(caught.value)
    assert time.monotonic() - began < 10


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anomaly_ft.model.encoder.weights.constants.ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(EncoderError, match="could not fetch 'resnet10t' from the hub"):
        load_pretrained("resnet10t", "hub", 64)
    assert time.monotonic() - began < 10


OFFLINE = ("name=tiny", "tracking.mlflow=true", *ONE_AUGMENTATION)
WITNESS = """
import sys
def hook(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        print("NETWORK", event, arguments[-1] if event == "socket.connect" else arguments[0], file=sys.stderr)
sys.addaudithook(hook)
from anomaly_ft.cli.main import main
main()
"""


def test_a_whole_run_with_its_own_mlflow_database_asks_nobody(mvtec_folder: Path, tmp_path: Path) -> None:
    """In a process of its own whose every connection is seen, without --offline."""
    write_recipe(tmp_path / "r.yaml", mvtec_folder, *OFFLINE)
    command = [sys.executable, "-c", WITNESS, "train", "r.yaml", "--output", "runs"]
    names = (
        "MLFLOW_DISABLE_TELEMETRY",
        "NO_ALBUMENTATIONS_UPDATE",
        "CI",
        "PYTEST_CURRENT_TEST",
        "DO_NOT_TRACK",
    )
    bare = {key: value for key, value in os.environ.items() if key not in names}
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, cwd=tmp_path, env=bare | {"PYTHONPATH": root}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert (tmp_path / "runs" / "mlflow.db").is_file()


def test_offline_is_an_option_of_every_command() -> None:
    for name in main.commands:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0
        assert "--offline" in result.output, name


def test_offline_a_remote_store_is_not_asked_and_the_run_is_complete(
    mvtec_folder: Path, tmp_path: Path
) -> None:
    write_recipe(tmp_path / "r.yaml", mvtec_folder, *OFFLINE)
    options = ["-s", "tracking.uri=http://192.0.2.1:5000", "--output", str(tmp_path / "runs"), "--offline"]
    with pytest.warns(UserWarning, match=r"tracking: MLflow at http://192.0.2.1:5000 failed .*--offline"):
        result = CliRunner().invoke(main, ["train", str(tmp_path / "r.yaml"), *options])
    assert result.exit_code == 0, result.output
    summary = json.loads((tmp_path / "runs" / "tiny-001" / "summary.json").read_text())
    assert summary["mlflow_run_id"] is None


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        for connection in held:
            connection.close()
        server.shutdown(socket.SHUT_RDWR)
