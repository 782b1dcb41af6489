"""`anomaly-ft data`."""

import json
from pathlib import Path

import click

from anomaly_ft.cli.options import look_at
from anomaly_ft.errors import DataError


@click.command()
@click.argument("root")
@click.option("--layout", default="auto", show_default=True, help="How the images are laid out.")
@click.option("--group-by", default="", metavar="REGEX", help="As data.group_by in a recipe.")
@click.option("--thumbnails", type=click.Path(path_type=Path), help="Write a contact sheet, such as out.png.")
@click.option(
    "--sheet", type=click.Path(path_type=Path), help="Draw varied good images: are all of these good parts?"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def data(
    root: str, layout: str, group_by: str, thumbnails: Path | None, sheet: Path | None, as_json: bool
) -> None:
    """Show what ROOT holds, how it will be split, and what is wrong with it.

    ROOT is a folder of images in any of the known layouts, a manifest, or a demo source. From good training
    images alone it is also said what may differ between them without being a defect (`varies`), and with
    --sheet drawn.

    \b
    Examples:
      anomaly-ft data path/to/bottle
      anomaly-ft data path/to/bottle --thumbnails bottle.png
      anomaly-ft data path/to/bottle --sheet varied.png
      anomaly-ft data demo:elpv-mono --json
    """
    from anomaly_ft.data.checks.thumbnails import contact_sheet
    from anomaly_ft.run.console import Terminal

    report = look_at(root, layout, Terminal(), group_by)
    click.echo(json.dumps(report.to_json()) if as_json else "\n".join(report.lines()))
    if thumbnails:
        try:
            contact_sheet(report.records, thumbnails)
        except (OSError, ValueError) as cause:
            raise DataError(f"--thumbnails {thumbnails}: cannot be written: {cause}") from cause
    if sheet:
        from anomaly_ft.run.sheet import write_sheet  # only here, for it loads what varies images

        write_sheet(report, sheet)
