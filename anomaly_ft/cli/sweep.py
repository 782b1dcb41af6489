"""`anomaly-ft sweep`."""

import json
import sys
from pathlib import Path
from typing import Literal

import click

from anomaly_ft.cli.options import FAILED_RUNS, quieten_libraries


@click.command()
@click.argument("sweep_file", metavar="SWEEP", type=click.Path(path_type=Path))
@click.option(
    "-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of every run."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Where the sweep's folder and the MLflow database go.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["in-process", "ray"]), default="in-process", show_default=True,
    help="One after another, or as many at a time as a Ray cluster has room for.",
)  # fmt: skip
@click.option("--address", help="Of an existing Ray cluster; unset: a local one.")
@click.option("--dry-run", is_flag=True, help="List the runs and which of them are finished; run nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print all results as the last line of stdout.")
def sweep(
    sweep_file: Path,
    overrides: tuple[str, ...],
    output: Path,
    engine: Literal["in-process", "ray"],
    address: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train categories x settings x seeds as SWEEP (a YAML file) lists them, and set them side by side.

    Given again, only runs that are not finished yet are run. A run that fails does not stop the others;
    the command then exits with 5.

    \b
    Examples:
      anomaly-ft sweep sweeps/elpv.yaml
      anomaly-ft sweep sweeps/elpv.yaml -s schedule.max_epochs=2 --dry-run
      anomaly-ft sweep sweeps/elpv.yaml --engine ray --address ray://head:10001
    """
    if address and engine != "ray":
        raise click.UsageError("--address is of a Ray cluster: add --engine ray")
    from anomaly_ft.recipe.sweep import read_sweep

    plan = read_sweep(sweep_file, overrides)
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.folder import locked
    from anomaly_ft.run.sweep import finished, run_sweep

    quieten_libraries()
    terminal = Terminal()
    if dry_run:
        for job in plan.jobs:
            earlier = finished(job.recipe, output / plan.name)
            terminal.say(f"{job.recipe.name}: {earlier.folder if earlier else 'to be run'}")
        return
    with locked(output / plan.name):
        summary = run_sweep(plan, output, terminal, engine=engine, address=address)
    terminal.table(f"{plan.name}: image AUROC, mean ± sd over seeds", summary["table"])
    terminal.say(f"results     {summary['folder']}/results/results.csv")
    if summary["mlflow_run_id"]:
        terminal.say(f"compare     mlflow ui --backend-store-uri {summary['mlflow_uri']}")
    if as_json:
        click.echo(json.dumps(summary))
    if summary["failed"]:
        terminal.say(f"{summary['failed']} runs failed; why stands in {summary['folder']}/results/errors")
        sys.exit(FAILED_RUNS)
