"""`anomaly-ft predict`."""

import sys
from pathlib import Path
from typing import Literal

import click

from anomaly_ft.cli.options import ANOMALY, TILE, UNDECIDED, quieten_libraries

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
@click.option("--tile", type=click.IntRange(min=1), metavar="PIXELS", help=TILE)
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), default="csv", show_default=True)
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
    tile: int | None,
    form: Literal["csv", "jsonl"],
    fail_on_anomaly: bool,
) -> None:
    """Score IMAGES with the detector of a finished RUN.

    IMAGES are files, folders, patterns in quotes, or - for paths on stdin, one a line. A row for each
    image appears while it works: path, score, decision, all scores, and in the column `error` why an
    image could not be read or scored. With --fail-on-anomaly, 0 means that every image was scored and none
    is anomalous.

    \b
    Examples:
      anomaly-ft predict runs/bottle-001 new/
      anomaly-ft predict runs/bottle-001 "new/**/*.png" --output predictions --maps
      anomaly-ft predict runs/bottle-001 new/ --output predictions --maps --regions --epsilon 0.1
      anomaly-ft predict runs/fabric-001 wide/ --tile 512 --output predictions --maps
      find new -name "*.png" | anomaly-ft predict runs/bottle-001 - --format jsonl
    """
    if maps and output is None:
        raise click.UsageError("--maps needs a folder to write to: --output DIR")
    if regions and output is None:
        raise click.UsageError("--regions needs a folder to write to: --output DIR")
    if epsilon is not None and not regions:
        raise click.UsageError("--epsilon is of --regions; add it")
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.open import open_run
    from anomaly_ft.run.predict import Destination, predict_to
    from anomaly_ft.run.tiles import in_tiles

    quieten_libraries()
    terminal = Terminal()
    allowed = (EPSILON if epsilon is None else epsilon) if regions else None
    rows = Destination(output, form, maps, allowed)
    tally = predict_to(rows, in_tiles(open_run(run)[1], tile), images, stdin=sys.stdin, progress=terminal.track)
    terminal.say(str(tally))
    for notice in tally.notices:
        terminal.say(f"note: {notice}")
    if fail_on_anomaly and tally.errors:
        sys.exit(UNDECIDED)
    tally.refuse_if_nothing_was_scored()
    if fail_on_anomaly and tally.anomalous:
        sys.exit(ANOMALY)
