"""Log a finished run as a model in MLflow, once for each working point.

The detector is code (`served.py` and this package, copied beside it), safetensors and JSON; MLflow pickles
nothing. Its ONNX graph is logged by `deploy.logged_graph`. The store is always named by the caller, never taken
from a run folder.
"""

import base64
import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

DETECTOR, GRAPH = "detector", "graph"  # names of the models of a run
FILES = ("detector.json", "detector.safetensors")
CHANGES = "thresholds.json"
OTHERS = ("encoder", "adapter", CHANGES)  # where the run has them
WORKING_POINT = "working_point"  # tag of a logged model: which one it was logged with
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


@dataclass(frozen=True)
class Place:
    """Where a finished run is: its folder, the tracking server or database, its id there."""

    folder: Path
    uri: str
    run_id: str


def log_detector(place: Place, computing: Mapping[str, Any]) -> str:
    """Log the detector of a run folder as the model `detector`; see `log_model`.

    Args:
        place: of the run.
        computing: precision, memory format and batch size, as `load_run` takes them.
    """
    folder = place.folder
    others = (name for name in OTHERS if (folder / name).exists())

    def save(path: Path, model: Model) -> None:
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=model,
            python_model=str(Path(__file__).parents[1] / "deploy" / "served.py"),
            code_paths=[str(Path(__file__).parents[1])],
            artifacts={name: str((folder / name).resolve()) for name in (*FILES, *others)},
            model_config={**computing, "device": "auto"},
            signature=signature(),
            input_example=example(),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in LIBRARIES],
        )

    return log_model(place, DETECTOR, save)


def log_model(place: Place, name: str, save: Callable[[Path, Model], None]) -> str:
    """Log a model of a run, unless it has one of this name with the working point that is in force; returns
    the model's id. A model that was logged before never changes.

    Args:
        place: of the run.
        name: of the model.
        save: writes it to a path, as the given `Model`.

    Raises:
        RunError: the store has no such run.
    """
    if logged := find_model(place, name):
        return str(logged.model_id)
    client, run_id = MlflowClient(place.uri), place.run_id
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(
        experiment,
        name,
        source_run_id=run_id,
        tags={WORKING_POINT: working_point(place.folder)},
        model_type="anomaly detector",
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints that do not concern models from code
        path = Path(scratch) / "model"
        save(path, Model(run_id=run_id, model_id=model.model_id))
        client.log_model_artifacts(model.model_id, str(path))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def find_model(place: Place, name: str) -> LoggedModel | None:
    """Find the model of this name that a run logged with the working point that is in force.

    Raises:
        RunError: the store has no such run.
    """
    try:
        models = _models(MlflowClient(place.uri), place.run_id)
    except mlflow.MlflowException as cause:
        if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise RunError(
            f"the MLflow store {without_password(place.uri)} has no run {place.run_id}; name the right one "
            "with --store"
        ) from cause
    point = working_point(place.folder)
    found = (model for model in models if (model.name, model.tags.get(WORKING_POINT)) == (name, point))
    return next(found, None)


def _models(client: MlflowClient, run_id: str) -> list[LoggedModel]:
    outputs = client.get_run(run_id).outputs
    return [client.get_logged_model(output.model_id) for output in (outputs.model_outputs if outputs else ())]


def working_point(folder: Path) -> str:
    """Name the working point that is in force: a hash of its changes, or that it is the one of training."""
    changes = folder / CHANGES
    if not changes.exists():
        return "of training"
    return hashlib.blake2b(changes.read_bytes(), digest_size=8).hexdigest()


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
