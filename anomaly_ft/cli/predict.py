"""`anomaly-ft predict`."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from anomaly_ft.cli.options import ANOMALY, TILE, UNDECIDED, quieten_libraries

if TYPE_CHECKING:
    from anomaly_ft.run.prediction_rows import Tally

EPSILON = 0.1


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for predictions and maps; unset: rows go to stdout.",
)
@click.option(
    "--maps",
    is_flag=True,
    help="Also write maps: over images (.png, what is anomalous outlined in white) and raw (.npy).",
)
@click.option(
    "--regions",
    is_flag=True,
    help="Also write the regions of each map that chance hardly makes: boxes, areas, numbers of false alarms.",
)
@click.option(
    "--epsilon",
    type=float,
    metavar="NUMBER",
    help=f"False alarms that --regions allows a good image on average.  [default: {EPSILON}]",
)
@click.option(
    "--also",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN",
    help="Another run that scores the same images, more than once if need be; --output gets a folder for each.",
)
@click.option("--tile", type=click.IntRange(min=1), metavar="PIXELS", help=TILE)
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on with the rows of --output: images that have one are not scored again.",
)
@click.option(
    "--engine",
    type=click.Choice(["in-process", "ray"]),
    default="in-process",
    show_default=True,
    help="Here, or by as many workers as a Ray cluster has processors for.",
)
@click.option("--address", help="Of an existing Ray cluster that sees the files; unset: a local one.")
@click.option(
    "--fail-on-anomaly",
    is_flag=True,
    help="Exit with 7 when an image got no decision, else with 3 when one is anomalous.",
)
def predict(
    run: Path,
    images: tuple[str, ...],
    output: Path | None,
    maps: bool,
    regions: bool,
    epsilon: float | None,
    also: tuple[Path, ...],
    tile: int | None,
    form: Literal["csv", "jsonl"],
    fail_on_anomaly: bool,
    resume: bool,
    engine: str,
    address: str | None,
) -> None:
    """Score IMAGES with the detector of a finished RUN.

    IMAGES are files, folders, patterns in quotes, or - for paths on stdin, one a line. A row for each
    image appears while it works: path, score, decision, all scores, and in the column `error` why an
    image could not be read or scored. With --fail-on-anomaly, 0 means that every image was scored and none
    is anomalous.

    \b
    Examples:
      anomaly-ft predict runs/bottle-001 new/
      anomaly-ft predict runs/bottle-001 "new/**/*.png" --output predictions --maps --regions --epsilon 0.1
      anomaly-ft predict runs/bottle-001 new/ --also runs/cap-001 --also runs/label-001 --output predictions
      anomaly-ft predict runs/bottle-001 archive/ --output predictions --engine ray --resume
      anomaly-ft predict runs/fabric-001 wide/ --tile 512 --output predictions --maps
      find new -name "*.png" | anomaly-ft predict runs/bottle-001 - --format jsonl
    """
    needs_folder = {"maps": maps, "regions": regions, "resume": resume, "also": bool(also)}
    for name in (name for name, given in needs_folder.items() if given and output is None):
        raise click.UsageError(f"--{name} needs a folder to write to: --output DIR")
    if address and engine != "ray":
        raise click.UsageError("--address is of a Ray cluster: add --engine ray")
    if epsilon is not None and not regions:
        raise click.UsageError("--epsilon is of --regions; add it")
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.many import open_each
    from anomaly_ft.run.predict import expand
    from anomaly_ft.run.predict_on_ray import score_on_ray
    from anomaly_ft.run.prediction_files import Destination, predict_to, score_here
    from anomaly_ft.run.tiles import in_tiles

    quieten_libraries()
    terminal, allowed = Terminal(), (EPSILON if epsilon is None else epsilon) if regions else None
    score = partial(score_on_ray, address=address) if engine == "ray" else score_here
    runs, tallies = open_each([run, *also]), []
    paths = [*expand(images, sys.stdin)] if also else images  # before there are maps among them
    for loaded in runs:
        own = output / loaded.name if also and output else output
        rows, opened = Destination(own, form, maps, allowed, resume), in_tiles(loaded, tile)
        tally = predict_to(rows, opened, paths, stdin=sys.stdin, progress=terminal.track, score=score)
        terminal.say(f"{loaded.name}: {tally}" if also else str(tally))
        for notice in tally.notices:
            terminal.say(f"note: {notice}")
        tallies.append(tally)
        del loaded, opened  # before the next one is
    _leave(tallies, fail_on_anomaly)


def _leave(tallies: "list[Tally]", fail_on_anomaly: bool) -> None:
    """Exit as a gate does, or raise a DataError where a run scored nothing at all."""
    if fail_on_anomaly and any(tally.errors for tally in tallies):
        sys.exit(UNDECIDED)
    for tally in tallies:
        tally.refuse_if_nothing_was_scored()
    if fail_on_anomaly and any(tally.anomalous for tally in tallies):
        sys.exit(ANOMALY)
