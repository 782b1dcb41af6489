"""A prepared run becomes a finished run folder. The only place where all parts meet."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR

from anomaly_ft import bookkeeping
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.records import Record
from anomaly_ft.data.vicinal import Pixels
from anomaly_ft.evaluation.assess import Assessment, assess
from anomaly_ft.evaluation.gallery import Gallery, gallery_of
from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.evaluation.measure import gain_intervals, intervals, measure, prediction_table
from anomaly_ft.evaluation.plots import forgetting_figure, score_figure
from anomaly_ft.evaluation.report import Material, score_kinds, write_report
from anomaly_ft.evaluation.working_points import chi_square, conformal
from anomaly_ft.finetune.forgetting import Rule
from anomaly_ft.finetune.loop import Keep, fine_tune
from anomaly_ft.finetune.objective import InducedDistance
from anomaly_ft.finetune.state import EpochRecord, LoopState
from anomaly_ft.finetune.validation import PseudoSet, Validation, calibrate, fixed, validate
from anomaly_ft.folder import (
    append_json_line,
    finish_folder,
    finished_name,
    start_folder,
    write_json,
    write_text,
)
from anomaly_ft.metrics import Floats
from anomaly_ft.model.detector import Detector
from anomaly_ft.model.examine import Examined, examine, score_images
from anomaly_ft.model.fitting import fit_detector, standardise
from anomaly_ft.notes import experiment_tags
from anomaly_ft.setup import Setup
from anomaly_ft.tracking import make_tracker

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


def train(setup: Setup, output: Path) -> dict[str, Any]:
    """Fine-tune, seal, and leave a finished run folder in `output`; returns its summary.

    While it works, what it has so far stands in a folder whose name begins with a dot and ends in
    `.partial`; it stays when the run is interrupted, with the best encoder up to then.
    """
    recipe, partial = setup.recipe, start_folder(output, setup.recipe.name)
    write_text(partial / "recipe.yaml", recipe.to_yaml())
    pd.DataFrame(setup.data.manifest()).to_csv(partial / "split.csv", index=False)
    with make_tracker(
        enabled=recipe.tracking.mlflow,
        uri=recipe.tracking.uri,
        experiment=recipe.tracking.experiment,
        name=finished_name(partial),
        output=output,
        experiment_tags=experiment_tags(),
        system_metrics=recipe.tracking.system_metrics,
    ) as tracker:
        bookkeeping.log_start(setup, tracker)
        with setup.phase("fit"):
            frozen = fit(setup)
            frozen_test = _examine_test(setup, frozen)
        with setup.phase("calibrate"):
            sets = pseudo_sets(setup, frozen)
        records, gallery = [], _gallery(setup, sets)
        for record in epochs(setup, loop_state(setup, frozen), frozen, sets, observe=gallery.look):
            records.append(record)
            setup.terminal.epoch(record, recipe.gaussian.score)
            append_json_line(partial / "history.jsonl", bookkeeping.history_line(record))
            tracker.metrics(bookkeeping.epoch_metrics(record), record.epoch)
            for name, picture in gallery.pictures():
                tracker.image(picture, name, record.epoch)
            if record.verdict.best_epoch == record.epoch and record.epoch:
                setup.encoder.save(partial / "encoder")
        with setup.phase("seal"):
            sealed, material = _seal(setup, partial, frozen, frozen_test, records)
        summary = bookkeeping.summarise(setup, sets, records, tracker.run_id) | sealed
        write_report(partial / "report.html", summary, material)
        write_json(partial / "summary.json", summary)
        finished = finish_folder(partial)
        bookkeeping.log_end(summary, tracker, finished)
    return {**summary, "folder": str(finished), "mlflow_uri": tracker.uri}


def fit(setup: Setup) -> Detector:
    return fit_detector(
        setup.encoder, setup.normals("fit"), setup.normals("watch"), setup.compute, setup.detector_settings()
    )


def _current(setup: Setup, induced: Detector, final: str) -> Detector:
    """The detector that the encoder, as it is now, makes with induced or with refitted Gaussians."""
    if final == "refitted":
        return fit(setup)
    standardise(induced, setup.normals("watch"), setup.compute)
    return induced


def _score_with(setup: Setup, detector: Detector) -> Callable[[Pixels], Floats]:
    def score(pixels: Pixels) -> Floats:
        return score_images(detector, pixels, setup.compute)[setup.recipe.gaussian.score]

    return score


def score_test(setup: Setup, detector: Detector) -> dict[str, Floats] | None:
    test = setup.data.test
    return score_images(detector, test.pixels, setup.compute) if len(test) else None


def _examine_test(setup: Setup, detector: Detector) -> Examined | None:
    test = setup.data.test
    return examine(detector, test.pixels, setup.compute) if len(test) else None


def _gallery(setup: Setup, sets: dict[str, PseudoSet]) -> Gallery:
    """The images that are shown after every validation."""
    tracking, score = setup.recipe.tracking, setup.recipe.gaussian.score
    count = tracking.images if tracking.mlflow else 0
    pseudo = {name: pseudo.pixels for name, pseudo in sets.items()}
    return gallery_of(
        setup.data.test, setup.data.normals("watch"), pseudo, setup.compute, count=count, score=score
    )


def pseudo_sets(setup: Setup, frozen: Detector) -> dict[str, PseudoSet]:
    section, seed = setup.recipe.validation, setup.recipe.seed
    watch, score = setup.data.normals("watch"), _score_with(setup, frozen)
    if not isinstance(section.severity, str):
        return fixed(score, watch, section.augmentations, severity=section.severity, seed=seed)
    sets = calibrate(
        score,
        watch,
        section.augmentations,
        target=section.target_auroc,
        tolerance=section.tolerance,
        seed=seed,
    )
    for name, pseudo in sets.items():
        said = "" if pseudo.informative else ", too far from the target to have a say"
        setup.terminal.say(
            f"watching {name} at severity {pseudo.severity:.3f}: "
            f"vicinal AUROC {pseudo.baseline_auroc:.3f} before training{said}"
        )
    return sets


def loop_state(setup: Setup, induced: Detector) -> LoopState:
    """What trains, before its first step.

    Args:
        setup: the run.
        induced: detector of the pretrained encoder, whose Gaussians training pulls towards.
    """
    recipe = setup.recipe
    optimizer = OPTIMIZERS[recipe.optimizer.name](
        [p for p in setup.encoder.parameters() if p.requires_grad],
        lr=recipe.optimizer.lr,
        weight_decay=recipe.optimizer.weight_decay,
    )
    objective, optimizer = setup.compute.fabric.setup(
        InducedDistance(induced, recipe.objective.distance), optimizer
    )
    steps = math.ceil(len(setup.data.split.fit) / recipe.optimizer.batch_size)
    warmup = round(recipe.schedule.warmup_epochs * steps)
    return LoopState(
        objective, optimizer, LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    )


def epochs(
    setup: Setup,
    state: LoopState,
    induced: Detector,
    sets: dict[str, PseudoSet],
    observe: Callable[[Detector], None] = lambda detector: None,
    keep: Keep = lambda state, ended: None,
) -> Iterator[EpochRecord]:
    """Fine-tune epoch by epoch; the encoder holds the best epoch's weights afterwards.

    Args:
        setup: the run.
        state: what trains, and how far it is.
        induced: detector of the pretrained encoder.
        sets: pseudo-anomalies to validate with.
        observe: is shown the detector of each validation; what it does has no say in anything.
        keep: see `fine_tune`.
    """
    recipe = setup.recipe
    augmented, watch = recipe.data.augment, setup.normals("watch")
    fit = setup.data.normals("fit").pixels if augmented else setup.normals("fit")
    sets = {name: replace(s, pixels=setup.keep(f"pseudo {name}", s.pixels)) for name, s in sets.items()}

    def batches(epoch: int, done: int) -> Iterator[Tensor]:
        size = recipe.optimizer.batch_size
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(fit))
        chunks = np.split(order, range(size, len(fit), size))[done:]
        for chunk in setup.terminal.track(chunks, f"epoch {epoch}", sum(map(len, chunks)), size=len):
            images = fit[chunk]
            yield setup.compute.batch(setup.augment(images, chunk.tolist(), epoch) if augmented else images)

    def validate_now() -> Validation:
        detector = _current(setup, induced, recipe.gaussian.final)
        observe(detector)
        return validate(_score_with(setup, detector), watch, sets)

    rule = Rule(**recipe.schedule.model_dump(exclude={"warmup_epochs"}))
    return fine_tune(state, setup.compute.fabric, batches, validate_now, rule, keep)


def _seal(
    setup: Setup,
    partial: Path,
    induced: Detector,
    frozen: Examined | None,
    records: list[EpochRecord],
) -> tuple[dict[str, Any], Material]:
    """Both final detectors are measured on the test split; the recipe decides which one is kept."""
    recipe, test = setup.recipe, setup.data.test
    score_name, final = recipe.gaussian.score, recipe.gaussian.final
    rate = recipe.evaluation.false_positive_rate
    decoder = Decoder(recipe.data.image_size, recipe.data.resize, recipe.data.range)
    numbers: dict[str, Any] = {}
    for kind in ("induced", "refitted"):
        detector = _current(setup, induced, kind)
        calibration = examine(detector, setup.data.normals("calibrate").pixels, setup.compute)
        point = conformal(calibration.scores[score_name], rate)
        tested = _examine_test(setup, detector)
        if kind != final:
            numbers[kind] = measure(test.records, tested.scores, score_name, point) if tested else None
            continue
        levels = chi_square(detector.encoder.levels, detector.encoder.widths, rate, calibration.distances)
        detector.set_point(point, [level.threshold for level in levels])
        how = {"resize": recipe.data.resize, "range": recipe.data.range}
        detector.save(partial, about={"final": final, "preprocessing": how})
        found = assess(test.records, tested, score_name, point, decoder) if tested else None
        numbers[kind] = found.numbers() if found else None
        if found:
            table = prediction_table(test.records, found.examined.scores, score_name, point)
            table.to_csv(partial / "predictions.csv", index=False)
        setup.terminal.say(str(point))
        held_out, thresholds = calibration, asdict(point)
    sealed = {
        "folder_name": finished_name(partial),
        **_compare(test.records, frozen, found, score_name),
        "test_by_gaussian": numbers,
        "thresholds": thresholds,
        "chi_square": [asdict(level) for level in levels],
    }
    material = Material(
        recipe=recipe.to_yaml(),
        assessment=found,
        threshold=thresholds["threshold"],
        held_out=held_out.scores[score_name],
        frozen=frozen.scores[score_name] if frozen else None,
        validations=[record.validation for record in records if record.validation],
        verdict=records[-1].verdict,
    )
    _draw(partial, material)
    return sealed, material


def _compare(
    records: Sequence[Record], frozen: Examined | None, found: Assessment | None, score: str
) -> dict[str, Any]:
    """Test numbers of the final and of the pretrained encoder's detector, and of the change between them."""
    if frozen is None or found is None:
        return {"frozen_test": None, "test": None}
    before = measure(records, frozen.scores, score)
    return {
        "frozen_test": before | localise(records, frozen.dense, frozen.contribution, found.decoder).numbers,
        "frozen_test_intervals": intervals(records, frozen.scores[score]),
        "gain_intervals": gain_intervals(records, frozen.scores[score], found.scores),
        **found.summary(),
    }


def _draw(partial: Path, material: Material) -> None:
    """The figures as files of their own, for those who write about a run."""
    kinds = score_kinds(material.held_out, material.assessment)
    score_figure(kinds, material.threshold, list(kinds)[:2]).savefig(partial / "scores.png", dpi=110)
    if material.verdict:
        figure = forgetting_figure(material.validations, material.verdict)
        figure.savefig(partial / "forgetting.png", dpi=110)
