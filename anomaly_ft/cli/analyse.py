"""`anomaly-ft analyse`: studies of a data set or a run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from anomaly_ft.cli.options import look_at, quieten_libraries
from anomaly_ft.errors import DataError

OF_ROOT, OF_RUN = ("layout", "group_by", "csv"), ("images", "steps", "root", "output")


@click.group()
def analyse() -> None:
    """Study a data set or a run: what are its numbers worth?

    \b
    Examples:
      anomaly-ft analyse shortcuts path/to/bottle
      anomaly-ft analyse subspace runs/bottle-001
    """


def _study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data`, `--output` and `--json` of a study of a run."""
    data = click.option("--data", "root", metavar="ROOT", help="Where the run's images are, if they moved.")
    output = click.option(
        "--output", type=click.Path(path_type=Path), help="Folder for RUN-studies; unset: beside the run."
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print the table as JSON, last on stdout.")
    return data(output(as_json(command)))


@analyse.command()
@click.argument("target", metavar="ROOT_OR_RUN")
@click.option("--layout", default="auto", show_default=True, help="Of ROOT: how the images are laid out.")
@click.option("--group-by", default="", metavar="REGEX", help="Of ROOT: as data.group_by in a recipe.")
@click.option("--csv", type=click.Path(path_type=Path), help="Of ROOT: write every comparison to a CSV file.")
@click.option("--images", default=24, show_default=True, help="Of RUN: defective test images to explain.")
@click.option("--steps", default=24, show_default=True, help="Of RUN: of integrated gradients.")
@_study_options
@click.pass_context
def shortcuts(context: click.Context, /, target: str, **options: Any) -> None:
    """Could a light meter tell the test images of ROOT apart? Does the detector of RUN look at the defect?

    \b
    A folder of images: from files and thumbnails alone (size, compression, camera, light, colour, sharpness,
    noise), good test images are compared with good training images, and defective ones with good test images.

    \b
    A finished run: what in an image raises its score, by integrated gradients; the share of it inside the mask
    and on the border frame, by the frozen and by the fine-tuned encoder. Leaves tables and figures in
    RUN-studies/shortcuts, in MLflow too where the run is. Killed, it goes on with the same command.

    \b
    Examples:
      anomaly-ft analyse shortcuts path/to/bottle
      anomaly-ft analyse shortcuts demo:elpv-mono --csv elpv.csv
      anomaly-ft analyse shortcuts runs/bottle-001
    """
    is_run = any((Path(target) / name).is_file() for name in ("detector.json", "summary.json"))
    kind, foreign = ("run", OF_ROOT) if is_run else ("folder of images", OF_RUN)
    given = [name for name in foreign if context.get_parameter_source(name) == ParameterSource.COMMANDLINE]
    if given:
        raise DataError(
            f"{target} is a {kind}, which --{given[0].replace('_', '-')} has nothing to do with; leave it out"
        )
    if is_run:
        _explain(Path(target), **{name: options[name] for name in (*OF_RUN, "as_json")})
    else:
        _audit(target, **{name: options[name] for name in (*OF_ROOT, "as_json")})


def _audit(root: str, *, layout: str, group_by: str, csv: Path | None, as_json: bool) -> None:
    """Print the audit of a folder of images."""
    from anomaly_ft.run.console import Terminal

    audit = look_at(root, layout, Terminal(), group_by).audit
    if audit is None:
        raise DataError(f"{root} has no test images, so there is no number to doubt; put good and defective "
                        "ones below test, see anomaly-ft data")  # fmt: skip
    click.echo(json.dumps(audit.to_json()) if as_json else "\n".join(audit.lines(shown=0)))
    if csv:
        import pandas as pd

        try:
            pd.DataFrame(audit.to_json()["rows"]).to_csv(csv, index=False)
        except OSError as cause:
            raise DataError(f"--csv {csv}: cannot be written: {cause}") from cause


def _explain(
    run: Path, *, images: int, steps: int, root: str | None, output: Path | None, as_json: bool
) -> None:
    """Explain a finished run, and print where it looks."""
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.explain import Effort, explain_run
    from anomaly_ft.run.explain_tables import shown_changes, shown_rows

    quieten_libraries()
    terminal = Terminal()
    folder, table, changes = explain_run(run, terminal, Effort(images, steps), root=root, output=output)
    terminal.table(f"{run.resolve().name}: where relevance lies", shown_rows(table))
    for line in shown_changes(changes):
        terminal.say(line)
    terminal.say(f"tables and figures  {folder}")
    if as_json:
        click.echo(json.dumps({"table": table, "changes": changes}))


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


@analyse.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--shares", default="", help="Such as 0,0.05,0.1; unset: 0,0.02,0.05,0.1,0.2 where possible.")
@click.option("--seeds", default=3, show_default=True, help="So many, from that of the recipe on.")
@click.option("--finetune", is_flag=True, help="Fine-tune too: as it is, trimmed before, trimmed in training.")
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Where the folder NAME-contamination and the MLflow database go.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON, last on stdout.")
def contamination(
    recipe: Path, overrides: tuple[str, ...], output: Path, as_json: bool, **options: Any
) -> None:
    """What do defective images among the training images of RECIPE cost, and what helps?

    Shares of the training set are planted from the defective test images; those are missing from the test at
    every share, so that all are measured on the same images. Beside statistics as they are: without images that
    stand out by their distance to the others (trimmed), or by that to a robust mean and covariance (MCD).
    Killed, it goes on with the same command.

    \b
    Examples:
      anomaly-ft analyse contamination recipes/quickstart.yaml
      anomaly-ft analyse contamination recipes/mvtec.yaml -s data.root=bottle --shares 0,0.05 --finetune
    """
    from anomaly_ft.recipe.read import read_recipe

    resolved = read_recipe(recipe, overrides)
    try:
        shares = tuple(float(share) for share in options["shares"].split(",") if share.strip())
    except ValueError:
        raise DataError(f"--shares {options['shares']}: expected numbers with commas, such as 0,0.05") from None
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.contamination import Extent, shown_rows, study_contamination

    quieten_libraries()
    terminal = Terminal()
    extent = Extent(shares, options["seeds"], options["finetune"])
    folder, table = study_contamination(resolved, terminal, extent, output)
    terminal.table(f"{resolved.name}: defective training images", list(shown_rows(table)))
    terminal.say(f"tables and figures  {folder}")
    if as_json:
        click.echo(json.dumps(table))
