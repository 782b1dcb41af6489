"""What does it cost a detector when light, focus, noise, compression or place change, and what mends it?

    python benchmarks/variation.py --output results
    python benchmarks/variation.py --output results --sets kolektor --seeds 1 -s variation.preset=light

Six detectors for each set and seed: of the frozen encoder, of the encoder fine-tuned without and with benign
variation, each with statistics, scale and threshold from clean images alone, and from clean ones and varied
copies. Each scores the test images as they are, varied as the recipe says, and varied by twice as much. With
seed 0 the frozen encoder is measured with other variations too, so that the default is chosen on other sets.

Writes `variation.csv` (a row for each detector and strength) and, for each set and seed, the scores of
calibration and test images, so that another threshold can be judged without training again; beside it
`watched.csv`, vicinal and test AUROC at each validation. What the table has is not run again. Prints the tables
of `variation_tables.py`: means over seeds with losses marked, what the other sets would choose, and other ways
to set the threshold.
"""

import logging
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from choices import scores_name
from measuring import otherwise, varied_test
from numpy.typing import NDArray
from sets import DEMOS, FOLDERS, RECIPE, grid, grid_options, label_of
from variation_tables import left_out, side_by_side, spearman, summarise, thresholds

from anomaly_ft.evaluation.working_points import conformal_varied
from anomaly_ft.finetune.brakes.weight_average import trained_weights
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.read import read_recipe
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.recipe.variation import LIGHT
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.train import METHODS
from anomaly_ft.run.training import epochs, loop_state, make_monitor

STRENGTHS = (0.0, 1.0, 2.0)  # of the test images' variation: none, as the recipe says, twice that
RUN = ["set", "seed", "settings"]
Rows = list[dict[str, Any]]


def others(setup: Setup) -> dict[str, Setup]:
    """Variations that might be the default instead, by what is printed of them."""
    strengths = setup.recipe.variation.strengths()
    half = {name: value / 2 for name, value in strengths.items()}
    return {
        "1 copy": otherwise(setup, strengths, 1),
        "4 copies": otherwise(setup, strengths, 4),
        "half": otherwise(setup, half),
        "light": otherwise(setup, {name: value for name, value in strengths.items() if name in LIGHT}),
    }


def measure(setup: Setup, encoder: str, statistics: str, raw: dict[str, NDArray[Any]]) -> Rows:
    """Fit the detector of the encoder as it is to the images of `setup`; a row for each strength of the test.
    Its scores go into `raw`."""
    method = METHODS["gaussian"](setup)
    detector = method.refit("refit", watching=False).detector
    count = len(setup.data.split.calibration)
    calibration = score_images(detector, setup.varied("calibration").pixels, setup.compute)
    rate = setup.recipe.evaluation.false_positive_rate
    point = conformal_varied(calibration[detector.decides].reshape(-1, count), rate)
    anomalous = np.array([record.anomalous for record in setup.data.test.records])
    rows = []
    for name, values in calibration.items():
        raw[f"{encoder} {statistics} calibration {name}"] = values
    for strength in STRENGTHS:
        scores = score_images(detector, varied_test(setup, strength), setup.compute)
        for name, values in scores.items():
            raw[f"{encoder} {statistics} {strength:g} {name}"] = values
        rejected = scores[detector.decides] > point.threshold
        rows.append(
            {"encoder": encoder, "statistics": statistics, "strength": strength}
            | {f"auroc.{name}": image_auroc(anomalous, values) for name, values in scores.items()}
            | {"rejected": rejected[~anomalous].mean(), "found": rejected[anomalous].mean()}
            | {"guaranteed": point.guaranteed_fpr, "guaranteed_varied": point.varied_fpr}
        )
    return rows


def fine_tune(setup: Setup, encoder: str, watched: Rows) -> None:
    """Fine-tune as the recipe says; vicinal and test AUROC of each validation go into `watched`."""
    anomalous = np.array([record.anomalous for record in setup.data.test.records])
    truths: Rows = []

    def observe(detector: GaussianDetector) -> None:
        scores = {s: score_images(detector, varied_test(setup, s), setup.compute) for s in STRENGTHS[:2]}
        truths.append({f"test {s:g}": image_auroc(anomalous, of[detector.decides]) for s, of in scores.items()})

    method = METHODS["gaussian"](setup)
    monitor = make_monitor(setup, method, method.fit())
    monitor.observe = observe
    state = loop_state(setup, method)
    records = list(epochs(setup, state, monitor))
    for record, truth in zip(records, truths, strict=False):
        vicinal = record.validation.auroc if record.validation else np.nan
        watched.append(
            {"encoder": encoder, "step": record.epoch * state.epoch_steps, "vicinal": vicinal, **truth}
        )
        watched[-1]["kept"] = records[-1].verdict.best_epoch * state.epoch_steps


def run(recipe: Recipe, terminal: Terminal, scores_to: Path) -> tuple[Rows, Rows]:
    """All detectors of one set and seed: their rows, and those of the validations."""
    varied = prepare(recipe, terminal)
    clean = otherwise(varied, {})
    pretrained = trained_weights(varied.encoder)
    raw: dict[str, NDArray[Any]] = {"labels": np.array([r.anomalous for r in varied.data.test.records])}
    rows, watched = Rows(), Rows()
    for encoder, trains in (("frozen", None), ("fine-tuned clean", clean), ("fine-tuned varied", varied)):
        if trains:
            varied.encoder.load_state_dict(pretrained, strict=False)
            started = time.perf_counter()
            fine_tune(trains, encoder, watched)
            seconds = time.perf_counter() - started
        for statistics, setup in (("clean", clean), ("varied", varied)):
            rows += measure(setup, encoder, statistics, raw)
            rows[-1]["seconds"] = seconds if trains else 0.0
        for statistics, setup in others(varied).items() if not trains and not recipe.seed else ():
            rows += measure(setup, encoder, statistics, raw)
    np.savez(scores_to, **raw)
    return rows, watched


def files_of(rows: pd.DataFrame, output: Path, label: str) -> list[Path]:
    """Where the scores of each set and seed of the table lie."""
    pairs = rows[["set", "seed"]].drop_duplicates().itertuples(index=False, name=None)
    return [output / scores_name(name, seed, label) for name, seed in pairs]


@click.command()
@grid_options(sets=",".join([*FOLDERS, *DEMOS]), seeds=3, seeds_of="for each set")
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Run the grid and print the table."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    output.mkdir(parents=True, exist_ok=True)
    terminal, files = Terminal(), {name: output / f"{name}.csv" for name in ("variation", "watched")}
    there = {name: pd.read_csv(path) if path.exists() else pd.DataFrame() for name, path in files.items()}
    whole = there["variation"]
    done = set(whole[RUN].itertuples(index=False, name=None)) if len(whole) else set()
    label = label_of(settings)
    for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
        if (name, seed, label) in done:
            continue
        scores_to = output / scores_name(name, seed, label)
        new = run(recipe, terminal, scores_to)
        for (kind, path), rows in zip(reversed(files.items()), reversed(new), strict=True):
            table = pd.DataFrame(rows).assign(set=name, seed=seed, settings=label)
            there[kind] = pd.concat([there[kind], table]) if len(there[kind]) else table
            there[kind].to_csv(path, index=False)
        terminal.say(summarise(there["variation"].query("set == @name"), recipe.gaussian.score).to_string())
    rows, usual = there["variation"], read_recipe(RECIPE, settings, check_root=False)
    rows, score = rows[rows["settings"] == label], usual.gaussian.score
    tables = {
        "means over seeds": summarise(rows, score),
        "the same, side by side": side_by_side(rows, score),
        "variation of the statistics, chosen on the other sets": left_out(rows, score),
        "vicinal against test AUROC, rank correlation": spearman(there["watched"]),
        "ways to set the threshold": thresholds(
            files_of(rows, output, label), score, usual.evaluation.false_positive_rate
        ),
    }
    for title, table in tables.items():
        if len(table):
            print(f"\n{title}")
            print(table.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
