"""`anomaly-ft train`."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path

import click

from anomaly_ft.cli.options import DIVERGED, echo_json, quieten_libraries


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "-s", "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated."
)
@click.option(
    "--output", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
    help="Where the run folder and the MLflow database go.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with the newest unfinished run of this recipe's name.")
@click.option(
    "--dry-run", is_flag=True, help="Show data, levels, settings, and what the run would take; leave nothing."
)
@click.option("--json", "as_json", is_flag=True, help="Print summary.json as the last line of stdout.")
def train(
    recipe: Path, overrides: tuple[str, ...], output: Path, resume: bool, dry_run: bool, as_json: bool
) -> None:
    """Fine-tune the encoder that RECIPE (a YAML file) describes.

    Leaves a run folder with the fine-tuned encoder, the detector, its threshold and all numbers. Exits
    with 4 when training diverged; the best epoch before that is kept all the same.

    Ctrl-C and SIGTERM let the step end and write a checkpoint. --resume goes on from the last one, also of a
    run that was killed, in the same folder and MLflow run; of the recipe only schedule.max_epochs, tracking
    and runtime may have changed.

    --dry-run fits and trains on a few batches of the images, on this machine, and estimates minutes, memory and
    disk from them.

    \b
    Examples:
      anomaly-ft train recipes/quickstart.yaml
      anomaly-ft train recipes/mvtec.yaml -s data.root=bottle -s optimizer.lr=3e-5
      anomaly-ft train recipes/mvtec.yaml -s data.root=bottle --dry-run
      anomaly-ft train recipes/quickstart.yaml --resume
      torchrun --nproc-per-node 2 -m anomaly_ft train recipes/quickstart.yaml
    """
    from anomaly_ft.recipe.read import read_recipe

    resolved = read_recipe(recipe, overrides)
    from anomaly_ft.run.console import Terminal
    from anomaly_ft.run.folder import locked
    from anomaly_ft.run.resume import refuse_changes, unfinished
    from anomaly_ft.run.setup import prepare
    from anomaly_ft.run.train import train_together

    quieten_libraries()
    first = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    terminal = Terminal(quiet=not first)
    partial = unfinished(output, resolved.name) if resume else None
    setup = prepare(resolved, terminal)
    for line in setup.describe():
        terminal.say(line)
    if dry_run:
        from anomaly_ft.run.estimate import estimate

        terminal.say(str(estimate(setup)))
        terminal.say("\n" + setup.recipe.to_yaml())
        return
    with locked(output) if first else nullcontext():
        if partial:
            refuse_changes(partial, setup)
        run = train_together(setup, output, unfinished=partial)
    if not first:
        return
    terminal.results(run)
    if as_json:
        echo_json(run.folder / "summary.json")
    if run.summary.stop_reason == "diverged":
        sys.exit(DIVERGED)
