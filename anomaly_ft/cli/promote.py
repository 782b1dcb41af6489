"""`anomaly-ft promote`."""

from pathlib import Path

import click

from anomaly_ft.errors import RunError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the model in MLflow's registry.")
@click.option("--alias", default="champion", show_default=True, help="Given to this run's version of it.")
@click.option(
    "--uri",
    help="MLflow store of the run; unset: MLFLOW_TRACKING_URI, else mlflow.db beside the run.",
)
def promote(run: Path, name: str, alias: str, uri: str | None) -> None:
    """Give the detector of a finished RUN an alias in MLflow's model registry.

    The detector becomes a version of the registered model NAME if it is not one yet; an alias moves there
    from whichever version had it. Whoever loads models:/NAME@ALIAS gets it from then on.

    \b
    Examples:
      anomaly-ft promote runs/bottle-001 --name bottle
      anomaly-ft promote runs/bottle-002 --name bottle --alias challenger
      mlflow models serve -m models:/bottle@champion --env-manager local
    """
    from anomaly_ft.run.open import open_summary
    from anomaly_ft.system.addresses import without_password
    from anomaly_ft.tracking.store import choose_store, existing

    run_id = open_summary(run).mlflow_run_id
    if run_id is None:
        raise RunError(
            f"{run} was not logged to MLflow, so there is no model to promote; anomaly-ft sync uploads it"
        )
    try:
        store = existing(choose_store(uri, run.resolve().parent))
    except FileNotFoundError as cause:
        raise RunError(f"{cause}; name the MLflow store of the run with --uri") from cause
    from anomaly_ft.tracking.model_registry import promote_detector

    version = promote_detector(store, run_id, name=name, alias=alias)
    shown = without_password(store)
    click.echo(f"models:/{name}@{alias} is version {version}, the detector of {run.resolve().name}, in {shown}")
