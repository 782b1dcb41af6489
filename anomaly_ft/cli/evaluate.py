"""`anomaly-ft evaluate`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import TILE, echo_json, quieten_libraries


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data",
    "root",
    metavar="ROOT",
    help="Labelled images, or a folder of good ones alone; unset: the test images of the run.",
)
@click.option(
    "--by",
    default="",
    metavar="WHAT",
    help="Numbers for each camera, shift, month or lamp too: a column of the manifest, a regular expression "
    "with a (group) on paths, or `folder`: the innermost folder of an image below that of its kind.",
)
@click.option("--tile", type=click.IntRange(min=1), metavar="PIXELS", help=TILE)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the new folder goes; unset: beside the run."
)
@click.option("--mlflow", is_flag=True, help="Log it to MLflow as well, as a run below the one measured.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json as the last line of stdout.")
def evaluate(
    run: Path,
    root: str | None,
    by: str,
    tile: int | None,
    output: Path | None,
    mlflow: bool,
    as_json: bool,
) -> None:
    """Measure the detector of a finished RUN again, on its own test images or on others.

    Leaves a folder of its own with numbers by defect type, their 95 % intervals, pixel metrics where
    there are masks, and a report.html. Nothing is written into the run. Of a folder of good images alone it
    says how many false alarms there are; of any images, whether they look like those the detector knows.

    \b
    Examples:
      anomaly-ft evaluate runs/bottle-001
      anomaly-ft evaluate runs/bottle-001 --data bottles-of-march --output evaluations --mlflow
      anomaly-ft evaluate runs/bottle-001 --data good-ones-of-march
      anomaly-ft evaluate runs/bottle-001 --data march.csv --by camera
      anomaly-ft evaluate runs/bottle-001 --by "(cam\\d+)_"
    """
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.evaluate import Asked
    from anomaly_ft.run.evaluate import evaluate as measure_again

    quieten_libraries()
    terminal = Terminal()
    folder, summary = measure_again(run, terminal, Asked(root, by, tile), output=output, mlflow=mlflow)
    terminal.evaluation(summary, folder)
    if as_json:
        echo_json(folder / "summary.json")
