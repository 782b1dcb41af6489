"""`anomaly-ft analyse contamination`: what do defective training images cost, and what helps?"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from lightning_fabric import seed_everything
from numpy.typing import NDArray

from anomaly_ft.analysis.contamination import SHARES, Plan, plan, possible, to_plant
from anomaly_ft.analysis.suspicion import (
    FEWEST,
    Levels,
    cross_fitted,
    distances_to,
    found_again,
    held,
    robust_distances,
    usual_by_mcd,
    usual_by_trimming,
)
from anomaly_ft.data.splits import enough
from anomaly_ft.errors import DataError
from anomaly_ft.evaluation.study_figures import contamination_figure
from anomaly_ft.finetune.brakes.weight_average import put_weights, trained_weights
from anomaly_ft.finetune.methods.gaussian_objective import InducedDistance
from anomaly_ft.metrics import Floats
from anomaly_ft.model.inference import pooled_features
from anomaly_ft.model.outputs import Predictions
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.begin import split_digest
from anomaly_ft.run.calibration import Calibrated
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.finish import assess_test, calibrate, predict_test
from anomaly_ft.run.planting import Planted, plant, with_data, without
from anomaly_ft.run.setup import Setup, prepare
from anomaly_ft.run.study import Row, log_alone, open_study
from anomaly_ft.run.train import make_method
from anomaly_ft.run.training import epochs, loop_state, make_monitor, mix

NAME = "contamination"
Flags = NDArray[np.bool_]
LEFT_OUT = 0.1  # of the images of a training step, those farthest away, where training is trimmed
AS_IS, TRIMMED, ROBUST = "as it is", "trimmed", "MCD"
TRAINED, TRAINED_TRIMMED, TRAINING_TRIMMED = (
    "fine-tuned as it is", "fine-tuned, trimmed before", "fine-tuned, trimmed in training"
)  # fmt: skip
# how training images are looked through before statistics are fitted, and the suspicion by which
USUAL: Mapping[str, Callable[[Levels], Flags]] = {
    AS_IS: lambda levels: np.ones(len(levels[0]), dtype=bool),
    TRIMMED: lambda levels: usual_by_trimming(held(levels), len(levels[0])),
    ROBUST: usual_by_mcd,
}
SUSPICION: Mapping[str, Callable[[Levels], Floats]] = {
    AS_IS: lambda levels: distances_to(levels, *[np.ones(len(levels[0]), dtype=bool)] * 2),
    TRIMMED: lambda levels: cross_fitted(held(levels), len(levels[0])),
    ROBUST: robust_distances,
}


@dataclass(frozen=True)
class Extent:
    """What is tried.

    Attributes:
        shares: of defective images in the whole training set; none: the usual ones that can be had.
        seeds: so many, from that of the recipe on.
        finetune: fine-tune too, which takes minutes each.
    """

    shares: tuple[float, ...] = ()
    seeds: int = 3
    finetune: bool = False


def study_contamination(
    recipe: Recipe, terminal: Terminal, extent: Extent, output: Path
) -> tuple[Path, list[Row]]:
    """Measure a recipe with defective images planted among its training images; returns the study's folder and
    the means over seeds.

    Args:
        recipe: of the run without them.
        terminal: for progress.
        extent: what is tried.
        output: where the study's folder goes.

    Raises:
        DataError: too few training images, or shares for which there are not enough defective images.
    """
    if extent.seeds < 1:
        raise DataError(f"--seeds: expected 1 or more, got {extent.seeds}")
    folder = output / f"{recipe.name}-{NAME}"
    section = recipe.gaussian.model_copy(update={"robust": False})  # trimmed images are a treatment here
    recipe = recipe.model_copy(update={"gaussian": section})
    first = prepare(recipe, terminal)
    shares = _shares(first, extent, terminal)
    flat = {key: value for key, value in recipe.flat().items() if "tracking." not in key}
    images = {"shares": list(shares), "split": split_digest(first)}
    settings = {"study": NAME, **asdict(extent), **images, "recipe": flat}
    with open_study(folder, settings, terminal) as study:
        rows: list[Row] = []
        cells = [(recipe.seed + k, share) for k in range(extent.seeds) for share in shares]
        setups = _setups(first, terminal)
        for seed, share in terminal.track(cells, "contamination", len(cells), unit=""):
            cell = partial(_cell, setups, seed, shares, share, extent.finetune)
            rows += study.step(f"seed {seed} share {share:g}", cell)
        table = mean_rows(rows)
        study.write({NAME: table, "seeds": rows}, {NAME: contamination_figure(table)})
        log_alone(study, recipe, folder.name, output)
    return folder, table


def _setups(first: Setup, terminal: Terminal) -> Callable[[int], Setup]:
    """Prepare the run of each seed; the last one is kept."""
    kept = {first.recipe.seed: first}

    def of(seed: int) -> Setup:
        if seed not in kept:
            kept.clear()
            kept[seed] = prepare(first.recipe.model_copy(update={"seed": seed}), terminal)
        return kept[seed]

    return of


def _shares(setup: Setup, extent: Extent, terminal: Terminal) -> tuple[float, ...]:
    """List the shares to try, rising; the usual ones as far as there are defective images.

    Raises:
        DataError: none can be had, or not all of those asked for; or too few training images.
    """
    normal, root = len(setup.data.undivided), setup.recipe.data.root
    defective = sum(record.anomalous for record in setup.data.test.records)
    if len(setup.data.test) == defective or defective < 2:
        raise DataError(f"{root}: contamination needs good and at least two defective test images: some are "
                        "planted among the training images, the others measured with")  # fmt: skip
    if normal < FEWEST:
        raise DataError(f"{root}: contamination looks for suspicious training images, which takes {FEWEST} at "
                        f"least, there are {normal}; add good images")  # fmt: skip
    if extent.shares:
        try:
            plan(normal, defective, extent.shares, seed=0)
        except ValueError as cause:
            raise DataError(f"--shares: {root}: {cause}") from cause
        return tuple(sorted(set(extent.shares)))
    able = possible(normal, defective, SHARES)
    if len(able) < len(SHARES):
        missing = min(set(SHARES) - set(able))
        terminal.say(
            f"shares from {missing:g} on are left out: {missing:g} needs {to_plant(normal, missing)} defective "
            f"images, and at most three quarters of {defective} are planted"
        )
    return tuple(able)


def _cell(
    setups: Callable[[int], Setup], seed: int, shares: Sequence[float], share: float, finetune: bool
) -> list[Row]:
    """Make the rows of one seed and share: each treatment."""
    setup = setups(seed)
    defective = sum(record.anomalous for record in setup.data.test.records)
    deal: Plan = plan(len(setup.data.undivided), defective, shares, seed=seed)
    planted = plant(setup.data, deal, share)
    levels = pooled_features(setup.encoder, planted.data.undivided.pixels, setup.compute)
    rows, kept_by = [], {}
    for name, usual_of in USUAL.items():
        suspicion = SUSPICION[name](levels)
        usual = kept_by[name] = enough(planted.data.split, usual_of(levels), suspicion)
        finding = found_again(planted.planted, suspicion) if planted.planted.any() else {}
        cleaned = with_data(setup, without(planted.data, usual))
        about = {"seed": seed, "share": share, "treatment": name, **_dropped(planted, usual), **finding}
        rows.append(about | measure_run(cleaned))
    if finetune:
        everything, trimmed = kept_by[AS_IS], kept_by[TRIMMED]
        for name, kept in ((TRAINED, everything), (TRAINED_TRIMMED, trimmed), (TRAINING_TRIMMED, everything)):
            cleaned = with_data(setup, without(planted.data, kept))
            about = {"seed": seed, "share": share, "treatment": name, **_dropped(planted, kept)}
            rows.append(about | measure_run(cleaned, train=True, trim=name == TRAINING_TRIMMED))
    return rows


def measure_run(setup: Setup, *, train: bool = False, trim: bool = False) -> Row:
    """Measure the run of a prepared set-up, see `detect`; nothing without a test split."""
    kept, tested, epoch = detect(setup, train=train, trim=trim)
    if tested is None:
        return {}
    numbers = assess_test(setup, kept, tested).numbers()
    names = ("image_auroc", "pixel_aupro", "false_positive_rate", "true_positive_rate")
    return {name: numbers[name] for name in names} | {"best_epoch": epoch}


def detect(
    setup: Setup, *, train: bool = False, trim: bool = False
) -> tuple[Calibrated, Predictions | None, int]:
    """Do what `train` does and write nothing: the detector with its threshold, what it says about the test
    images, and the epoch kept. The encoder is afterwards what it was before.

    Args:
        setup: the run, with the pretrained encoder.
        train: fine-tune as the recipe says, in place of keeping the pretrained encoder.
        trim: leave the farthest images of each batch out of its loss.
    """
    seed_everything(setup.recipe.seed, verbose=False)
    method, pretrained, epoch = make_method(setup), trained_weights(setup.encoder), 0
    induced = method.fit()
    if train:
        monitor = make_monitor(setup, method, induced)
        objective = method.objective()
        if trim and isinstance(objective, InducedDistance):
            objective.left_out = LEFT_OUT
            setup = _whole_batches(setup)  # the farthest of a batch, not of each part of it
        records = list(epochs(setup, loop_state(setup, method, objective), monitor))
        mix(setup, monitor, pretrained, records)
        epoch = records[-1].verdict.best_epoch
    kept = calibrate(setup, method.refit(method.keeps, watching=False).detector)
    tested = predict_test(setup, kept.detector)
    put_weights(setup.encoder, pretrained)
    return kept, tested, epoch


def _whole_batches(setup: Setup) -> Setup:
    """Give the run with training steps that are computed in one part."""
    runtime = setup.recipe.runtime.model_copy(update={"micro_batch_size": 0})
    return replace(setup, recipe=setup.recipe.model_copy(update={"runtime": runtime}))


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """Average over seeds, a row for each share and treatment, with the standard deviation of the AUROC."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["share"], row["treatment"]), []).append(row)
    names = list(dict.fromkeys(name for row in rows for name in row))[3:]
    table = []
    for (share, treatment), group in sorted(groups.items(), key=lambda item: item[0][0]):
        means = {name: _mean([row.get(name) for row in group]) for name in names}
        spread = float(np.std([row["image_auroc"] for row in group], ddof=1)) if len(group) > 1 else None
        table.append({"share": share, "treatment": treatment, "seeds": len(group), **means, "auroc_sd": spread})
    return table


def shown_rows(table: Sequence[Row]) -> Iterator[dict[str, str]]:
    """Format the table for the terminal."""
    for row in table:
        yield {
            "share": f"{row['share']:g}",
            "treatment": row["treatment"],
            "AUROC": _text(row["image_auroc"], ".4f"),
            "AUPRO": _text(row["pixel_aupro"], ".3f"),
            "false alarms": _text(row["false_positive_rate"], ".1%"),
            "found": _text(row["true_positive_rate"], ".1%"),
            "dropped": f"{_text(row['dropped_planted'], '.0f')} of {_text(row['planted'], '.0f')}, "
            f"{_text(row['dropped_good'], '.0f')} good",
            "planted found": _text(row.get("found_auroc"), ".3f"),
        }


def _dropped(planted: Planted, usual: Flags) -> dict[str, int]:
    gone = ~usual
    return {
        "planted": int(planted.planted.sum()),
        "dropped_planted": int((gone & planted.planted).sum()),
        "dropped_good": int((gone & ~planted.planted).sum()),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
