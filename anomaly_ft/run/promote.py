"""Give a model of a finished run an alias in MLflow's registry; what is not logged yet is logged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from anomaly_ft.deploy.formats import refuse_if_missing
from anomaly_ft.deploy.logged_graph import log_graph
from anomaly_ft.errors import RunError
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.export import Comparison, export
from anomaly_ft.run.open import open_recipe, open_summary, store_of_run
from anomaly_ft.tracking.logged_models import GRAPH, Place, find_model, log_detector
from anomaly_ft.tracking.model_registry import promote_model
from anomaly_ft.tracking.store import quieten_mlflow


@dataclass(frozen=True)
class Wanted:
    """Which alias of which registered model is given.

    Attributes:
        name: of the model in the registry.
        alias: given to this run's version of it.
        graph: whether that is the ONNX graph in place of the detector with its code.
        images: that a new graph is compared on, as `predict` takes them; none: the run's own test images.
    """

    name: str
    alias: str
    graph: bool = False
    images: Sequence[str] = ()


def promote(folder: Path, wanted: Wanted, uri: str | None, terminal: Terminal) -> tuple[int, str]:
    """Give an alias to a run's detector, or to its ONNX graph, with the threshold that is in force; returns the
    version, and the address of the store.

    Args:
        folder: of the run.
        wanted: the alias.
        uri: MLflow store; unset: see `store_of_run`.
        terminal: for progress.

    Raises:
        RunError: no finished run, it is not in MLflow, or a library that a graph needs is missing.
        ParityError: a new graph does not agree with the detector; it was not logged.
    """
    if wanted.images and not wanted.graph:
        raise RunError("--images are what a graph is compared on; give --graph with them")
    run_id = open_summary(folder).mlflow_run_id
    if run_id is None:
        raise RunError(
            f"{folder} was not logged to MLflow, so there is no model to promote; anomaly-ft sync uploads it"
        )
    store = store_of_run(folder, uri)
    quieten_mlflow()
    place = Place(folder, store, run_id)
    if wanted.graph:
        model_id = _graph(place, wanted, terminal)
    else:
        model_id = log_detector(place, open_recipe(folder).runtime.computing())
    return promote_model(store, model_id, name=wanted.name, alias=wanted.alias), store


def _graph(place: Place, wanted: Wanted, terminal: Terminal) -> str:
    """Find the ONNX graph of a run in MLflow, or write it, compare it with the detector, and log it."""
    if logged := find_model(place, GRAPH):
        return str(logged.model_id)
    refuse_if_missing("onnx")
    with TemporaryDirectory(prefix="anomaly_ft") as scratch:
        output = Path(scratch) / "graph"
        comparison = Comparison(wanted.images)
        parity = export(place.folder, "onnx", output, terminal, raw=True, comparison=comparison)
        terminal.say(str(parity))
        return log_graph(place, output / "detector.onnx")
