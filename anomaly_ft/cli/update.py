"""`anomaly-ft update`."""

from pathlib import Path

import click

from anomaly_ft.cli.options import echo_json, quieten_libraries


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("folder")
@click.option(
    "--cleared",
    is_flag=True,
    help="They are false alarms that somebody looked at: all enter the statistics, none the threshold.",
)
@click.option("--force", is_flag=True, help="Add them although they look like another part.")
@click.option(
    "--output", type=click.Path(path_type=Path), help="Where the new folder goes; unset: beside the run."
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json as the last line of stdout.")
def update(run: Path, folder: str, cleared: bool, force: bool, output: Path | None, as_json: bool) -> None:
    """Add the good images in FOLDER to a finished RUN, without training.

    Leaves a new run folder, and a run in MLflow below the old one, which stays as it was. Most new images
    enter the statistics, some the scale and the threshold, in the shares of the recipe; two updates give what
    one with all the images gives. Says how threshold, false alarms and scores moved.

    \b
    Examples:
      anomaly-ft update runs/bottle-001 good-ones-of-march
      anomaly-ft update runs/bottle-001 false-alarms-of-march --cleared
    """
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.summary_text import update_sentences
    from anomaly_ft.run.update import Wanted
    from anomaly_ft.run.update import update as add

    quieten_libraries()
    terminal = Terminal()
    made = add(run, Wanted(folder, cleared, force), terminal, output)
    for sentence in update_sentences(made.summary):
        terminal.say(sentence)
    terminal.say(f"run folder  {made.folder}")
    if as_json:
        echo_json(made.folder / "summary.json")
