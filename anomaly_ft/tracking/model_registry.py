"""Register the models of a finished run in MLflow, give them aliases, delete what a run left there."""

from collections.abc import Callable

import mlflow
from mlflow.tracking import MlflowClient

from anomaly_ft.errors import RunError
from anomaly_ft.system.addresses import without_password

GONE = "RESOURCE_DOES_NOT_EXIST"


def register_model(uri: str, model_id: str, name: str) -> int:
    """Find the version of the registered model `name` that is a logged model, or make it.

    Raises:
        RunError: the store has no such model, or does not register it.
    """
    client = MlflowClient(uri)
    try:
        logged = client.get_logged_model(model_id)
        try:
            client.create_registered_model(name)
        except mlflow.MlflowException as cause:
            if cause.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = logged.artifact_location
        versions = client.search_model_versions(f"name = '{name}'")
        known = [version for version in versions if version.source == source]
        if not known:
            run_id = logged.source_run_id
            known = [client.create_model_version(name, source, run_id=run_id, model_id=model_id)]
    except mlflow.MlflowException as cause:
        trouble = f"the MLflow store {uri}: cannot register {name!r}: {cause}"
        raise RunError(without_password(trouble)) from cause
    return int(known[0].version)


def promote_model(uri: str, model_id: str, *, name: str, alias: str) -> int:
    """Give `alias` to the version of the registered model `name` that is a logged model; returns the version.

    Raises:
        RunError: as `register_model`.
    """
    version_number = register_model(uri, model_id, name)
    MlflowClient(uri).set_registered_model_alias(name, alias, str(version_number))
    return version_number


def registered_versions(uri: str, run_id: str) -> list[str]:
    """Name the versions of registered models that are models of a run.

    Raises:
        RunError: the store does not answer.
    """
    try:
        versions = MlflowClient(uri).search_model_versions(f"run_id = '{run_id}'")
    except mlflow.MlflowException as cause:
        raise RunError(without_password(f"the MLflow store {uri} does not answer: {cause}")) from cause
    return [f"version {version.version} of {version.name}" for version in versions]


def delete_run(uri: str, run_id: str) -> None:
    """Delete a run and the models it logged; what is gone already is passed over. MLflow keeps the files of
    deleted runs until `mlflow gc`.

    Raises:
        RunError: the store refuses.
    """
    client = MlflowClient(uri)
    try:
        outputs = client.get_run(run_id).outputs
        for output in outputs.model_outputs if outputs else ():
            _unless_gone(client.delete_logged_model, output.model_id)
        _unless_gone(client.delete_run, run_id)
    except mlflow.MlflowException as cause:
        if cause.error_code != GONE:
            trouble = f"the MLflow store {uri} did not delete run {run_id}: {cause}; nothing else was deleted"
            raise RunError(without_password(trouble)) from cause


def _unless_gone(delete: Callable[[str], None], name: str) -> None:
    """Delete what may be gone already."""
    try:
        delete(name)
    except mlflow.MlflowException as cause:
        if cause.error_code != GONE:
            raise
