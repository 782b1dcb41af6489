"""The `anomaly-ft` command.

Exit codes: 0 done, 1 a bug, 2 something the user can mend, 3 an anomaly was found and that is to count
as failure, 4 training diverged, 130 interrupted.
"""

import json
import sys
from pathlib import Path
from typing import Literal

import click

from anomaly_ft import __version__
from anomaly_ft.errors import AnomalyFtError, DataError

ANOMALY, DIVERGED = 3, 4


class _Group(click.Group):
    """Words the errors a user can mend, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AnomalyFtError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo(
                "Interrupted; what was written is kept (of train: in the output folder's .partial folder)",
                err=True,
            )
            ctx.exit(130)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="anomaly-ft")
def main() -> None:
    """Fine-tune a pretrained image encoder on images of good parts, and stop before it forgets.

    \b
    Examples:
      anomaly-ft train recipes/quickstart.yaml
      anomaly-ft predict runs/quickstart-001 new/*.png
    """


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Where the run folder and the MLflow database go.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Show data, levels and settings; train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json as the last line of stdout.")
def train(recipe: Path, overrides: tuple[str, ...], output: Path, dry_run: bool, as_json: bool) -> None:
    """Fine-tune the encoder that RECIPE (a YAML file) describes.

    Leaves a run folder with the fine-tuned encoder, the detector, its threshold and all numbers. Exits
    with 4 when training diverged; the best epoch before that is kept all the same.

    \b
    Examples:
      anomaly-ft train recipes/quickstart.yaml
      anomaly-ft train recipes/mvtec.yaml -s data.root=bottle -s optimizer.lr=3e-5
      anomaly-ft train recipes/mvtec.yaml -s data.root=bottle --dry-run
    """
    from anomaly_ft.recipe_file import read_recipe

    resolved = read_recipe(recipe, overrides)
    from anomaly_ft.run import train as run_train
    from anomaly_ft.setup import prepare
    from anomaly_ft.terminal import Terminal

    _quieten_libraries()
    terminal = Terminal()
    setup = prepare(resolved, terminal)
    for line in setup.describe():
        terminal.say(line)
    if dry_run:
        terminal.say("\n" + setup.recipe.to_yaml())
        return
    summary = run_train(setup, output)
    terminal.results(summary)
    if as_json:
        _echo_summary(summary["folder"])
    if summary["stop_reason"] == "diverged":
        sys.exit(DIVERGED)


@main.command()
@click.argument("root")
@click.option("--layout", default="auto", show_default=True, help="How the images are laid out.")
@click.option("--group-by", default="", metavar="REGEX", help="As data.group_by in a recipe.")
@click.option("--thumbnails", type=click.Path(path_type=Path), help="Write a contact sheet, such as out.png.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def data(root: str, layout: str, group_by: str, thumbnails: Path | None, as_json: bool) -> None:
    """Show what ROOT holds, how it will be split, and what is wrong with it.

    ROOT is a folder of images in any of the known layouts, a manifest, or a demo source.

    \b
    Examples:
      anomaly-ft data path/to/bottle
      anomaly-ft data path/to/bottle --thumbnails bottle.png
      anomaly-ft data demo:elpv-mono --json
    """
    import os

    from anomaly_ft.data.inspect import inspect
    from anomaly_ft.data.thumbnails import contact_sheet
    from anomaly_ft.recipe import Data
    from anomaly_ft.terminal import Terminal

    shares = Data(root=root)
    report = inspect(
        root,
        layout=layout,
        group_by=group_by,
        watch=shares.watch_share,
        calibrate=shares.calibration_share,
        threads=os.cpu_count() or 1,
        progress=Terminal().track,
    )
    click.echo(json.dumps(report.to_json()) if as_json else "\n".join(report.lines()))
    if thumbnails:
        try:
            contact_sheet(report.records, thumbnails)
        except (OSError, ValueError) as cause:
            raise DataError(f"--thumbnails {thumbnails}: cannot be written: {cause}") from cause


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", "root", metavar="ROOT", help="Labelled images; unset: the test images of the run.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the new folder goes; unset: beside the run."
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json as the last line of stdout.")
def evaluate(run: Path, root: str | None, output: Path | None, as_json: bool) -> None:
    """Measure the detector of a finished RUN again, on its own test images or on others.

    Leaves a folder of its own with numbers by defect type, their 95 % intervals, pixel metrics where
    there are masks, and a report.html. Nothing is written into the run.

    \b
    Examples:
      anomaly-ft evaluate runs/bottle-001
      anomaly-ft evaluate runs/bottle-001 --data bottles-of-march --output evaluations
    """
    from anomaly_ft.evaluate import evaluate as measure_again
    from anomaly_ft.terminal import Terminal

    _quieten_libraries()
    terminal = Terminal()
    summary = measure_again(run, terminal, root=root, output=output)
    terminal.evaluation(summary)
    if as_json:
        _echo_summary(summary["folder"])


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for predictions and maps; unset: rows go to stdout.",
)
@click.option("--maps", is_flag=True, help="Also write each map over its image (.png) and raw (.npy).")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option("--fail-on-anomaly", is_flag=True, help="Exit with 3 when an image is anomalous.")
def predict(
    run: Path,
    images: tuple[str, ...],
    output: Path | None,
    maps: bool,
    form: Literal["csv", "jsonl"],
    fail_on_anomaly: bool,
) -> None:
    """Score IMAGES with the detector of a finished RUN.

    IMAGES are files, folders, patterns in quotes, or - for paths on stdin, one a line. A row for each
    image appears while it works: path, score, decision, all scores, and in the column `error` why an
    image could not be read.

    \b
    Examples:
      anomaly-ft predict runs/bottle-001 new/
      anomaly-ft predict runs/bottle-001 "new/**/*.png" --output predictions --maps
      find new -name "*.png" | anomaly-ft predict runs/bottle-001 - --format jsonl
    """
    if maps and output is None:
        raise click.UsageError("--maps needs a folder to write to: --output DIR")
    from anomaly_ft.deploy.predict import predict_to
    from anomaly_ft.evaluate import open_run
    from anomaly_ft.terminal import Terminal

    _quieten_libraries()
    terminal = Terminal()
    tally = predict_to(
        output, open_run(run)[1], images, stdin=sys.stdin, form=form, maps=maps, progress=terminal.track
    )
    terminal.say(str(tally))
    if fail_on_anomaly and tally.anomalous:
        sys.exit(ANOMALY)


def _echo_summary(folder: str) -> None:
    """`summary.json` on one line."""
    click.echo(json.dumps(json.loads(Path(folder, "summary.json").read_text(encoding="utf-8"))))


def _quieten_libraries() -> None:
    """Silence libraries' chatter that a user can do nothing about; called after they are imported."""
    import logging
    import warnings

    for name in ("lightning_fabric", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning_fabric")
