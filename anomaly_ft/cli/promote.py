"""`anomaly-ft promote`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import quieten_libraries


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Of the model in MLflow's registry.")
@click.option("--alias", default="champion", show_default=True, help="Given to this run's version of it.")
@click.option("--graph", is_flag=True, help="Promote the detector's ONNX graph, a model without code.")
@click.option(
    "--images",
    multiple=True,
    help="File, folder or pattern to compare a graph on; may be repeated. Unset: test images of the run.",
)
@click.option(
    "--store",
    help="MLflow store of the run; unset: that of its recipe, MLFLOW_TRACKING_URI, else mlflow.db beside it.",
)
def promote(run: Path, name: str, alias: str, graph: bool, images: tuple[str, ...], store: str | None) -> None:
    """Give the detector of a finished RUN an alias in MLflow's model registry.

    The detector, with the threshold that is in force, becomes a version of the registered model NAME if it is
    not one yet; an alias moves there from whichever version had it. Whoever loads models:/NAME@ALIAS gets it
    from then on.

    With --graph it is the detector's ONNX graph, for places where MLFLOW_ALLOW_MODEL_CODE_EXECUTION=false
    refuses models with code: mlflow.onnx.load_model loads it. It is logged to the run the first time, once it
    was compared with the detector as by export.

    \b
    Examples:
      anomaly-ft promote runs/bottle-001 --name bottle
      anomaly-ft promote runs/bottle-002 --name bottle --alias challenger
      anomaly-ft promote runs/bottle-001 --name bottle-graph --graph
      mlflow models serve -m models:/bottle@champion --env-manager local
    """
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.promote import Wanted
    from anomaly_ft.run.promote import promote as give_alias
    from anomaly_ft.system.addresses import without_password

    quieten_libraries()
    version, where = give_alias(run, Wanted(name, alias, graph, images), store, Terminal())
    what = f"the {'ONNX graph' if graph else 'detector'} of {run.resolve().name}"
    click.echo(f"models:/{name}@{alias} is version {version}, {what}, in {without_password(where)}")
