"""Addresses of MLflow stores: passwords open servers and are seen nowhere; any path makes a database."""

import base64
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import lives
import pytest
from click.testing import CliRunner
from mlflow.tracking import MlflowClient
from settings import ONE_AUGMENTATION, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.errors import RunError
from anomaly_ft.tracking import store as stores
from anomaly_ft.tracking.model_registry import register_model
from anomaly_ft.tracking.retry_queue import NotSent
from anomaly_ft.tracking.store import (
    choose_store,
    database_file,
    first_page,
    read_logged,
    sqlite_address,
    store_of,
)
from anomaly_ft.tracking.ui_server import serve

ODD = ["feature%2Fx", "50%25", "100%", "what?", "a#b", "with space & ü=1"]


class Doorkeeper(HTTPServer):
    """Notes who wants in, and lets nobody in."""

    seen: list[str | None]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def saw(self, user: str, password: str) -> bool:
        return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" in self.seen


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Doorkeeper]:
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.seen.append(self.headers.get("Authorization"))
            self.send_response(403)
            self.end_headers()

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Doorkeeper(("127.0.0.1", 0), Refuses) as server:
        server.seen = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def everything_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    yield from ((path, path.read_bytes()) for path in folder.rglob("*") if path.is_file())


def test_a_password_is_used_and_neither_shown_nor_kept(
    mvtec_folder: Path, tmp_path: Path, door: Doorkeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("name=tiny", "tracking.mlflow=true", *ONE_AUGMENTATION)
    write_recipe(tmp_path / "r.yaml", mvtec_folder, *changes)
    command = ["train", str(tmp_path / "r.yaml"), "--output", str(tmp_path / "runs")]
    address = f"http://ann:s3cret@{door.host}"
    dry = CliRunner().invoke(main, [*command, "-s", f"tracking.uri={address}", "--dry-run"])
    assert "s3cret" not in dry.output
    assert f"uri: http://{door.host}" in dry.output
    with pytest.warns(NotSent, match=f"MLflow at http://{door.host} failed") as warned:
        result = CliRunner().invoke(main, [*command, "-s", f"tracking.uri={address}"])
    assert result.exit_code == 0, result.output
    assert door.saw("ann", "s3cret")
    shown = result.output + "".join(str(warning.message) for warning in warned)
    assert "s3cret" not in shown
    assert "ann:" not in shown
    folder = tmp_path / "runs" / "tiny-001"
    assert {path.name for path, content in everything_below(folder) if b"s3cret" in content} == set()
    assert f"http://{door.host}" in (folder / "recipe.yaml").read_text()

    door.seen.clear()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:n3wer@{door.host}")
    result = CliRunner().invoke(main, ["sync", str(folder)])
    assert result.exit_code == 2
    assert door.saw("ann", "n3wer"), "the address of the recipe, with the password of the environment"
    assert "n3wer" not in result.output

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    database = store_of(tmp_path)
    result = CliRunner().invoke(main, ["sync", str(folder), "--store", database])
    assert result.exit_code == 0, result.output
    client = MlflowClient(database)
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.data.params["tracking.uri"] == f"http://{door.host}"
    assert {path.name for path, content in everything_below(tmp_path) if b"s3cret" in content} == set()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_a_password_in_its_address(
    mvtec_folder: Path, tmp_path: Path, door: Doorkeeper
) -> None:
    changes = ("name=tiny", "tracking.mlflow=true", "expert.schedule.epoch_steps=2", *ONE_AUGMENTATION)
    recipe = write_recipe(tmp_path / "r.yaml", mvtec_folder, *changes)
    address = f"tracking.uri=http://ann:s3cret@{door.host}"
    command = ["train", str(recipe), "--output", str(tmp_path / "runs"), "-s", address]
    assert lives.run(command, tmp_path / "1.txt", {"step": 1}) == lives.KILLED
    assert (tmp_path / "runs" / ".tiny-001.partial").is_dir()
    door.seen.clear()
    assert lives.run([*command, "--resume"], tmp_path / "2.txt") == 0, (tmp_path / "2.txt").read_text()
    assert (tmp_path / "runs" / "tiny-001" / "summary.json").is_file()
    assert door.saw("ann", "s3cret")
    assert {path.name for path, content in everything_below(tmp_path) if b"s3cret" in content} == set()


def test_errors_about_a_store_do_not_show_its_password(door: Doorkeeper) -> None:
    address = f"http://ann:s3cret@{door.host}"
    asked = [
        lambda: first_page(address),
        lambda: read_logged(address, "abc"),
        lambda: register_model(address, "abc", "n"),
    ]
    for ask in asked:
        with pytest.raises(RunError) as error:
            ask()
        assert door.host in str(error.value)
        assert "s3cret" not in str(error.value)
    assert door.saw("ann", "s3cret")
    for command in (["doctor", "--store", address], ["ui", "--no-open", "--store", address]):
        assert "s3cret" not in CliRunner().invoke(main, command).output


def test_the_environment_gives_the_password_of_the_same_place_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s3cret@here/x")
    assert choose_store("https://here/x", tmp_path) == "https://ann:s3cret@here/x"
    assert choose_store("https://bob:other@here/x", tmp_path) == "https://bob:other@here/x"
    assert choose_store("https://there/x", tmp_path) == "https://there/x"
    assert choose_store(None, tmp_path) == "https://ann:s3cret@here/x"


@pytest.mark.parametrize("name", ODD)
def test_a_database_lies_in_the_output_folder_whatever_its_name(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    output.mkdir()
    address = store_of(output)
    MlflowClient(address).create_experiment("e", artifact_location=tmp_path.as_uri())
    assert list(tmp_path.iterdir()) == [output], "nothing is made beside it"
    with sqlite3.connect(output / "mlflow.db") as database:
        assert ("e",) in database.execute("select name from experiments").fetchall()
    database.close()
    assert database_file(address) == output / "mlflow.db"
    assert first_page(address) == "/"


def test_an_ordinary_path_is_seen_as_it_is(tmp_path: Path) -> None:
    assert sqlite_address(tmp_path / "x.db") == f"sqlite:///{tmp_path / 'x.db'}"
    assert database_file("sqlite:///a/b.db") == Path("a/b.db")
    assert database_file("postgresql://host/b") is None


def test_a_database_that_is_not_there_is_named_by_its_path(tmp_path: Path) -> None:
    address = store_of(tmp_path / "what?")
    with pytest.raises(RunError, match=r"there is no .*what\?/mlflow.db"):
        first_page(address)
    with (
        pytest.raises(RunError, match=r"no MLflow database at .*what\?"),
        serve(address, host="127.0.0.1", port=5700),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_no_address_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "database_file", lambda address: Path("elsewhere"))
    with pytest.raises(RunError, match=r"SQLAlchemy older than 2\.1 cannot address"):
        sqlite_address(tmp_path / "what?" / "mlflow.db")
