"""One part after another, A, then B, then C: what do earlier ones lose, and what helps without their images?

    python benchmarks/continual.py --output results --seeds 3 -s data.image_size=128 -s schedule.max_steps=45

After Li et al., "Towards Continual Adaptation in Industrial Anomaly Detection" (ACM Multimedia 2022). The sets
are parts that come in the order of `--sets`. Nothing of an earlier part is kept but its statistics. After each
part all parts so far are measured. Frozen, the encoder is the pretrained one:

* frozen: each part has Gaussians of its own; nothing can be forgotten
* memory: one detector for all parts, from sums that each part adds to: what a fit of all images at once gives,
  up to rounding. The scale of the fused score is that of the newest part's held-out images

One encoder, fine-tuned from part to part, for all steps of the schedule without stopping. Gaussians are
fitted to the newest part, and earlier ones are

* kept: as they were
* moved: shifted as the newest part's training images were on average
* mapped: mean and covariance sent through the affine map that errs least on held-out images of the newest part,
  see `continual_moves`: replay from stored Gaussians
* damped: the same, with a ridge as strong as a feature's mean variance, whatever these say
* again: fitted again to the earlier part's images, which such a user no longer has: what the encoder itself
  forgets, and what the four above can hope for

And with all images at hand:

* separate: each part has an encoder of its own, fine-tuned from the pretrained one
* joint: one encoder, trained on a batch of each part in turn, as many steps as the others together; each part
  has Gaussians of its own

Image AUROC of the score that decides: `last`, after the last part, mean over parts and of each; `lost`, of each
part but the last, its best less its last; `missed`: of how features of an earlier part's images truly moved,
the share of the squared length that a guess misses, median over Gaussians (0: none, more than 1: worse than no
guess). Positions are `fixed` unless `-s` says otherwise. Where Gaussians are not fitted again, the two parts of
the fused score keep the scales they had. Writes `continual.csv`, a row for each way, stage and part; a seed
that is there is not run again. Sets and where they lie: see `sets.py`. No test image chooses anything, but for
the strength of `damped`, which was set after a look at bottle and kolektor, seed 0, at 96 pixels.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
from continual_moves import DAMPED, SHIFT, Affine, affine_drift, average_last, forgetting, missed, moved, ridge
from continual_parts import Task, tasks_of
from measuring import add_rows, read_table
from sets import grid, grid_options, label_of
from torch import Tensor, nn

from anomaly_ft.data.records import Part
from anomaly_ft.finetune.loop import Backward, train_epoch
from anomaly_ft.model.encoder.adapters import digest
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_to_sums, sums_of
from anomaly_ft.model.gaussian.sums import PartSums
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.training import loop_state, training_batches

KEYS = ["parts", "seed", "settings"]
SEQUENCE = ("kept", "moved", "mapped", "damped", "again")
PROBED: tuple[Part, ...] = ("train", "val")  # images of the newest part that tell how the encoder moved
Detectors = dict[str, GaussianDetector]
Stage = dict[str, float]  # AUROC of each part
Row = dict[str, Any]


def measured(tasks: Mapping[str, Task], ways: Mapping[str, Detectors]) -> dict[str, Stage]:
    """Measure for each way the image AUROC of every part that has a detector."""
    found: dict[str, Stage] = {way: {} for way in ways}
    for name in next(iter(ways.values())):
        for way, auroc in tasks[name].aurocs({way: each[name] for way, each in ways.items()}).items():
            found[way][name] = auroc
    return found


def with_frozen(tasks: Mapping[str, Task]) -> dict[str, list[Stage]]:
    """Measure `frozen` and `memory` after each part."""
    history: dict[str, list[Stage]] = {"frozen": [], "memory": []}
    own, total = Detectors(), None
    for name, task in tasks.items():
        method, compute = task.method, task.setup.compute
        encoder, settings = method.encoder, method.settings
        own[name] = task.refit()
        sums = sums_of(encoder, method.inputs("train"), compute, settings, exact=True)
        more = PartSums(name, digest(encoder.model), sums)
        total = more if total is None else total + more
        one = fit_to_sums(encoder, list(total.sums), settings).to(compute.fabric.device)
        one = one.standardised(score_images(one, method.inputs("val"), compute))
        ways = {"frozen": own, "memory": dict.fromkeys(own, one)}
        for way, stage in measured(tasks, ways).items():
            history[way].append(stage)
    return history


def follow(detector: GaussianDetector, by: Sequence[Affine]) -> GaussianDetector:
    """Move the Gaussians of a detector, of each level and of the dense score; the scales of its scores stay."""
    old = detector.statistics
    *levels, dense = (moved(each, affine) for each, affine in zip((*old.levels, old.dense), by, strict=True))
    new = replace(old, levels=tuple(levels), dense=dense)
    return GaussianDetector(detector.encoder, detector.settings, new).to(old.location.device)


def guesses_of(
    task: Task, before: Mapping[Part, list[Tensor]], view: GaussianDetector
) -> dict[str, list[Affine]]:
    """Guess how each Gaussian's features moved, by features of the newest part's images before and now."""
    now = {part: task.features(view, part) for part in PROBED}
    pairs = list(zip(before["train"], now["train"], before["val"], now["val"], strict=True))
    return {
        "moved": [ridge(x, y, SHIFT) for x, y, *_ in pairs],
        "mapped": [affine_drift(x, y, (held_out, then)) for x, y, held_out, then in pairs],
        "damped": [ridge(x, y, DAMPED) for x, y, *_ in pairs],
    }


def one_after_another(tasks: Mapping[str, Task]) -> tuple[dict[str, list[Stage]], list[Row]]:
    """Measure the ways of `SEQUENCE` after each part, and how far each guess missed each earlier part."""
    history: dict[str, list[Stage]] = {way: [] for way in SEQUENCE}
    ways: dict[str, Detectors] = {way: {} for way in SEQUENCE}
    misses: list[Row] = []
    for name, task in tasks.items():
        view = next(iter(ways["kept"].values()), None)
        earlier = list(ways["kept"])
        if view:
            before = {part: task.features(view, part) for part in PROBED}
            then = {each: tasks[each].features(view, "train") for each in earlier}  # to judge guesses by, alone
        task.train()
        if view:
            guesses = guesses_of(task, before, view)
            now = {each: tasks[each].features(view, "train") for each in earlier}
            for way, by in guesses.items():
                ways[way] = {each: follow(detector, by) for each, detector in ways[way].items()}
                misses += [
                    {
                        "way": way,
                        "stage": len(earlier) + 1,
                        "part": each,
                        "missed": missed(by, then[each], now[each]),
                    }
                    for each in earlier
                ]
        ways["again"] = {each: tasks[each].refit() for each in earlier}
        own = task.refit()
        for way in SEQUENCE:
            ways[way][name] = own
        for way, stage in measured(tasks, ways).items():
            history[way].append(stage)
    return history, misses


def separate(tasks: Mapping[str, Task], pretrained: Mapping[str, Tensor]) -> Stage:
    """Measure an encoder of its own for each part but the first, which began with the pretrained one."""
    found = {}
    for name, task in list(tasks.items())[1:]:
        task.method.encoder.load_state_dict(pretrained)
        task.train()
        found[name] = task.aurocs({name: task.refit()})[name]
    return found


def joint(tasks: Mapping[str, Task], pretrained: Mapping[str, Tensor]) -> Stage:
    """Measure one encoder that was trained on a batch of each part in turn, with one optimiser."""
    first, *_ = tasks.values()
    first.method.encoder.load_state_dict(pretrained)
    objectives, batches = list[nn.Module](), []
    for task in tasks.values():
        task.method.fit()
        objectives.append(task.method.objective())
        batches.append(training_batches(task.setup, task.method))
    state = loop_state(first.setup, first.method, objectives[0])
    fabric = first.setup.compute.fabric
    objectives = [state.objective, *(fabric.setup_module(each) for each in objectives[1:])]
    backward = Backward(fabric, first.setup.recipe.runtime.micro_batch_size)
    for step in range(first.setup.recipe.schedule.max_steps * len(tasks)):
        number, place = divmod(step, len(tasks))
        state.objective = objectives[place]
        train_epoch(state, backward, [batches[place](number)], lambda state, ended: None)
    return measured(tasks, {"joint": {name: task.refit() for name, task in tasks.items()}})["joint"]


def rows_of(recipes: Mapping[str, Recipe], terminal: Terminal) -> list[Row]:
    """Run every way; a row for each way, stage (parts seen so far) and part."""
    tasks = tasks_of(recipes, terminal)
    first, task = next(iter(tasks.items()))
    pretrained = {name: value.clone() for name, value in task.method.encoder.state_dict().items()}
    sequence, misses = one_after_another(tasks)
    own = {first: sequence["again"][0][first]} | separate(tasks, pretrained)
    together = joint(tasks, pretrained)
    task.method.encoder.load_state_dict(pretrained)
    history = with_frozen(tasks) | sequence | {"separate": [own], "joint": [together]}
    rows = {
        (way, stage, part): {"way": way, "stage": stage, "part": part, "auroc": auroc}
        for way, stages in history.items()
        for stage, found in enumerate(stages, 1 + len(tasks) - len(stages))
        for part, auroc in found.items()
    }
    for miss in misses:
        rows[miss["way"], miss["stage"], miss["part"]] |= miss
    return list(rows.values())


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up each way of each seed: the mean over parts after the last, each part's last, what it lost, and
    what was missed of how it moved."""
    rows = []
    for (seed, way), found in table.groupby(["seed", "way"], sort=False):
        stages = [dict(zip(s["part"], s["auroc"], strict=True)) for _, s in found.groupby("stage")]
        lost = {f"lost {name}": value for name, value in forgetting(stages).items()}
        row = {"seed": seed, "way": way, "last": average_last(stages), **stages[-1], **lost}
        rows.append(row | {"missed": found["missed"].median()})
    return pd.DataFrame(rows)


@click.command()
@grid_options(sets="bottle,kolektor,macaroni1", seeds=3, seeds_of="for all parts")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Run every way with each seed and print the table."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "continual.csv", label_of(settings)
    table = read_table(path, KEYS)
    cells = list(grid(sets, seeds, ("gaussian.position=fixed", *settings), data=data, say=terminal.say))
    parts = ",".join(dict.fromkeys(cell.name for cell in cells))
    for seed in range(seeds):
        if (table[KEYS] == [parts, seed, label]).all(axis=1).any():
            continue
        rows = rows_of({cell.name: cell.recipe for cell in cells if cell.seed == seed}, terminal)
        found = pd.DataFrame([{"parts": parts, "seed": seed, "settings": label, **row} for row in rows])
        table = add_rows(path, table, found, KEYS)
    summary = summary_of(table[(table["parts"] == parts) & (table["settings"] == label)])
    print(f"image AUROC, {parts}, {label}; lost: best less last")
    by_seed = summary.pivot_table(index="way", columns="seed", values="last", sort=False)
    print(f"\nmean over parts after the last, by seed\n{by_seed.to_string(float_format='%.4f')}")
    means = summary.drop(columns="seed").groupby("way", sort=False).mean()
    print(
        f"\nmeans over seeds ({summary['seed'].nunique()})\n{means.to_string(float_format='%.4f', na_rep='-')}"
    )


if __name__ == "__main__":
    main()
