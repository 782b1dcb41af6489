"""`anomaly-ft compare`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import store_options


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--format", "form", type=click.Choice(["table", "csv", "md"]), default="table", show_default=True,
    help="csv has all digits and every setting in full.",
)  # fmt: skip
@store_options
def compare(runs: tuple[str, ...], form: str, output: Path, store: str | None) -> None:
    """Show runs side by side: the settings in which they differ, and what came of each.

    RUN is a run folder, a folder of run folders, or the id of an MLflow run; the id of a run with
    children, as a sweep makes them, stands for its children. `gain` is fine-tuned less frozen on the
    test images; the bars are the vicinal AUROC from epoch 0, the pretrained encoder, on.

    \b
    Examples:
      anomaly-ft compare runs/bottle-001 runs/bottle-002
      anomaly-ft compare runs --format md > runs.md
      anomaly-ft compare 41d6e7c1a4b94ad4ad6e9f2a70f3d1a2 --store http://mlflow:5000
    """
    from anomaly_ft.run.compare import compare as put_side_by_side
    from anomaly_ft.run.compare import find_rows
    from anomaly_ft.run.console import show_table
    from anomaly_ft.tracking.store import choose_store

    table = put_side_by_side(find_rows(runs, choose_store(store, output)), exact=form == "csv")
    if form == "table":
        show_table(table.headings, table.rows)
    else:
        click.echo(table.csv() if form == "csv" else table.markdown(), nl=False)
