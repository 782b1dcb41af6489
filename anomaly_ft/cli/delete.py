"""`anomaly-ft delete`."""

from pathlib import Path

import click

from anomaly_ft.errors import RunError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--store",
    help="MLflow store of the run; unset: that of its recipe, MLFLOW_TRACKING_URI, else mlflow.db beside it.",
)
def delete(run: Path, yes: bool, store: str | None) -> None:
    """Delete a finished RUN: its folder, its run in MLflow and the detector logged there.

    Refused as long as a version in the model registry is its detector. MLflow keeps the files of what was
    deleted until mlflow gc.

    \b
    Examples:
      anomaly-ft delete runs/bottle-001
      anomaly-ft delete runs/bottle-001 --yes
    """
    from anomaly_ft.run.delete import delete as remove
    from anomaly_ft.run.delete import find_doomed

    doomed = find_doomed(run, store)
    try:
        sure = yes or click.confirm(f"delete {doomed}?", err=True)
    except click.Abort as cause:
        raise RunError(f"{run}: nobody answered, nothing was deleted; give --yes where nobody can") from cause
    if not sure:
        raise RunError(f"{run}: nothing was deleted")
    remove(doomed)
    click.echo(f"deleted {doomed}")
