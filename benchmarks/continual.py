"""One part after another, A, then B, then C: what do the earlier ones lose, and what helps without their images?

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
* mapped: mean and covariance sent through an affine map that the newest part's images tell, see
  `continual_moves`: replay from stored Gaussians
* again: fitted again to the earlier part's images, which such a user no longer has: what the encoder itself
  forgets. The three above cannot hope for more

And with all images at hand:

* separate: each part has an encoder of its own, fine-tuned from the pretrained one
* joint: one encoder, trained on a batch of each part in turn, as many steps as the others together; each part
  has Gaussians of its own

Image AUROC of the score that decides: `last`, after the last part, mean over parts and of each; `lost`, of each
part but the last, its best less its last. Positions are `fixed` unless `-s` says otherwise. In `kept`, `moved`
and `mapped` the two parts of the fused score keep the scales they had. Writes `continual.csv`, a row for each
way, stage and part; a seed that is there is not run again. Sets and where they lie: see `sets.py`. No test image
chooses anything.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import torch
from continual_moves import Affine, affine_drift, average_last, forgetting, moved, ridge
from sets import grid, grid_options, label_of
from torch import Tensor

from anomaly_ft.data.records import Part
from anomaly_ft.finetune.loop import Backward, train_epoch
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.encoder.adapters import digest
from anomaly_ft.model.encoder.encoder import Encoder, pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.fitting import fit_to_sums, sums_of
from anomaly_ft.model.gaussian.sums import PartSums
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import gaussian_method
from anomaly_ft.run.training import loop_state, training_batches

KEYS = ["parts", "seed", "settings"]
IMAGES = 200  # of a part, evenly drawn, whose features tell how the encoder moved
SEQUENCE = ("kept", "moved", "mapped", "again")
Detectors = dict[str, GaussianDetector]
Stage = dict[str, float]  # AUROC of each part


@dataclass(frozen=True)
class Views:
    """Detectors of one encoder, which sees each image once for all of them."""

    detectors: Mapping[str, GaussianDetector]

    @property
    def encoder(self) -> Encoder:
        """The encoder that all of them are views of."""
        return next(iter(self.detectors.values())).encoder

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the score that decides `(n,)` of each detector."""
        return {name: each.scores(levels)[each.decides] for name, each in self.detectors.items()}


@dataclass(frozen=True)
class Task:
    """A part, and the method that fine-tunes the one encoder for it."""

    setup: Setup
    method: GaussianMethod

    def aurocs(self, detectors: Mapping[str, GaussianDetector]) -> dict[str, float]:
        """Measure the image AUROC of each detector on the part's test images."""
        test = self.setup.data.test
        anomalous = np.array([record.anomalous for record in test.records])
        scores = score_images(Views(detectors), test.pixels, self.setup.compute)
        return {name: image_auroc(anomalous, each) for name, each in scores.items()}

    def train(self, steps: int) -> None:
        """Induce Gaussians with the encoder as it is, and fine-tune it towards them."""
        self.method.fit()
        state, make_batch = loop_state(self.setup, self.method), training_batches(self.setup, self.method)
        backward = Backward(self.setup.compute.fabric, self.setup.recipe.runtime.micro_batch_size)
        train_epoch(state, backward, map(make_batch, range(steps)), lambda state, ended: None)

    def refit(self) -> GaussianDetector:
        """Fit a detector to the encoder as it is."""
        detector = self.method.refit("refit", watching=False).detector
        assert isinstance(detector, GaussianDetector)
        return detector

    def features(self, view: GaussianDetector, part: Part) -> list[Tensor]:
        """Compute features by the encoder as it is: `(n, d)` of each level, and last those of the dense score of
        all images and positions, as a detector has them. The map has no say in image AUROC."""
        pixels = self.setup.data.normals(part).pixels
        some = pixels[np.unique(np.linspace(0, len(pixels) - 1, IMAGES).round().astype(int))]
        parts = []
        with torch.inference_mode(), view.encoder.folded():
            for images in self.setup.compute.batches(some):
                maps = view.encoder(images)
                parts.append([each.cpu() for each in (*pool(maps), view.dense_features(maps).flatten(0, 1))])
        return [torch.cat(rows) for rows in zip(*parts, strict=True)]


def tasks_of(recipes: Mapping[str, Recipe], terminal: Terminal) -> dict[str, Task]:
    """Set up every part with the encoder of the first."""
    tasks: dict[str, Task] = {}
    for name, recipe in recipes.items():
        setup = prepare(recipe, terminal)
        method = gaussian_method(setup)
        if tasks:
            method.encoder = next(iter(tasks.values())).method.encoder
        tasks[name] = Task(setup, method)
    return tasks


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


def one_after_another(tasks: Mapping[str, Task], steps: int) -> dict[str, list[Stage]]:
    """Measure `kept`, `moved`, `mapped` and `again` after each part."""
    history: dict[str, list[Stage]] = {way: [] for way in SEQUENCE}
    ways: dict[str, Detectors] = {way: {} for way in SEQUENCE}
    for name, task in tasks.items():
        probe = next(iter(ways["kept"].values()), None)
        seen: list[list[Tensor]] = []  # before and after, of what is trained on and of what is held out
        if probe:
            seen = [task.features(probe, "train"), task.features(probe, "val")]
        task.train(steps)
        if probe:
            seen += [task.features(probe, "train"), task.features(probe, "val")]
            sides = list(zip(*seen, strict=True))
            guesses = {
                "moved": [ridge(x, y, float("inf")) for x, _, y, _ in sides],
                "mapped": [affine_drift(x, y, (held, then)) for x, held, y, then in sides],
            }
            for way, by in guesses.items():
                ways[way] = {earlier: follow(each, by) for earlier, each in ways[way].items()}
        ways["again"] = {earlier: tasks[earlier].refit() for earlier in ways["again"]}
        own = task.refit()
        for way in SEQUENCE:
            ways[way][name] = own
        for way, stage in measured(tasks, ways).items():
            history[way].append(stage)
    return history


def separate(tasks: Mapping[str, Task], pretrained: Mapping[str, Tensor], steps: int) -> Stage:
    """Measure an encoder of its own for each part but the first, which began with the pretrained one."""
    found = {}
    for name, task in list(tasks.items())[1:]:
        task.method.encoder.load_state_dict(pretrained)
        task.train(steps)
        found[name] = task.aurocs({name: task.refit()})[name]
    return found


def joint(tasks: Mapping[str, Task], pretrained: Mapping[str, Tensor], steps: int) -> Stage:
    """Measure one encoder that was trained on a batch of each part in turn, with one optimiser."""
    first, *_ = tasks.values()
    first.method.encoder.load_state_dict(pretrained)
    objectives, batches = [], []
    for task in tasks.values():
        task.method.fit()
        objectives.append(task.method.objective())
        batches.append(training_batches(task.setup, task.method))
    state = loop_state(first.setup, first.method, objectives[0])
    fabric = first.setup.compute.fabric
    objectives = [state.objective, *(fabric.setup_module(each) for each in objectives[1:])]
    backward = Backward(fabric, first.setup.recipe.runtime.micro_batch_size)
    for step in range(steps * len(tasks)):
        number, place = divmod(step, len(tasks))
        state.objective = objectives[place]
        train_epoch(state, backward, [batches[place](number)], lambda state, ended: None)
    return measured(tasks, {"joint": {name: task.refit() for name, task in tasks.items()}})["joint"]


def rows_of(recipes: Mapping[str, Recipe], terminal: Terminal) -> list[dict[str, Any]]:
    """Run every way; a row for each way, stage (parts seen so far) and part."""
    tasks = tasks_of(recipes, terminal)
    first, task = next(iter(tasks.items()))
    steps = task.setup.recipe.schedule.max_steps
    pretrained = {name: value.clone() for name, value in task.method.encoder.state_dict().items()}
    history = with_frozen(tasks) | one_after_another(tasks, steps)
    own = {first: history["again"][0][first]} | separate(tasks, pretrained, steps)
    history |= {"separate": [own], "joint": [joint(tasks, pretrained, steps)]}
    return [
        {"way": way, "stage": len(found), "part": part, "auroc": auroc}
        for way, stages in history.items()
        for found in stages
        for part, auroc in found.items()
    ]


def summary_of(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up each way of each seed: the mean over parts after the last, each part's last, and what it lost."""
    rows = []
    for (seed, way), found in table.groupby(["seed", "way"], sort=False):
        stages = [dict(zip(s["part"], s["auroc"], strict=True)) for _, s in found.groupby("stage")]
        lost = {f"lost {name}": value for name, value in forgetting(stages).items()}
        rows.append({"seed": seed, "way": way, "last": average_last(stages), **stages[-1], **lost})
    return pd.DataFrame(rows)


@click.command()
@grid_options(sets="bottle,kolektor,macaroni1", seeds=3, seeds_of="for all parts")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Run every way with each seed and print the table."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, path, label = Terminal(), output / "continual.csv", label_of(settings)
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS)
    cells = list(grid(sets, seeds, ("gaussian.position=fixed", *settings), data=data, say=terminal.say))
    parts = ",".join(dict.fromkeys(cell.name for cell in cells))
    for seed in range(seeds):
        if (table[KEYS] == [parts, seed, label]).all(axis=1).any():
            continue
        rows = rows_of({cell.name: cell.recipe for cell in cells if cell.seed == seed}, terminal)
        found = pd.DataFrame([{"parts": parts, "seed": seed, "settings": label, **row} for row in rows])
        table = pd.concat([table, found]) if len(table) else found
        table.to_csv(path, index=False)
    summary = summary_of(table[(table["parts"] == parts) & (table["settings"] == label)])
    print(f"image AUROC, {parts}, {label}; lost: best less last")
    by_seed = summary.pivot_table(index="way", columns="seed", values="last", sort=False)
    print(f"\nmean over parts after the last, by seed\n{by_seed.to_string(float_format='%.4f')}")
    means = summary.drop(columns="seed").groupby("way", sort=False).mean()
    print(f"\nmeans of {summary['seed'].nunique()} seeds\n{means.to_string(float_format='%.4f', na_rep='-')}")


if __name__ == "__main__":
    main()
