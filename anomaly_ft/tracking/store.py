"""Choose the MLflow store, and read what it holds."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from anomaly_ft.errors import RunError
from anomaly_ft.system.addresses import without_password

SQLITE = "sqlite:///"
VIEW = "anomaly-ft"  # key of the view of an experiment that its tag describes
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"


@dataclass(frozen=True)
class LoggedRun:
    """One run as MLflow holds it."""

    run_id: str
    name: str
    status: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]  # the last value of each
    tags: Mapping[str, str]
    curve: Callable[[str], list[float]]  # the values of a metric in the order of steps


def read_logged(uri: str, run_id: str) -> list[LoggedRun]:
    """Read the run, or its children if it has any but evaluations.

    Raises:
        RunError: the store does not answer, or has no such run.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    quieten_mlflow()
    try:
        client = MlflowClient(existing(uri))
        parent = client.get_run(run_id)
        below = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        )
    except MlflowException as cause:
        raise RunError(
            without_password(f"{run_id} is no folder, and no run in the MLflow store {uri}: {cause.message}")
        ) from cause
    except Exception as cause:  # whatever the database or the network raises
        raise RunError(
            without_password(
                f"{run_id} is no folder, and MLflow at {uri} cannot be asked: {type(cause).__name__}: {cause}"
            )
        ) from cause

    children = [run for run in below if EVALUATION_TAG not in run.data.tags]

    def curve_of(run: Any) -> Callable[[str], list[float]]:
        def curve(metric: str) -> list[float]:
            points = client.get_metric_history(run.info.run_id, metric)
            return [point.value for point in sorted(points, key=lambda point: point.step)]

        return curve

    return [
        LoggedRun(
            run.info.run_id,
            run.info.run_name,
            run.info.status,
            run.data.params,
            run.data.metrics,
            run.data.tags,
            curve_of(run),
        )
        for run in (sorted(children, key=lambda child: child.info.start_time) or [parent])
    ]


def first_page(uri: str) -> str:
    """Find the page of MLflow's user interface to open: the experiment worked on last, in the view it brings
    along.

    Raises:
        RunError: the store does not answer.
    """
    from mlflow.tracking import MlflowClient

    quieten_mlflow()
    try:
        experiments = MlflowClient(existing(uri)).search_experiments(order_by=["last_update_time DESC"])
    except Exception as cause:  # whatever the database or the network raises
        trouble = f"the MLflow store {uri} cannot be asked: {type(cause).__name__}: {cause}"
        raise RunError(without_password(trouble)) from cause
    ours = [experiment for experiment in experiments if VIEW_TAG in experiment.tags]
    if not ours:
        return "/"
    return f"/#/experiments/{ours[0].experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW}"


def choose_store(uri: str | None, output: Path) -> str:
    """Choose the address named, else MLFLOW_TRACKING_URI, else the database in the output folder.

    A run folder keeps the address without user and password; where MLFLOW_TRACKING_URI names the same place
    with them, it is taken.
    """
    environment = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and environment and uri == without_password(environment):
        return environment
    return uri or environment or store_of(output)


def existing(uri: str) -> str:
    """Return the address; a database file that is not there is an error, for MLflow would make one."""
    path = database_file(uri)
    if path and not path.is_file():
        raise FileNotFoundError(f"there is no {path}")
    return uri


def refuse_new_database(uri: str | None) -> None:
    """Refuse an address for which a file would be made: a run folder does not decide where files are made.

    Raises:
        RunError: the recipe in it names a database that is not there.
    """
    try:
        existing(uri or "")
    except FileNotFoundError as cause:
        raise RunError(f"tracking.uri of the run: {cause}; name one with anomaly-ft sync --store") from cause


def quieten_mlflow() -> None:
    """Silence MLflow's chatter; above all on stdout, where results go."""
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def store_of(output: Path) -> str:
    """Give the address of the database in an output folder.

    Raises:
        RunError: as `sqlite_address`.
    """
    return sqlite_address((output / "mlflow.db").resolve())


def sqlite_address(path: Path) -> str:
    """Give the address of an SQLite database, whatever characters its path has.

    Raises:
        RunError: an installed SQLAlchemy that has no address for such a path.
    """
    plain = f"{SQLITE}{path}"
    if not set("%?#") & set(str(path)):
        return plain
    # slashes are quoted too: MLflow takes what stands before one for a folder to make, as it stands
    for address in (plain, SQLITE + quote(str(path), safe="")):
        if database_file(address) == path:
            return address
    raise RunError(
        f"{path}: SQLAlchemy older than 2.1 cannot address a path with %, ? or #; name another --output, or "
        'pip install "sqlalchemy>=2.1"'
    )


def database_file(address: str) -> Path | None:
    """Give the file of an SQLite address; None for any other address."""
    if not address.startswith(SQLITE):
        return None
    path = address.removeprefix(SQLITE)
    if set("%?") & set(path):
        from sqlalchemy.engine import make_url

        path = make_url(address).database or ""
    return Path(path)


EVALUATION_TAG = "evaluation_of"  # of a run that measured another one again, whose id it holds
