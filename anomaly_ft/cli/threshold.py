"""`anomaly-ft threshold`."""

from pathlib import Path
from typing import Literal

import click

from anomaly_ft.cli.options import quieten_libraries

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--rate", type=SHARE, help="Share of good images that may be rejected; unset: as before.")
@click.option(
    "--guarantee",
    type=click.Choice(["average", "confidence"]),
    help="Whether the rate holds on average or for this threshold with 95 % confidence; unset: as before.",
)
@click.option("--good", metavar="FOLDER", help="Good images to recalibrate on; unset: those of the run.")
@click.option(
    "--from",
    "defects",
    metavar="ROOT",
    help="Labelled images, or a folder of defective ones alone: the threshold finds all of them.",
)
@click.option(
    "--missed",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="With --from: the share of these defects that may be missed.",
)
@click.option("--value", type=float, help="The threshold itself, on the score that decides.")
@click.option("--why", default="", help="For the record.")
def threshold(
    run: Path,
    rate: float | None,
    guarantee: Literal["average", "confidence"] | None,
    good: str | None,
    defects: str | None,
    missed: float,
    value: float | None,
    why: str,
) -> None:
    """Show or change the threshold of a finished RUN.

    Without options it says where the threshold lies and what was changed since training. Otherwise the change
    is in force at once for predict, evaluate and export; thresholds.json in the run folder keeps what was
    changed, when and why. Versions in MLflow's registry stay as they are; promote makes a new one.

    \b
    Examples:
      anomaly-ft threshold runs/bottle-001
      anomaly-ft threshold runs/bottle-001 --rate 0.05 --why "one in twenty may be looked at"
      anomaly-ft threshold runs/bottle-001 --good good-ones-of-march --guarantee confidence
      anomaly-ft threshold runs/bottle-001 --from defects-of-march --missed 0.02
      anomaly-ft threshold runs/bottle-001 --value 9.5 --why "as agreed on Monday"
    """
    from anomaly_ft.model.changes import read_changes
    from anomaly_ft.model.loading import load_detector
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.open import refuse_unfinished
    from anomaly_ft.run.threshold import Wanted, change_threshold

    quieten_libraries()
    wanted = Wanted(value, good, defects, missed, rate, guarantee)
    if wanted != Wanted():
        change = change_threshold(run, wanted, why, Terminal())
        click.echo(f"{change.how}: {change.point} (before: {change.before:.4g})")
        return
    refuse_unfinished(run)
    thresholds = load_detector(run).thresholds
    click.echo(str(thresholds.point) if thresholds else "no threshold")
    for change in read_changes(run):
        reason = f": {change.why}" if change.why else ""
        click.echo(f"{change.when}  {change.before:.4g} -> {change.point.threshold:.4g}  {change.how}{reason}")
