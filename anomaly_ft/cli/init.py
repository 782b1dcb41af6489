"""`anomaly-ft init`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import look_at
from anomaly_ft.errors import DataError


@click.command()
@click.argument("folder", required=False)
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--layout", default="auto", show_default=True, help="How the images are laid out.")
@click.option("--recipe", "ready", metavar="NAME", help="Write one of the recipes that come with anomaly_ft.")
@click.option("--force", is_flag=True, help="Replace a recipe that is there already.")
def init(folder: str | None, recipe: Path | None, layout: str, ready: str | None, force: bool) -> None:
    """Look at FOLDER and write a commented RECIPE for it; unset: FOLDER's name with .yaml, here.

    Every image is read once, as `anomaly-ft data` does. What your images ask for is set: bit depth,
    elongated images, few images, and what may differ between good parts. What you may want to change next is in
    the file, with explanations. Beside it a sheet of varied images is drawn, bottle-variation.png for
    bottle.yaml: are all of these good parts?

    \b
    Examples:
      anomaly-ft init path/to/bottle
      anomaly-ft init path/to/bottle recipes/bottle.yaml
      anomaly-ft init --recipe quickstart
    """
    if ready:
        write_ready(ready, Path(folder or f"{ready}.yaml"), force)
        return
    if folder is None:
        raise click.UsageError("name a FOLDER of images, or --recipe NAME")
    from anomaly_ft.recipe.read import read_recipe
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.sheet import among_images, write_sheet
    from anomaly_ft.run.starter import starter_recipe, valid_name, with_recipe
    from anomaly_ft.system.files import write_text

    terminal, demo = Terminal(), folder.startswith("demo:")
    path = Path(folder).expanduser().resolve()
    name = valid_name(folder if demo else path.stem if path.is_file() else path.name)
    target = recipe or Path(f"{name}.yaml")
    sheet = target.with_name(f"{target.stem}-variation.png")
    for file in (target, sheet):
        if file.exists() and not force:
            raise DataError(f"{file} exists; name another file, or replace it with --force")
    report = with_recipe(look_at(folder, layout, terminal))
    drawn = not among_images(report, sheet)
    text = starter_recipe(
        report, folder if demo else str(path), name, layout=layout, sheet=sheet.name if drawn else ""
    )
    if drawn:
        write_sheet(report, sheet)
    try:
        write_text(target, text.replace("THIS_FILE", str(target)))
    except OSError as cause:
        if drawn:
            sheet.unlink(missing_ok=True)  # else it would be in the way of the next try
        raise DataError(f"{target}: cannot be written: {cause}") from cause
    read_recipe(target)
    for line in report.lines():
        terminal.say(line)
    if drawn:
        terminal.say(f"\ndrew {sheet}: are all of these good parts? If not, lower a strength in {target}")
    else:
        terminal.say(
            f"\nno sheet was drawn among your images; elsewhere: anomaly-ft data {folder} --sheet FILE"
        )
    terminal.say(f"\nwrote {target}; next:\n  anomaly-ft train {target} --dry-run\n  anomaly-ft train {target}")
    click.echo(target)


def write_ready(name: str, target: Path, force: bool) -> None:
    """Write one of the recipes that come with the package."""
    from anomaly_ft.recipe.shipped import shipped_recipe
    from anomaly_ft.system.files import write_text

    text = shipped_recipe(name)
    if target.exists() and not force:
        raise DataError(f"{target} exists; name another file, or replace it with --force")
    try:
        write_text(target, text.replace(f"recipes/{name}.yaml", str(target)))
    except OSError as cause:
        raise DataError(f"{target}: cannot be written: {cause}") from cause
    click.echo(target)
