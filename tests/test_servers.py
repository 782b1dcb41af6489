"""Real tracking servers on the loopback: a server with an artifact proxy, on SQLite and on PostgreSQL."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, tracked, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.tracking.store import first_page
from anomaly_ft.tracking.ui_server import free_port

pytestmark = pytest.mark.slow
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # ten processes that no test needs
POSTGRES = [*Path("/usr/lib/postgresql").glob("*/bin"), Path(shutil.which("initdb") or "/nowhere/x").parent]


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL of its own; it refuses to run as root, so it runs as its package's user."""
    pytest.importorskip("psycopg2")
    programs = next((path for path in POSTGRES if (path / "initdb").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    who: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **who}
    data, port = (
        Path(tempfile.mkdtemp()),
        free_port("127.0.0.1", 5480),
    )  # pytest's own folder is closed to others
    if who:
        shutil.chown(data, "postgres")
    subprocess.run([programs / "initdb", "-D", data, "-U", "team", "-A", "trust"], check=True, **quiet)
    with subprocess.Popen([programs / "postgres", "-D", data, "-p", str(port), "-k", data], **quiet) as server:
        try:
            create = [programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "team", "mlflow"]
            until = time.monotonic() + 120
            while subprocess.run(create, check=False, **quiet).returncode:
                assert time.monotonic() < until, "PostgreSQL does not answer"
                time.sleep(0.5)
            yield f"postgresql+psycopg2://team@127.0.0.1:{port}/mlflow"
        finally:
            server.terminate()
    shutil.rmtree(data)


def start_server(backend: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """A tracking server that answers; it leads a group of processes."""
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", backend, "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, start_new_session=True, env=os.environ | LEAN
        )
    until = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
        except OSError:
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            assert time.monotonic() < until, "the server does not answer"
            time.sleep(0.5)
        else:
            return process


@contextmanager
def tracking_server(backend: str, folder: Path) -> Iterator[str]:
    port = free_port("127.0.0.1", 5800)
    process = start_server(backend, folder, port)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 15)
        process.wait(60)


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        with tracking_server(f"sqlite:///{tmp_path / 'server.db'}", tmp_path) as address:
            yield address
    else:
        with postgresql() as backend, tracking_server(backend, tmp_path) as address:
            yield address


def test_a_run_on_a_server_holds_all_that_one_in_a_database_holds(
    server: str, mvtec_folder: Path, tmp_path: Path
) -> None:
    changes = ("name=served", "schedule.max_epochs=2", *ONE_AUGMENTATION, *tracked(server, "served"))
    recipe, output = write_recipe(tmp_path / "tiny.yaml", mvtec_folder, *changes), tmp_path / "runs"
    done = CliRunner().invoke(main, ["train", str(recipe), "--output", str(output), "--json"])
    assert done.exit_code == 0, done.output
    assert "goes on without" not in done.stderr
    summary = json.loads(done.stdout)
    client = MlflowClient(server)
    run = client.get_run(summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:"), "through the proxy"
    assert run.data.metrics["test/image_auroc"] == pytest.approx(summary["test"]["image_auroc"], abs=1e-6)
    curve = client.get_metric_history(run.info.run_id, "val/vicinal_auroc")
    assert [(point.step, point.value) for point in curve] == list(enumerate(summary["vicinal_auroc"]))
    assert run.inputs.dataset_inputs[0].dataset.digest
    folder = output / "served-001"
    (model,) = run.outputs.model_outputs
    location = client.get_logged_model(model.model_id).artifact_location
    local = Path(mlflow.artifacts.download_artifacts(location, tracking_uri=server))
    (weights,) = local.rglob("encoder/model.safetensors")
    assert weights.read_bytes() == (folder / "encoder" / "model.safetensors").read_bytes()
    pictures = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "images")]
    assert {path.split("+")[2] for path in pictures} == {"0", "1", "2"}
    assert not (output / "mlartifacts").exists()
    assert "viewStateShareKey" in first_page(server)

    def rows(name: str) -> list[dict[str, str]]:
        result = CliRunner().invoke(main, ["compare", name, "--store", server, "--format", "csv"])
        assert result.exit_code == 0, result.output
        return list(csv.DictReader(io.StringIO(result.stdout)))

    assert rows(run.info.run_id) == rows(str(folder))
    opened = CliRunner().invoke(main, ["ui", "--store", server, "--no-open"])
    assert opened.stdout.startswith(f"{server}/#/experiments/")
