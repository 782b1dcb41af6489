"""`anomaly-ft sync`."""

from pathlib import Path

import click


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--store",
    metavar="URI",
    help="MLflow server or database; unset: that of the run's recipe, else MLFLOW_TRACKING_URI, else the "
    "database beside the run.",
)
def sync(runs: tuple[Path, ...], store: str | None) -> None:
    """Send to MLflow what it lacks of finished RUNS, because it was down while they trained.

    Nothing is sent twice. A run that MLflow does not know is made. Pictures of single epochs and of suspicious
    images are sent by train alone; report.html shows maps of the encoder that was kept.

    \b
    Examples:
      anomaly-ft sync runs/bottle-001
      anomaly-ft sync runs/* --store http://mlflow:5000
    """
    from anomaly_ft.run.sync import sync as send

    for run in runs:
        click.echo(send(run, store))
