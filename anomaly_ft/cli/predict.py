"""`anomaly-ft predict`."""

import sys
from functools import partial
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
      anomaly-ft predict runs/bottle-001 "new/**/*.png" --output predictions --maps
      anomaly-ft predict runs/bottle-001 new/ --output predictions --maps --regions --epsilon 0.1
      anomaly-ft predict runs/bottle-001 archive/ --output predictions --engine ray --resume
      anomaly-ft predict runs/fabric-001 wide/ --tile 512 --output predictions --maps
      find new -name "*.png" | anomaly-ft predict runs/bottle-001 - --format jsonl
    """
    needs_folder = {"maps": maps, "regions": regions, "resume": resume}
    for name in (name for name, given in needs_folder.items() if given and output is None):
        raise click.UsageError(f"--{name} needs a folder to write to: --output DIR")
    if address and engine != "ray":
        raise click.UsageError("--address is of a Ray cluster: add --engine ray")
    if epsilon is not None and not regions:
        raise click.UsageError("--epsilon is of --regions; add it")
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.open import open_run
    from anomaly_ft.run.predict_on_ray import score_on_ray
    from anomaly_ft.run.prediction_files import Destination, predict_to, score_here
    from anomaly_ft.run.tiles import in_tiles

    quieten_libraries()
    terminal = Terminal()
    allowed = (EPSILON if epsilon is None else epsilon) if regions else None
    rows = Destination(output, form, maps, allowed, resume)
    score = partial(score_on_ray, address=address) if engine == "ray" else score_here
    opened = in_tiles(open_run(run)[1], tile)
    tally = predict_to(rows, opened, images, stdin=sys.stdin, progress=terminal.track, score=score)
    terminal.say(str(tally))
    for notice in tally.notices:
        terminal.say(f"note: {notice}")
    if fail_on_anomaly and tally.errors:
        sys.exit(UNDECIDED)
    tally.refuse_if_nothing_was_scored()
    if fail_on_anomaly and tally.anomalous:
        sys.exit(ANOMALY)
