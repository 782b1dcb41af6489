"""A prepared run becomes a finished run folder. The only place where all parts meet."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from torch import distributed

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.records import Record
from anomaly_ft.evaluation.assess import Assessment, assess
from anomaly_ft.evaluation.gallery import Gallery, gallery_of
from anomaly_ft.evaluation.localisation import localise
from anomaly_ft.evaluation.measure import gain_intervals, intervals, measure, prediction_table
from anomaly_ft.evaluation.plots import forgetting_figure, score_figure
from anomaly_ft.evaluation.report import Material, score_kinds, write_report
from anomaly_ft.evaluation.working_points import chi_square, conformal
from anomaly_ft.finetune.checkpoint import Checkpoints
from anomaly_ft.finetune.records import EpochRecord, PseudoSet
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.finetune.watch import Watchdog, choose_final, current, watchdog
from anomaly_ft.finetune.weight_average import trained_weights
from anomaly_ft.model.compute import explain_memory
from anomaly_ft.model.gaussian.detector import Detector
from anomaly_ft.model.inference import Examined, examine
from anomaly_ft.run import summary as bookkeeping
from anomaly_ft.run.analyse import audit_dataset
from anomaly_ft.run.folder import finish_folder, finished_name, start_folder, writing_to
from anomaly_ft.run.log import log_end, log_start
from anomaly_ft.run.resume import remember_run, remembered_run, write_start
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.training import epochs, loop_state, mix
from anomaly_ft.system.files import append_json_line, json_line, replace_folder, write_json, write_text
from anomaly_ft.system.signals import finishing_the_step
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.tracker import Tracker, make_tracker


def train_together(setup: Setup, output: Path, *, unfinished: Path | None = None) -> dict[str, Any]:
    """`train`, in this process alone or in all that torchrun started: each does the same with its share of
    the images, and what others than the first write is thrown away."""
    fabric = setup.compute.fabric
    if fabric.world_size == 1:
        return train(setup, output, unfinished=unfinished)
    with ExitStack() as stack:
        stack.callback(distributed.destroy_process_group)
        if not fabric.is_global_zero:
            output = Path(stack.enter_context(TemporaryDirectory(prefix="anomaly_ft")))
            if unfinished:
                unfinished = shutil.copytree(unfinished, output / unfinished.name)
        fabric.barrier()  # the first does not change what the others copy
        return train(setup, output, unfinished=unfinished)


def train(
    setup: Setup, output: Path, *, unfinished: Path | None = None, tags: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Fine-tune, seal, and leave a finished run folder in `output`; returns its summary.

    While it works, what it has so far stands in a folder whose name begins with a dot and ends in
    `.partial`; it stays when the run is interrupted, with the best encoder up to then.

    Args:
        setup: the run.
        output: where the run folder goes.
        unfinished: a folder that such a run left, to go on where it was.
        tags: of its MLflow run, beside the usual ones.

    Raises:
        RunError: the folder cannot be written to; what it holds can be gone on with.
    """
    recipe, partial = setup.recipe, unfinished or start_folder(output, setup.recipe.name)
    with (
        explain_memory(),
        writing_to(partial),
        make_tracker(
            enabled=recipe.tracking.mlflow and setup.compute.fabric.is_global_zero,
            uri=recipe.tracking.uri,
            experiment=recipe.tracking.experiment,
            name=finished_name(partial),
            output=output,
            run_id=remembered_run(partial),
            experiment_tags=experiment_tags(),
            system_metrics=recipe.tracking.system_metrics,
        ) as tracker,
    ):
        write_start(partial, setup)
        split = pd.DataFrame(setup.data.manifest())
        log_start(recipe, split, tracker, bookkeeping.git_commit())
        tracker.tags(tags or {})
        remember_run(partial, tracker.run_id)
        with setup.phase("fit"):
            dog = watchdog(setup)
            frozen_test = _examine_test(setup, dog.induced)
        pretrained = trained_weights(setup.encoder)
        records = _train(setup, partial, dog, tracker)
        with setup.phase("choose"):
            mixed = mix(setup, dog, pretrained, records)
            final = choose_final(setup, dog)
        with setup.phase("seal"):
            sealed, material = _audited(setup, *_seal(setup, partial, dog.induced, final, frozen_test, records))
        summary = bookkeeping.summarise(setup, dog.sets, records, tracker.run_id) | sealed
        summary |= {"final": final, "mixed": mixed, "level_weights": dog.induced.level_weights.tolist()}
        write_report(partial / "report.html", summary, material)
        write_json(partial / "summary.json", summary)
        finished = finish_folder(partial)
        log_end(summary, tracker, finished)
        tracker.model(finished, recipe.runtime.computing(), recipe.tracking.register)
    if tracker.run_id != summary["mlflow_run_id"]:  # a store that was down at first
        summary["mlflow_run_id"] = tracker.run_id
        write_json(finished / "summary.json", summary)
    return {**summary, "folder": str(finished), "mlflow_uri": tracker.uri}


def _train(setup: Setup, partial: Path, dog: Watchdog, tracker: Tracker) -> list[EpochRecord]:
    """Train to the end, from the last checkpoint if there is one; the records of all epochs."""
    checkpoints = Checkpoints(partial / "checkpoint", setup.recipe.runtime.checkpoint_minutes)
    state, gallery = loop_state(setup, dog.induced), _gallery(setup, dog.sets)
    gallery.look(dog.induced)  # its colours are those of the pretrained encoder, whenever this run goes on
    checkpoints.restore(state)
    lines = [json_line(bookkeeping.history_line(record)) for record in state.records]
    write_text(partial / "history.jsonl", "".join(lines))
    for record in state.records:
        tracker.metrics(bookkeeping.epoch_metrics(record), record.epoch)
    if state.records:
        setup.terminal.say(f"going on with {finished_name(partial)} after epoch {len(state.records) - 1}")
    with finishing_the_step(setup.terminal.say) as asked:

        def keep(state: LoopState, ended: bool) -> None:
            checkpoints.keep(state, ended or bool(asked))
            if ended:
                remember_run(partial, tracker.run_id)
            if asked and not ended:
                raise KeyboardInterrupt

        dog.observe = gallery.look
        for record in epochs(setup, state, dog, keep):
            setup.terminal.epoch(record, setup.recipe.gaussian.score)
            append_json_line(partial / "history.jsonl", bookkeeping.history_line(record))
            tracker.metrics(bookkeeping.epoch_metrics(record), record.epoch)
            for name, picture in gallery.pictures():
                tracker.image(picture, name, record.epoch)
            if record.verdict.best_epoch == record.epoch and record.epoch:
                replace_folder(partial / "encoder", setup.encoder.save)
    return state.records


def _audited(setup: Setup, sealed: dict[str, Any], material: Material) -> tuple[dict[str, Any], Material]:
    """What was sealed, and what the test numbers are worth; nothing of that goes back into the run."""
    audit = audit_dataset(setup.data, setup.recipe.data.resize, progress=setup.terminal.track)
    return sealed | {"shortcuts": audit.to_json() if audit else None}, replace(material, audit=audit)


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


def _seal(
    setup: Setup,
    partial: Path,
    induced: Detector,
    final: str,
    frozen: Examined | None,
    records: list[EpochRecord],
) -> tuple[dict[str, Any], Material]:
    """Detectors with induced and with refitted Gaussians are measured on the test split; `final` is kept."""
    recipe, test = setup.recipe, setup.data.test
    score_name, rate = recipe.gaussian.score, recipe.evaluation.false_positive_rate
    decoder = Decoder(recipe.data.image_size, recipe.data.resize, recipe.data.range)
    numbers: dict[str, Any] = {}
    for kind in dict.fromkeys(("induced", "refitted", final)):
        detector = current(setup, induced, kind)
        calibration = examine(detector, setup.data.normals("calibrate").pixels, setup.compute)
        point = conformal(calibration.scores[score_name], rate)
        tested = _examine_test(setup, detector)
        if kind != final:
            numbers[kind] = measure(test.records, tested.scores, score_name, point) if tested else None
            continue
        levels = chi_square(
            detector.encoder.levels,
            detector.encoder.widths,
            rate,
            calibration.distances,
            weights=detector.level_weights.cpu().numpy(),
        )
        limit = conformal(calibration.dense.max((1, 2)), rate).threshold
        detector.set_point(point, [level.threshold for level in levels], limit)
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
