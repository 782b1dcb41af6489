"""Where a run is logged: MLflow, or nowhere.

A tracker is a context manager: an exception marks the run FAILED, an interrupt KILLED. Trouble with
the tracking server is reported once and never ends training; the run folder holds everything anyway.
"""

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ft.store import choose_store, quieten_mlflow


class Tracker(Protocol):
    """What `run` tells a tracker. `run_id` and `uri` are None where nothing is tracked."""

    run_id: str | None
    uri: str | None

    def params(self, params: Mapping[str, Any]) -> None: ...
    def tags(self, tags: Mapping[str, str]) -> None: ...
    def metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None: ...
    def dataset(self, frame: pd.DataFrame, source: str, name: str) -> None: ...
    def image(self, image: NDArray[np.uint8], key: str, step: int) -> None: ...
    def artifacts(self, folder: Path) -> None: ...


class NullTracker:
    """Logs nothing."""

    run_id: str | None = None
    uri: str | None = None

    def params(self, params: Mapping[str, Any]) -> None: ...
    def tags(self, tags: Mapping[str, str]) -> None: ...
    def metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None: ...
    def dataset(self, frame: pd.DataFrame, source: str, name: str) -> None: ...
    def image(self, image: NDArray[np.uint8], key: str, step: int) -> None: ...
    def artifacts(self, folder: Path) -> None: ...


class MlflowTracker:
    """One MLflow run; the step is the epoch, 0 the pretrained encoder."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        name: str,
        *,
        artifacts: str | None = None,
        experiment_tags: Mapping[str, str] | None = None,
        system_metrics: bool = False,
    ) -> None:
        """Args:
        uri: tracking server or database.
        experiment: MLflow experiment, made where it does not exist.
        name: of the run.
        artifacts: where a new experiment keeps its artifacts; unset: the server's choice.
        experiment_tags: of a new experiment.
        system_metrics: log the machine's load as `system/…` while the run lasts.
        """
        self.run_id: str | None = None
        self.uri: str | None = uri
        self._experiment, self._name, self._artifacts = experiment, name, artifacts
        self._experiment_tags, self._system_metrics = experiment_tags, system_metrics
        self._monitor: Any = None
        self._working = True

    def __enter__(self) -> Self:
        self._try(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del error, trace
        status = "FINISHED"
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        if self._monitor is not None:
            self._monitor.finish()
        self._working = self.run_id is not None  # the last word is tried even after trouble
        self._try(lambda: self._client.set_terminated(self._id, status))

    def params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, str(value)) for key, value in params.items()]
        self._try(lambda: self._client.log_batch(self._id, params=entities))

    def tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._try(lambda: self._client.log_batch(self._id, tags=entities))

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log the finite ones; a missing measurement is no point on a curve."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        finite = {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}
        entities = [Metric(key, value, now, step) for key, value in finite.items()]
        self._try(lambda: self._client.log_batch(self._id, metrics=entities))

    def dataset(self, frame: pd.DataFrame, source: str, name: str) -> None:
        """Link the data, one row an image; MLflow computes the digest."""

        def log() -> None:
            import mlflow.data
            from mlflow.entities import Dataset, DatasetInput, InputTag

            with warnings.catch_warnings():  # hints about schemas that say nothing here
                warnings.simplefilter("ignore")
                made = mlflow.data.from_pandas(frame, name=name).to_dict()
            made |= {"source": json.dumps({"uri": source}), "source_type": "local"}  # also what is no path
            tag = InputTag("mlflow.data.context", "training")
            self._client.log_inputs(self._id, [DatasetInput(Dataset(**made), [tag])])

        self._try(log)

    def image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """Log an image `(h, w, 3)`; those of one key make a slider over steps."""
        self._try(lambda: self._client.log_image(self._id, image, key=key, step=step))

    def artifacts(self, folder: Path) -> None:
        self._try(lambda: self._client.log_artifacts(self._id, str(folder)))

    @property
    def _id(self) -> str:
        if self.run_id is None:
            raise RuntimeError("no MLflow run was started")
        return self.run_id

    def _start(self) -> None:
        import mlflow
        from mlflow.tracking import MlflowClient

        quieten_mlflow()
        self._client = MlflowClient(self.uri)
        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            experiment = self._client.create_experiment(
                self._experiment, artifact_location=self._artifacts, tags=dict(self._experiment_tags or {})
            )
        else:
            experiment = found.experiment_id
        self.run_id = self._client.create_run(experiment, run_name=self._name).info.run_id
        self.tags(
            {"mlflow.source.name": "anomaly-ft", "mlflow.source.type": "LOCAL", "mlflow": mlflow.__version__}
        )
        if self._system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self.uri)
            self._monitor.start()

    def _try(self, action: Callable[[], Any]) -> None:
        """Do it, unless tracking has failed before; a failure is said once."""
        if not self._working:
            return
        try:
            action()
        except Exception as cause:  # whatever the server, the database or the network raises
            self._working = False
            warnings.warn(
                f"tracking: MLflow at {self.uri} failed ({type(cause).__name__}: {cause}); "
                "training goes on without it, the run folder will be complete",
                stacklevel=2,
            )


def make_tracker(
    *,
    enabled: bool,
    uri: str | None,
    experiment: str,
    name: str,
    output: Path,
    experiment_tags: Mapping[str, str] | None = None,
    system_metrics: bool = False,
) -> AbstractContextManager[Tracker]:
    """The tracker asked for: `uri`, else MLFLOW_TRACKING_URI, else a database in `output`.

    Artifacts go where a server says; a bare database would put them into whatever folder is the
    current one, so there they go to `output`.
    """
    if not enabled:
        return nullcontext(NullTracker())
    chosen = choose_store(uri, output)
    served = not chosen.startswith(("sqlite:", "postgresql", "mysql", "mssql"))
    artifacts = None if served else (output / "mlartifacts").resolve().as_uri()
    return MlflowTracker(
        chosen,
        experiment,
        name,
        artifacts=artifacts,
        experiment_tags=experiment_tags,
        system_metrics=system_metrics,
    )
