"""Log a run to MLflow, or nowhere.

A tracker is a context manager: an exception marks the run FAILED, an interrupt KILLED. Trouble with
the tracking server is reported once and never ends training: what did not arrive is tried again later, and the
run folder holds everything anyway.
"""

import json
import math
import os
import time
import warnings
from collections.abc import Collection, Mapping, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ft.system.signals import ending
from anomaly_ft.tracking.interface import NullTracker, Tracker
from anomaly_ft.tracking.retry_queue import RetryQueue
from anomaly_ft.tracking.store import choose_store, quieten_mlflow


@dataclass(frozen=True)
class TrackedRun:
    """Which run of which experiment.

    Attributes:
        experiment: of MLflow, made where it does not exist.
        name: of the run.
        run_id: of a run to go on with, where it is still there; what it has is not logged again.
        experiment_tags: of a new experiment.
    """

    experiment: str
    name: str
    run_id: str | None = None
    experiment_tags: Mapping[str, str] = field(default_factory=dict)


class MlflowTracker:
    """One MLflow run; the step is the epoch, 0 the pretrained encoder."""

    def __init__(
        self,
        uri: str,
        run: TrackedRun,
        *,
        artifacts: str | None = None,
        system_metrics: bool = False,
    ) -> None:
        """Args:
        uri: tracking server or database.
        run: to begin or to go on with.
        artifacts: where a new experiment keeps its artifacts; unset: the server's choice.
        system_metrics: log the machine's load as `system/…` while the run lasts.
        """
        self.run_id: str | None = None
        self.uri: str | None = uri
        self.run = run
        self._artifacts, self._system_metrics = artifacts, system_metrics
        self._monitor: Any = None
        self._has = _Logged()
        self._queue = RetryQueue(f"MLflow at {uri}")
        self._latest = 0
        self.complete = True

    def __enter__(self) -> Self:
        self._queue.put(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del error, trace
        status = "FINISHED"
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        with ending():
            if self._monitor is not None:
                self._monitor.finish()
            self._queue.put(lambda: self._client.set_terminated(self._id, status, self._now()))
            self.complete = self._queue.empty(lambda: self.run_id is not None)

    def params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; those that are there already stay as they are."""
        from mlflow.entities import Param

        entities = [Param(key, str(value)) for key, value in params.items()]

        def log() -> None:
            new = [param for param in entities if param.key not in self._has.params]
            self._client.log_batch(self._id, params=new)

        self._queue.put(log)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        from mlflow.entities import RunTag

        entities = [RunTag(key, value) for key, value in tags.items()]
        self._queue.put(lambda: self._client.log_batch(self._id, tags=entities))

    def metrics(self, metrics: Mapping[str, float | None], step: int = 0) -> None:
        """Log the finite ones; a missing measurement is no point on a curve."""
        from mlflow.entities import Metric

        now = self._now()
        finite = {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}
        entities = [Metric(key, value, now, step) for key, value in finite.items()]

        def log() -> None:
            new = [metric for metric in entities if (metric.key, metric.step) not in self._has.points]
            self._client.log_batch(self._id, metrics=new)

        self._queue.put(log)

    def dataset(self, frame: pd.DataFrame, source: str, name: str) -> None:
        """Link the data, one row an image; MLflow computes the digest."""

        def log() -> None:
            if self._has.dataset:
                return
            import mlflow.data
            from mlflow.entities import Dataset, DatasetInput, InputTag

            with warnings.catch_warnings():  # hints about schemas that say nothing here
                warnings.simplefilter("ignore")
                made = mlflow.data.from_pandas(frame, name=name).to_dict()
            made |= {"source": json.dumps({"uri": source}), "source_type": "local"}  # also what is no path
            tag = InputTag("mlflow.data.context", "training")
            self._client.log_inputs(self._id, [DatasetInput(Dataset(**made), [tag])])

        self._queue.put(log)

    def image(self, image: NDArray[np.uint8], key: str, step: int) -> None:
        """Log an image `(h, w, 3)`; those of one key make a slider over steps."""
        self._queue.put(lambda: self._client.log_image(self._id, image, key=key, step=step))

    def artifacts(self, folder: Path, without: Collection[str] = ()) -> None:
        """Log all files of a folder but hidden ones (locks, and what a kill left half written) and those of
        these names, or in folders of these names."""

        def log() -> None:
            for path in sorted(folder.rglob("*")):
                place = path.relative_to(folder)
                left_out = any(part.startswith(".") or part in without for part in place.parts)
                if path.is_file() and not left_out:
                    below = place.parent.as_posix() if place.parent.parts else None
                    self._client.log_artifact(self._id, str(path), below)

        self._queue.put(log)

    def model(self, folder: Path, computing: Mapping[str, Any], register: str) -> None:
        """Log the detector of a finished run folder as a model, and register it where a name is given.

        `computing` is how it computes, as `load_run` takes it.
        """
        uri = str(self.uri)

        def log() -> str:
            from anomaly_ft.tracking.logged_models import Place, log_detector

            return log_detector(Place(folder, uri, self._id), computing)

        def make_version() -> None:
            from anomaly_ft.tracking.model_registry import register_model

            register_model(uri, log(), register)

        self._queue.put(log)
        if register:
            self._queue.put(make_version)

    @property
    def _id(self) -> str:
        if self.run_id is None:
            raise RuntimeError("no MLflow run was started")
        return self.run_id

    def _start(self) -> None:
        _limit_patience()
        import mlflow
        from mlflow.entities import RunTag
        from mlflow.tracking import MlflowClient

        quieten_mlflow()
        self._client = MlflowClient(self.uri)
        self.run_id = self.run_id or self._reopened() or self._created()
        labels = {"mlflow.source.name": "anomaly-ft", "mlflow.source.type": "LOCAL"}
        labels["mlflow"] = mlflow.__version__
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in labels.items()])
        if self._system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self._monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self.uri)
            self._monitor.start()

    def _created(self) -> str:
        name, existing = self.run.experiment, self._client.get_experiment_by_name(self.run.experiment)
        if existing is None:
            experiment = self._client.create_experiment(
                name, artifact_location=self._artifacts, tags=dict(self.run.experiment_tags)
            )
        else:
            experiment = existing.experiment_id
        run_id: str = self._client.create_run(experiment, run_name=self.run.name).info.run_id
        return run_id

    def _reopened(self) -> str | None:
        """Reopen the earlier run, if there was one and this store has it; returns its id."""
        from mlflow.exceptions import MlflowException

        run_id = self.run.run_id
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as cause:
            if cause.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        self._client.update_run(run_id, status="RUNNING")
        histories = [self._client.get_metric_history(run_id, key) for key in run.data.metrics]
        points = {(point.key, point.step) for history in histories for point in history}
        self._has = _Logged(frozenset(run.data.params), points, bool(run.inputs.dataset_inputs))
        return run_id

    def _now(self) -> int:
        """Read milliseconds since 1970 that never run backwards, whatever the clock does."""
        self._latest = max(self._latest, int(time.time() * 1000))
        return self._latest


@dataclass(frozen=True)
class _Logged:
    """What is logged already: names of parameters, (metric, step), and whether data is linked."""

    params: frozenset[str] = frozenset()
    points: Set[tuple[str, int]] = frozenset()
    dataset: bool = False


def _limit_patience() -> None:
    """Shorten the timeouts of MLflow's client, which would wait for a dead server for many minutes."""
    for name, value in {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}.items():
        os.environ.setdefault(name, value)


def make_tracker(
    run: TrackedRun,
    *,
    enabled: bool,
    uri: str | None,
    output: Path,
    system_metrics: bool = False,
) -> AbstractContextManager[Tracker]:
    """Make a tracker that logs to `uri`, else to MLFLOW_TRACKING_URI, else to a database in `output`.

    Artifacts go where a server says; a bare database would put them into whatever folder is the
    current one, so there they go to `output`.
    """
    if not enabled:
        return nullcontext(NullTracker())
    chosen = choose_store(uri, output)
    served = not chosen.startswith(("sqlite:", "postgresql", "mysql", "mssql"))
    artifacts = None if served else (output / "mlartifacts").resolve().as_uri()
    return MlflowTracker(chosen, run, artifacts=artifacts, system_metrics=system_metrics)
