"""Does vicinal validation see forgetting, and is the fine-tuned encoder worth more than the frozen one?

    python benchmarks/forgetting.py --output results
    python benchmarks/forgetting.py --output results --sets screw,elpv-mono --seeds 1 -s optimizer.lr=3e-5

Trains each set with each seed for all epochs, without stopping, and replays the recipe's verdict on the
validations afterwards: `stopped` is the validation at which it would have ended, `chosen` the one it keeps.
Test images are scored beside every validation to show the truth; the verdict never sees them. `oracle` is the
best epoch by test, shown for regret only. Sets and where they lie: see `sets.py`.

Writes `forgetting.csv` (one line an epoch, appended as it goes), `forgetting.png`, and for each validation
the pooled and dense scores of test images, held-out normal images and their pseudo-anomalies: another way to
join or to watch them is judged without training again (`witnesses.py`). At the end the weights that the verdict
keeps are mixed with the pretrained ones, in three shares (`.mixtures.csv`). A run that the table has is not run
again, so a benchmark that was stopped goes on. Prints a table, and what would be chosen, of training's length
and of the settings that the table has, on the other sets.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from choices import RUN, dense_weights, scores_name, settings_left_out, steps_left_out, summarise
from matplotlib.figure import Figure
from recording import Recording, generic_images
from sets import COMMON, RECIPE, grid, grid_options, label_of

from anomaly_ft.data.pixels import sides
from anomaly_ft.finetune.brakes.weight_average import Weights, put_weights, trained_weights
from anomaly_ft.finetune.early_stopping import early_stop
from anomaly_ft.finetune.records import EpochRecord
from anomaly_ft.finetune.watch import ValidationMonitor
from anomaly_ft.model.gaussian.settings import SCORES
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import METHODS
from anomaly_ft.run.training import epochs, loop_state, make_monitor, rule_of

SHARES = (0.25, 0.5, 0.75)
NO_STOP = {"patience": 1000, "margin": 1e6}


def trajectory(asked: Recipe, terminal: Terminal, scores_to: Path) -> list[dict[str, Any]]:
    """Train without stopping; one row for each validation: what is true, and what the verdict sees that was
    `asked` for. Leaves in `scores_to` whatever another way to watch would need."""
    recipe = asked.model_copy(update={"schedule": asked.schedule.model_copy(update=NO_STOP)})
    setup = prepare(recipe, terminal)
    method = METHODS["gaussian"](setup)
    monitor = make_monitor(setup, method, method.fit())
    watched = [name for name, pseudo in monitor.sets.items() if pseudo.informative]
    recording = Recording(method, watched, generic_images(sides(recipe.data.image_size)[0]))
    monitor.method, monitor.observe = recording, lambda detector: recording.look(setup, detector)
    weights = [trained_weights(setup.encoder)]
    state = loop_state(setup, method)
    rows = []
    for record in epochs(setup, state, monitor):
        if record.validation:
            rows.append(row(record, recording.truth))
        if record.epoch:
            weights.append(trained_weights(setup.encoder))  # after the last epoch those of the best one
        np.savez(scores_to, **recording.raw)
    rule = rule_of(asked.schedule, state.epoch_steps)
    verdicts = [early_stop(state.history[: i + 1], rule) for i in range(len(state.history))]
    if state.records[-1].validation is None:
        verdicts.append(early_stop(state.history, rule, diverged=True))
    stopped = next((i for i, verdict in enumerate(verdicts) if verdict.stop), len(verdicts) - 1)
    final = verdicts[stopped]
    mixed = mixtures(setup, monitor, recording, ends=(weights[0], weights[final.best_epoch]))
    mixed.to_csv(scores_to.with_suffix(".mixtures.csv"), index=False)
    np.savez(scores_to, **recording.raw)
    return [{**each, "chosen": final.best_epoch, "stopped": stopped, "reason": final.reason} for each in rows]


def mixtures(
    setup: Setup, monitor: ValidationMonitor, recording: Recording, *, ends: tuple[Weights, Weights]
) -> pd.DataFrame:
    """Mix pretrained weights and trained ones, the `ends`; a row for each share of the trained ones."""
    (pretrained, tuned), rows = ends, []
    for share in SHARES:
        put_weights(setup.encoder, {name: old.lerp(tuned[name], share) for name, old in pretrained.items()})
        vicinal = monitor.validate().auroc
        truth = {f"test.{name}": recording.truth[f"{name}_image_auroc"] for name in SCORES}
        rows.append({"number": recording.number, "share": share, "vicinal_auroc": vicinal, **truth})
    return pd.DataFrame(rows)


def row(record: EpochRecord, truth: Mapping[str, float | None]) -> dict[str, Any]:
    """Put what one validation saw beside what is true."""
    seen = record.validation
    assert seen is not None
    return {
        "epoch": record.epoch,
        "images": record.images,
        "train_loss": record.train_loss,
        "vicinal_auroc": seen.auroc,
        **{f"vicinal.{name}": value for name, value in seen.by_augmentation.items()},
        **seen.watched,
        "retention": truth["retention"],
        **{f"test.{name}": truth[f"{name}_image_auroc"] for name in SCORES},
        "minutes": (record.train_seconds + record.validation_seconds) / 60,
    }


def draw(rows: pd.DataFrame, score: str, path: Path) -> None:
    """Vicinal against test AUROC over epochs, a panel for each set, a pair of lines for each run."""
    names = list(rows["set"].unique())
    figure = Figure(figsize=(4 * len(names), 3.6), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        twin = axes.twinx()
        for _, run in rows[rows["set"] == name].groupby(["settings", "seed"]):
            axes.plot(run["epoch"], run["vicinal_auroc"], color="tab:blue", alpha=0.7)
            twin.plot(run["epoch"], run[f"test.{score}"], color="tab:orange", alpha=0.7)
            axes.axvline(run["chosen"].iloc[0], color="tab:green", linestyle=":")
        axes.set(title=name, xlabel="epoch (0 = pretrained)")
        axes.set_ylabel("vicinal AUROC", color="tab:blue")
        twin.set_ylabel(f"test AUROC, {score} score", color="tab:orange")
    figure.savefig(path, dpi=110)


@click.command()
@grid_options(sets=COMMON, seeds=3, seeds_of="for each set")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Run the grid and print the table."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, table = Terminal(), output / "forgetting.csv"
    everything = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=RUN)
    done = set(everything[RUN].itertuples(index=False, name=None))
    label = label_of(settings)
    score = read_recipe(RECIPE, settings, check_root=False).gaussian.score
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        if (name, label, seed) in done:
            continue
        scores_to = output / scores_name(name, seed, label)
        rows = pd.DataFrame(trajectory(recipe, terminal, scores_to))
        rows = rows.assign(set=name, seed=seed, settings=label)
        everything = pd.concat([everything, rows]) if len(everything) else rows
        everything.to_csv(table, index=False)
        terminal.say(summarise(rows, score).to_string(index=False))
    draw(everything, score, output / "forgetting.png")
    print(summarise(everything, score).to_string(index=False, float_format="{:.4f}".format))
    same = everything[everything["settings"] == label]
    print(f"\nwhat the dense score counts, {label}")
    print(dense_weights(same, output).to_string(index=False, float_format="{:.4f}".format))
    for each in SCORES if everything["set"].nunique() > 1 else ():
        print(f"\nhow long to train, {label}, {each} score")
        print(steps_left_out(same, each).to_string(index=False, float_format="{:.4f}".format))
        print(f"\nsettings, {each} score")
        print(settings_left_out(everything, each).to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
