"""Log a finished run as a model in MLflow, register it, give it an alias.

The model is code (`served.py` and this package, copied beside it), safetensors and JSON; MLflow pickles
nothing. The store is always named by the caller, never taken from a run folder.
"""

import base64
import io
import os
import tempfile
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for three files
import mlflow
import pandas as pd
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types.schema import AnyType, ColSpec, ParamSchema, ParamSpec, Schema
from PIL import Image

from anomaly_ft.errors import RunError
from anomaly_ft.system.addresses import without_password

NAME = "detector"
FILES = ("detector.json", "detector.safetensors")
OTHERS = ("encoder", "adapter", "thresholds.json")  # where the run has them
# what `served` and all it imports need
LIBRARIES = (
    "lightning-fabric",
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "safetensors",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)


def log_detector(folder: Path, *, uri: str, run_id: str, computing: Mapping[str, Any]) -> str:
    """Log the detector of a run folder as the model `detector` of an MLflow run, unless it has one; returns
    the model's id.

    Args:
        folder: what `train` left.
        uri: tracking server or database.
        run_id: the MLflow run.
        computing: precision, memory format and batch size, as `load_run` takes them.
    """
    client = MlflowClient(uri)
    if logged := _logged(client, run_id):
        return str(logged.model_id)
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, NAME, source_run_id=run_id, model_type="anomaly detector")
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints that do not concern models from code
        path = Path(scratch) / "model"
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=Model(run_id=run_id, model_id=model.model_id),
            python_model=str(Path(__file__).parents[1] / "deploy" / "served.py"),
            code_paths=[str(Path(__file__).parents[1])],
            artifacts={name: str((folder / name).resolve()) for name in (*FILES, *_others(folder))},
            model_config={**computing, "device": "auto"},
            signature=signature(),
            input_example=example(),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in LIBRARIES],
        )
        client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def _others(folder: Path) -> list[str]:
    """Name the encoder, or the adapter of one, and the working point that was set after training."""
    return [name for name in OTHERS if (folder / name).exists()]


def register_detector(uri: str, run_id: str, name: str) -> int:
    """Find the version of the registered model `name` that is the run's detector, or make it.

    Raises:
        RunError: the store has no such run, or the run has no detector.
    """
    client = MlflowClient(uri)
    try:
        logged = _logged(client, run_id)
    except mlflow.MlflowException as cause:
        raise RunError(
            f"the MLflow store {without_password(uri)} has no run {run_id}; name the right one with --uri"
        ) from cause
    if logged is None:
        raise RunError(f"the MLflow store {without_password(uri)}: the run {run_id} has no detector")
    try:
        client.create_registered_model(name)
    except mlflow.MlflowException as cause:
        if cause.error_code != "RESOURCE_ALREADY_EXISTS":
            trouble = f"the MLflow store {uri}: cannot register {name!r}: {cause}"
            raise RunError(without_password(trouble)) from cause
    source = logged.artifact_location
    known = [
        version for version in client.search_model_versions(f"name = '{name}'") if version.source == source
    ]
    if not known:
        known = [client.create_model_version(name, source, run_id=run_id, model_id=logged.model_id)]
    return int(known[0].version)


def promote_detector(uri: str, run_id: str, *, name: str, alias: str) -> int:
    """Give `alias` to the run's version of the registered model `name`; returns the version.

    Raises:
        RunError: as `register_detector`.
    """
    version_number = register_detector(uri, run_id, name)
    MlflowClient(uri).set_registered_model_alias(name, alias, str(version_number))
    return version_number


def registered_versions(uri: str, run_id: str) -> list[str]:
    """Name the versions of registered models that are a run's detector.

    Raises:
        RunError: the store does not answer.
    """
    try:
        versions = MlflowClient(uri).search_model_versions(f"run_id = '{run_id}'")
    except mlflow.MlflowException as cause:
        raise RunError(without_password(f"the MLflow store {uri} does not answer: {cause}")) from cause
    return [f"version {version.version} of {version.name}" for version in versions]


def delete_run(uri: str, run_id: str) -> None:
    """Delete a run and the detector it logged; what is gone already is passed over. MLflow keeps the files of
    deleted runs until `mlflow gc`.

    Raises:
        RunError: the store refuses.
    """
    client = MlflowClient(uri)
    try:
        logged = _logged(client, run_id)
        if logged:
            client.delete_logged_model(logged.model_id)
        client.delete_run(run_id)
    except mlflow.MlflowException as cause:
        if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
            trouble = f"the MLflow store {uri} did not delete run {run_id}: {cause}; nothing else was deleted"
            raise RunError(without_password(trouble)) from cause


def _logged(client: MlflowClient, run_id: str) -> LoggedModel | None:
    """Find the detector that a run logged, if it did."""
    outputs = client.get_run(run_id).outputs
    models = [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else ())]
    return next((model for model in models if model.name == NAME), None)


def signature() -> ModelSignature:
    """Describe inputs and outputs of the served detector."""
    return ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema(
            [
                ColSpec("double", "score"),
                ColSpec("string", "decision"),
                ColSpec(AnyType(), "map", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("map", "boolean", False)]),
    )


def example() -> pd.DataFrame:
    """Encode a grey image as base64: what a request looks like."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (128, 128, 128)).save(buffer, format="PNG")
    return pd.DataFrame({"image": [base64.b64encode(buffer.getvalue()).decode()]})
