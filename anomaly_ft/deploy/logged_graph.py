"""Log the ONNX graph of a detector in MLflow's own flavour, for places that load no model with code in it."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.onnx
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import Schema, TensorSpec

from anomaly_ft.tracking.logged_models import GRAPH, Place, log_model


def log_graph(place: Place, file: Path) -> str:
    """Log an ONNX file of a detector as the model `graph`; see `log_model`.

    Args:
        place: of the run.
        file: takes uint8 images, see `formats.write_onnx`.
    """
    import onnx

    graph = onnx.load(file)

    def save(path: Path, model: Model) -> None:
        mlflow.onnx.save_model(
            graph,
            path,
            mlflow_model=model,
            signature=graph_signature(graph),
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "onnx", "onnxruntime")],
            save_as_external_data=False,  # one file, which every runtime opens
        )

    return log_model(place, GRAPH, save)


def graph_signature(graph: Any) -> ModelSignature:
    """Describe inputs and outputs of a detector's ONNX graph."""
    _, *sides, _ = (axis.dim_value for axis in graph.graph.input[0].type.tensor_type.shape.dim)
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, *sides, 3), "image")]),
        outputs=Schema(
            [
                TensorSpec(np.dtype(np.float32), (-1,), "score"),
                TensorSpec(np.dtype(np.float32), (-1, *sides), "map"),
                TensorSpec(np.dtype(np.bool_), (-1,), "decision"),
            ]
        ),
    )
