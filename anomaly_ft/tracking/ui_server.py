"""MLflow's user interface on a store, as a process of its own that ends with the command."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from anomaly_ft.errors import RunError
from anomaly_ft.system.addresses import without_password
from anomaly_ft.tracking.store import database_file

PORTS = 50  # tried from the one asked for on
PATIENCE = 300.0  # seconds until the server must answer; on a busy machine it takes a minute
LAST_LINES = 5


@contextmanager
def serve(store: str, *, host: str, port: int) -> Iterator[str]:
    """Start `mlflow ui` and wait until it answers; yields its address, stops it afterwards.

    Raises:
        RunError: no such database, no free port, or a server that ends or never answers.
    """
    path = database_file(store)
    if path and not path.is_file():
        raise RunError(
            f"there is no MLflow database at {path}; name the output folder of your runs (--output DIR) "
            "or the server they were logged to (--store URI)"
        )
    free = free_port(host, port)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", host, "--port", str(free), "--workers", "1"]
    quiet = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    quiet |= {"MLFLOW_BACKEND_STORE_URI": store}  # everyone may see a command line, and the password in it
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=quiet, cwd=folder, start_new_session=True
        )
        try:
            address = f"http://{host}:{free}"
            _await(address, process)
            yield address
        except _EndedError as cause:
            log.seek(0)
            last_lines = log.read().decode(errors="replace").strip().splitlines()[-LAST_LINES:]
            trouble = "\n  ".join([f"mlflow ui on {store} {cause}", *last_lines])
            raise RunError(without_password(trouble)) from None
        finally:
            _stop(process)


class _EndedError(Exception):
    """The server is not there to answer."""


def free_port(host: str, port: int) -> int:
    """Find the port asked for, or the next one that nobody listens on.

    Raises:
        RunError: a host that is not this machine's, or no free port among the next ones.
    """
    for candidate in range(port, min(port + PORTS, 2**16)):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, candidate))
            except OSError as cause:
                why = cause
            else:
                return candidate
    raise RunError(f"no server can listen on {host}, port {port} or any of the {PORTS} after it: {why}")


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if process.poll() is not None:
            raise _EndedError(f"ended with code {process.returncode}:")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise _EndedError(f"did not answer within {PATIENCE:.0f} seconds:")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all processes it has started."""
    for stop in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, stop)
            process.wait(10)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
