"""The detector as an MLflow model: logged by `train`, registered, promoted, loaded by alias, served."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from mlflow.tracking import MlflowClient
from PIL import Image
from settings import ONE_AUGMENTATION, tracked, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.data.images import Decoder
from anomaly_ft.errors import RunError
from anomaly_ft.model.maps import upsample
from anomaly_ft.run.open import open_run
from anomaly_ft.run.predict import predict
from anomaly_ft.tracking.logged_models import Place, log_detector
from anomaly_ft.tracking.model_registry import promote_model


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="session")
def run(mvtec_folder: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was logged to `store` and registered as `parts`."""
    folder = tmp_path_factory.mktemp("tracked")
    changes = ("name=parts", "schedule.max_epochs=0", "expert.runtime.batch_size=4", "tracking.register=parts")
    recipe = write_recipe(
        folder / "recipe.yaml", mvtec_folder, *changes, *ONE_AUGMENTATION, *tracked(store, "models")
    )
    result = call("train", recipe, "--output", folder / "runs")
    assert result.exit_code == 0, result.output
    return folder / "runs" / "parts-001"


@pytest.fixture(scope="session")
def run_id(run: Path) -> str:
    return str(json.loads((run / "summary.json").read_text())["mlflow_run_id"])


@pytest.fixture(scope="session")
def promoted(run: Path, store: str) -> str:
    """The address of the model after `anomaly-ft promote`: once, or there would be a second version."""
    result = call("promote", run, "--name", "parts", "--store", store)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        "models:/parts@champion is version 1, the detector of parts-001, in sqlite:"
    )
    return "models:/parts@champion"


@pytest.fixture(scope="module")
def champion(promoted: str, store: str) -> Iterator[Any]:
    """The model, loaded by alias."""
    mlflow.set_tracking_uri(store)
    yield mlflow.pyfunc.load_model(promoted)
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def images(mvtec_folder: Path) -> list[Path]:
    return sorted((mvtec_folder / "test").rglob("*.png"))


def test_the_model_loaded_by_alias_gives_the_scores_of_the_run_folder(
    champion: Any, run: Path, images: list[Path]
) -> None:
    expected = list(predict(open_run(run)[1], images))
    found = champion.predict(pd.DataFrame({"image": [str(path) for path in images]}))
    assert list(found.columns) == ["score", "decision"]
    assert found["score"].tolist() == pytest.approx([p.score for p in expected], rel=1e-6, abs=1e-6)
    assert found["decision"].tolist() == ["anomalous" if p.anomalous else "normal" for p in expected]


def test_arrays_and_base64_are_as_good_as_paths(champion: Any, images: list[Path]) -> None:
    arrays = [np.asarray(Image.open(path)) for path in images[:3]]
    texts = [base64.b64encode(path.read_bytes()).decode() for path in images[:3]]
    expected = champion.predict(pd.DataFrame({"image": [str(path) for path in images[:3]]}))
    for column in (arrays, texts, [arrays[0], texts[1], str(images[2])]):
        pd.testing.assert_frame_equal(champion.predict(pd.DataFrame({"image": column})), expected)
    pd.testing.assert_frame_equal(champion.predict({"image": np.stack(arrays)}), expected)


def test_maps_come_when_asked_for(champion: Any, run: Path, images: list[Path]) -> None:
    frame = pd.DataFrame({"image": [str(path) for path in images[:2]]})
    found = champion.predict(frame, params={"map": True})
    expected = list(predict(open_run(run)[1], images[:2], maps=True))
    maps = np.array(found["map"].tolist())
    assert maps.shape == (2, 64, 64)
    for large, prediction in zip(maps, expected, strict=True):
        assert prediction.map is not None
        np.testing.assert_allclose(large, upsample(prediction.map, 64, 64, Decoder(64)), rtol=1e-4)


def test_no_images_are_no_rows(champion: Any) -> None:
    assert len(champion.predict(pd.DataFrame({"image": []}))) == 0


def test_signature_and_example_say_what_goes_in_and_out(champion: Any) -> None:
    signature = champion.metadata.signature
    assert signature.inputs.input_names() == ["image"]
    assert signature.outputs.input_names() == ["score", "decision", "map"]
    assert [(p.name, p.default) for p in signature.params] == [("map", False)]
    example = champion.input_example
    assert champion.predict(example)["decision"].isin(["normal", "anomalous"]).all()


def test_nothing_in_the_model_is_pickled(champion: Any, run_id: str, store: str) -> None:
    client = MlflowClient(store)
    (output,) = client.get_run(run_id).outputs.model_outputs
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{output.model_id}", tracking_uri=store))
    files = [path for path in folder.rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files if path.name not in ("MLmodel", "registered_model_meta")}
    assert kinds == {".py", ".j2", ".typed", ".json", ".safetensors", ".yaml", ".txt"}
    flavor = yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]
    assert Path(flavor["model_code_path"]).name == "served.py"
    assert "python_model" not in flavor  # where a pickled model would be named


def test_logging_and_promoting_twice_makes_one_model_and_one_version(
    champion: Any, run: Path, run_id: str, store: str
) -> None:
    client = MlflowClient(store)
    model_id = log_detector(Place(run, store, run_id), {})
    assert [output.model_id for output in client.get_run(run_id).outputs.model_outputs] == [model_id]
    assert promote_model(store, model_id, name="parts", alias="challenger") == 1
    assert client.get_model_version_by_alias("parts", "challenger").version in (1, "1")  # MLflow gives either
    assert promote_model(store, model_id, name="others", alias="champion") == 1
    assert len(client.search_model_versions("name = 'parts'")) == 1


def test_the_store_that_the_recipe_of_a_run_names_needs_no_naming(champion: Any, run: Path) -> None:
    result = call("promote", run, "--name", "parts")
    assert result.exit_code == 0, result.output
    assert "is version 1, the detector of parts-001" in result.output


def test_what_cannot_be_promoted_is_an_error_that_says_why(
    run: Path, run_id: str, store: str, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for arguments, said in [
        ([small_run], "was not logged to MLflow, so there is no model to promote"),
        ([tmp_path], "is not a finished run: recipe.yaml, summary.json, history.jsonl"),
        ([run, "--store", "sqlite:///nowhere.db"], "name the MLflow store of the run with --store"),
        ([run, "--images", "x.png"], "--images are what a graph is compared on; give --graph with them"),
    ]:
        result = call("promote", *arguments, "--name", "parts")
        assert result.exit_code == 2
        assert said in result.stderr
    with pytest.raises(RunError, match=f"has no run {'0' * 32}; name the right one with --store"):
        log_detector(Place(run, store, "0" * 32), {})
    with pytest.raises(RunError, match="cannot register 'parts'"):
        promote_model(store, "m-" + "0" * 32, name="parts", alias="champion")


@contextmanager
def serving(model: str, store: str, folder: Path) -> Iterator[Callable[[object], Any]]:
    """`mlflow models serve`, as a function that asks it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": store,
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }
    environment.pop("PYTHONPATH", None)  # the package comes with the model
    address = f"http://127.0.0.1:{port}"

    def ask(body: object) -> Any:
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/invocations", json.dumps(body).encode(), headers)
        return json.loads(urllib.request.urlopen(request, timeout=60).read())["predictions"]

    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_for(f"{address}/ping", server, folder / "server.log")
            yield ask
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


@pytest.mark.slow
def test_a_served_model_answers_with_the_scores_of_the_run_folder(
    promoted: str, run: Path, store: str, images: list[Path], tmp_path: Path
) -> None:
    texts = [base64.b64encode(path.read_bytes()).decode() for path in images[:3]]
    with serving(promoted, store, tmp_path) as ask:
        rows = ask({"dataframe_records": [{"image": text} for text in texts], "params": {"map": True}})
    expected = list(predict(open_run(run)[1], images[:3]))
    assert [row["score"] for row in rows] == pytest.approx([p.score for p in expected], rel=1e-6)
    assert [row["decision"] == "anomalous" for row in rows] == [p.anomalous for p in expected]
    assert np.array(rows[0]["map"]).shape == (64, 64)


@pytest.mark.slow
def test_a_served_graph_answers_with_the_scores_of_the_run_folder(
    run: Path, store: str, images: list[Path], tmp_path: Path
) -> None:
    result = call("promote", run, "--name", "parts-graph", "--graph", "--store", store)
    assert result.exit_code == 0, result.output
    pixels = np.stack([Decoder(64)(path) for path in images[:3]])
    with serving("models:/parts-graph@champion", store, tmp_path) as ask:
        answer = ask({"inputs": {"image": pixels.tolist()}})
    expected = list(predict(open_run(run)[1], images[:3]))
    assert answer["score"] == pytest.approx([p.score for p in expected], rel=1e-3)
    assert answer["decision"] == [p.anomalous for p in expected]
    assert np.array(answer["map"]).shape == (3, 64, 64)


def _wait_for(address: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(180):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=2)
        except OSError:
            time.sleep(1)
        else:
            return
    pytest.fail(log.read_text())
