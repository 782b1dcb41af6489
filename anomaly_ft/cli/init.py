"""`anomaly-ft init`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import look_at
from anomaly_ft.errors import DataError


@click.command()
@click.argument("folder")
@click.argument("recipe", type=click.Path(path_type=Path), required=False)
@click.option("--layout", default="auto", show_default=True, help="How the images are laid out.")
@click.option("--force", is_flag=True, help="Replace a recipe that is there already.")
def init(folder: str, recipe: Path | None, layout: str, force: bool) -> None:
    """Look at FOLDER and write a commented RECIPE for it; unset: FOLDER's name with .yaml, here.

    Every image is read once, as `anomaly-ft data` does. What your images ask for is set: bit depth,
    elongated images, few images. What you may want to change next is in the file, with explanations.

    \b
    Examples:
      anomaly-ft init path/to/bottle
      anomaly-ft init path/to/bottle recipes/bottle.yaml
    """
    from anomaly_ft.recipe.read import read_recipe
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.starter import starter_recipe, valid_name, with_recipe

    terminal, demo = Terminal(), folder.startswith("demo:")
    path = Path(folder).expanduser().resolve()
    name = valid_name(folder if demo else path.stem if path.is_file() else path.name)
    target = recipe or Path(f"{name}.yaml")
    if target.exists() and not force:
        raise DataError(f"{target} exists; name another file, or replace it with --force")
    report = with_recipe(look_at(folder, layout, terminal))
    text = starter_recipe(report, folder if demo else str(path), name, layout=layout)
    try:
        target.write_text(text.replace("THIS_FILE", str(target)), encoding="utf-8")
    except OSError as cause:
        raise DataError(f"{target}: cannot be written: {cause}") from cause
    read_recipe(target)
    for line in report.lines():
        terminal.say(line)
    terminal.say(f"\nwrote {target}; next:\n  anomaly-ft train {target} --dry-run\n  anomaly-ft train {target}")
    click.echo(target)
