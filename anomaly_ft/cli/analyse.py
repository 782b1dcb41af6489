"""`anomaly-ft analyse`: studies of a data set or a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from anomaly_ft.cli.options import look_at, quieten_libraries
from anomaly_ft.errors import DataError


@click.group()
def analyse() -> None:
    """Study a data set or a run: what are its numbers worth?

    \b
    Example:
      anomaly-ft analyse shortcuts path/to/bottle
    """


@analyse.command()
@click.argument("root")
@click.option("--layout", default="auto", show_default=True, help="How the images are laid out.")
@click.option("--group-by", default="", metavar="REGEX", help="As data.group_by in a recipe.")
@click.option("--csv", "table", type=click.Path(path_type=Path), help="Write every comparison to a CSV file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def shortcuts(root: str, layout: str, group_by: str, table: Path | None, as_json: bool) -> None:
    """Ask whether a light meter could tell the test images of ROOT apart: all that `anomaly-ft data` asks, in
    full.

    From files and thumbnails alone: size, compression, camera, light, colour, sharpness, noise. Good test
    images are compared with good training images, and defective ones with good test images.

    \b
    Examples:
      anomaly-ft analyse shortcuts path/to/bottle
      anomaly-ft analyse shortcuts demo:elpv-mono --csv elpv.csv
    """
    from anomaly_ft.run.console import Terminal

    audit = look_at(root, layout, Terminal(), group_by).audit
    if audit is None:
        raise DataError(f"{root} has no test images, so there is no number to doubt; put good and defective "
                        "ones below test, see anomaly-ft data")  # fmt: skip
    click.echo(json.dumps(audit.to_json()) if as_json else "\n".join(audit.lines(shown=0)))
    if table:
        import pandas as pd

        try:
            pd.DataFrame(audit.to_json()["rows"]).to_csv(table, index=False)
        except OSError as cause:
            raise DataError(f"--csv {table}: cannot be written: {cause}") from cause


def _study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--data`, `--output` and `--json` of a study of a run."""
    data = click.option("--data", "root", metavar="ROOT", help="Where the run's images are, if they moved.")
    output = click.option(
        "--output", type=click.Path(path_type=Path), help="Folder for RUN-studies; unset: beside the run."
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the table as JSON, last on stdout.")
    return data(output(as_json(command)))


@analyse.command()
@click.argument("run", type=click.Path(path_type=Path))
@_study_options
def subspace(run: Path, root: str | None, output: Path | None, as_json: bool) -> None:
    """Which directions of the features tell defects: those in which good images vary most, or least?

    Of each level and of their sum: all directions, the first principal components (PCA), what they leave over
    (NPCA), and random subspaces of the same sizes, with the frozen and the fine-tuned encoder side by side.
    Leaves tables and figures in RUN-studies/subspace, in MLflow too where the run is. Killed, it goes on with
    the same command.

    \b
    Example:
      anomaly-ft analyse subspace runs/bottle-001
    """
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.subspace import shown_rows, study_subspaces

    quieten_libraries()
    terminal = Terminal()
    folder, table = study_subspaces(run, terminal, root=root, output=output)
    terminal.table(f"{run.resolve().name}: sum over levels", shown_rows(table))
    terminal.say(f"tables and figures  {folder}")
    if as_json:
        click.echo(json.dumps(table))
