"""`anomaly-ft analyse`: studies of a data set or a run."""

import json
from pathlib import Path

import click

from anomaly_ft.cli.options import look_at
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
