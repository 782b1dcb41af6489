"""The detector and its ONNX graph get aliases in MLflow's registry, and load where code is forbidden."""

import json
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from settings import ONE_AUGMENTATION, tracked, write_recipe

from anomaly_ft.cli.main import main
from anomaly_ft.data.images import Decoder
from anomaly_ft.deploy import formats
from anomaly_ft.model.loading import load_run
from anomaly_ft.run import promote as promoting
from anomaly_ft.run.open import open_run, open_summary
from anomaly_ft.run.predict import predict

REFUSES_CODE = tuple(map(int, version("mlflow").split(".")[:2])) >= (3, 18)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def run(mvtec_folder: Path, store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that was logged, by a process in which MLflow may not load models with code."""
    folder = tmp_path_factory.mktemp("promoted")
    changes = ("name=parts", "schedule.max_epochs=0", "expert.runtime.batch_size=4")
    changes += (*ONE_AUGMENTATION, *tracked(store, "promoted"))
    recipe = write_recipe(folder / "recipe.yaml", mvtec_folder, *changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
        result = call("train", recipe, "--output", folder / "runs")
    assert result.exit_code == 0, result.output
    return folder / "runs" / "parts-001"


def promoted(run: Path, store: str, name: str, *options: str) -> str:
    result = call("promote", run, "--name", name, "--store", store, *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def models(run: Path, store: str) -> list[str]:
    """The names of what a run logged."""
    client, run_id = MlflowClient(store), open_summary(run).mlflow_run_id
    return [client.get_logged_model(o.model_id).name for o in client.get_run(run_id).outputs.model_outputs]


def test_where_code_is_forbidden_the_graph_loads_and_says_what_the_run_says(
    run: Path, store: str, mvtec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_MODEL_CODE_EXECUTION", "false")
    said = promoted(run, store, "graphs", "--graph")
    assert said.startswith("models:/graphs@champion is version 1, the ONNX graph of parts-001, in sqlite:")
    promoted(run, store, "coded")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    if REFUSES_CODE:
        for name in ("coded", "graphs"):
            with pytest.raises(mlflow.MlflowException, match="Loading PyFunc models is disallowed"):
                mlflow.pyfunc.load_model(f"models:/{name}@champion")
    model = mlflow.onnx.load_model("models:/graphs@champion")
    images = sorted((mvtec_folder / "test").rglob("*.png"))
    expected = list(predict(open_run(run)[1], images))
    pixels = np.stack([Decoder(64)(path) for path in images])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    score, _, decision = session.run(["score", "map", "decision"], {"image": pixels})
    assert score.tolist() == pytest.approx([p.score for p in expected], rel=1e-3, abs=1e-3)
    assert decision.tolist() == [p.anomalous for p in expected]
    about = {prop.key: json.loads(prop.value) for prop in model.metadata_props}
    assert about["threshold"] == load_run(run).point.threshold


def test_the_graph_is_one_file_with_a_signature_and_answers_as_a_pyfunc_too(
    run: Path, store: str, mvtec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(run, store, "graphs", "--graph")
    logged = models(run, store)
    promoted(run, store, "graphs", "--graph", "--alias", "challenger")
    assert models(run, store) == logged, "logged once"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    model = mlflow.pyfunc.load_model("models:/graphs@challenger")
    shapes = {
        spec.name: spec.shape for spec in [*model.metadata.signature.inputs, *model.metadata.signature.outputs]
    }
    assert shapes == {"image": (-1, 64, 64, 3), "score": (-1,), "map": (-1, 64, 64), "decision": (-1,)}
    pixels = Decoder(64)(mvtec_folder / "test" / "hole" / "000.png")[None]
    assert model.predict({"image": pixels})["decision"].tolist() == [True]
    files = {
        path.name for path in Path(mlflow.artifacts.download_artifacts("models:/graphs@champion")).iterdir()
    }
    assert {"MLmodel", "model.onnx"} <= files
    assert not [name for name in files if name.endswith((".py", ".pkl", ".data"))]


def test_a_changed_threshold_is_promoted_as_a_new_version_and_the_old_one_stays(
    run: Path, store: str, mvtec_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the threshold and promotes the run gets the threshold that is in force."""
    promoted(run, store, "steady")
    before = load_run(run).point.threshold
    assert call("threshold", run, "--value", "1e6").exit_code == 0
    for options, name in (((), "steady"), (("--graph",), "steady-graph")):
        first = 2 if name == "steady" else 1
        assert f"is version {first}," in promoted(run, store, name, *options)
        assert f"is version {first}," in promoted(run, store, name, *options)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    image = pd.DataFrame({"image": [str(mvtec_folder / "test" / "hole" / "000.png")]})
    decisions = {
        v: mlflow.pyfunc.load_model(f"models:/steady/{v}").predict(image)["decision"][0] for v in (1, 2)
    }
    assert decisions == {1: "anomalous", 2: "normal"}
    graph = mlflow.onnx.load_model("models:/steady-graph@champion")
    assert json.loads({p.key: p.value for p in graph.metadata_props}["threshold"]) == 1e6
    (run / "thresholds.json").unlink()
    assert load_run(run).point.threshold == before
    assert "is version 1," in promoted(run, store, "steady"), "back to what it was"


def test_what_a_graph_lacks_is_said_and_nothing_is_logged(
    run: Path, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "thresholds.json").write_text(
        '{"changes": []}'
    )  # another working point, so a graph is not there yet
    before = models(run, store)
    monkeypatch.setitem(formats.NEEDED, "onnx", ("onnx", "nowhere_to_be_found"))
    result = call("promote", run, "--name", "lacking", "--graph", "--store", store)
    assert result.exit_code == 2
    assert "nowhere_to_be_found not installed; pip install nowhere_to_be_found" in result.stderr
    monkeypatch.undo()
    monkeypatch.setattr(promoting, "export", _no_space)
    result = call("promote", run, "--name", "lacking", "--graph", "--store", store)
    assert result.exit_code == 2
    assert models(run, store) == before
    assert not MlflowClient(store).search_registered_models("name = 'lacking'")
    (run / "thresholds.json").unlink()


def _no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")
