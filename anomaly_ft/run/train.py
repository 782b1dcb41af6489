"""A prepared run becomes a finished run folder: induce, watch, fine-tune, choose, finish."""

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from torch import distributed

from anomaly_ft.data.corruption import Corruption, read_textures
from anomaly_ft.data.known_defects import as_shown
from anomaly_ft.data.pixels import sides
from anomaly_ft.errors import DivergedError
from anomaly_ft.evaluation.gallery import Gallery, gallery_of
from anomaly_ft.finetune.brakes.weight_average import trained_weights
from anomaly_ft.finetune.checkpoint import Checkpoints
from anomaly_ft.finetune.method import Method
from anomaly_ft.finetune.methods.filter import FilterMethod
from anomaly_ft.finetune.methods.gaussian import GaussianMethod
from anomaly_ft.finetune.records import EpochRecord
from anomaly_ft.finetune.state import LoopState
from anomaly_ft.finetune.teaching import taught
from anomaly_ft.finetune.watch import ValidationMonitor
from anomaly_ft.model.compute import explain_memory
from anomaly_ft.model.encoder.adapters import mixable
from anomaly_ft.model.filter.net import dilations_of, sides_of
from anomaly_ft.model.filter.place import place_of
from anomaly_ft.model.interface import Detector
from anomaly_ft.run.analyse import audit_dataset
from anomaly_ft.run.begin import remember_run, remembered_run, write_start
from anomaly_ft.run.finish import finish, measure_baseline
from anomaly_ft.run.folder import finish_folder, finished_name, start_folder, writing_to
from anomaly_ft.run.log import log_end, log_start, log_suspicious
from anomaly_ft.run.positions import remember_position, remembered_position, summarise_position
from anomaly_ft.run.run_summary import FinishedRun
from anomaly_ft.run.setup import Setup
from anomaly_ft.run.summarise import git_commit, summarise
from anomaly_ft.run.summary import epoch_metrics, history_line
from anomaly_ft.run.summary_text import position_sentence
from anomaly_ft.run.suspicious import suspicious_images
from anomaly_ft.run.training import choose, epochs, loop_state, make_monitor, position_of
from anomaly_ft.system.addresses import without_password
from anomaly_ft.system.files import (
    append_json_line,
    clear_aside,
    json_line,
    replace_folder,
    write_json,
    write_text,
)
from anomaly_ft.system.signals import finishing_the_step
from anomaly_ft.tracking.experiment_view import experiment_tags
from anomaly_ft.tracking.interface import Tracker
from anomaly_ft.tracking.tracker import TrackedRun, make_tracker

NO_BASELINE = (
    "There is no baseline: without a pretrained encoder nothing is known before training. Epoch 0 is never "
    "kept, and what would be of the frozen encoder is left empty."
)


def gaussian_method(setup: Setup) -> GaussianMethod:
    """Make the method that fine-tunes an encoder towards Gaussians of its features."""
    section = setup.recipe.objective
    penalties = {"l2_sp": section.l2_sp, "distillation": section.distillation}
    if setup.teacher:
        penalties["teacher"] = section.teacher_strength
    method = GaussianMethod(
        setup.encoder,
        setup.compute,
        setup.detector_settings(),
        setup.inputs,
        section.distance,
        section.target,
        {name: strength for name, strength in penalties.items() if strength},
        section.floor,
        setup.recipe.gaussian.statistics,
        defects=as_shown(setup.known, setup.variation) if setup.known else None,
    )
    if teacher := setup.teacher:
        method.teach = lambda detector: taught(detector, teacher, setup.varied("train").pixels, setup.compute)
    if chooses_position(setup):
        method.choose = lambda heads: setup.position or position_of(setup, heads, method.score)
    return method


def chooses_position(setup: Setup) -> bool:
    """Tell whether what positions mean is chosen. A run that goes on fits all heads once more though it has
    chosen: sums that were joined are not to the last bit those of one sample."""
    padded = setup.recipe.data.resize == "letterbox"  # no place of the one Gaussian may be a black border
    return setup.recipe.gaussian.position == "auto" and not padded


def filter_method(setup: Setup) -> FilterMethod:
    """Make the method that trains a filter.

    Raises:
        DataError: textures that are missing or cannot be read.
        EncoderError: levels that are none, or a net that reaches farther than images of this size let it.
    """
    recipe, section = setup.recipe, setup.recipe.filter
    corruption = Corruption(
        section.shapes,
        section.fillings,
        section.clean_share,
        section.noise,
        recipe.seed,
        read_textures(section.textures, sides(recipe.data.image_size)[0]),
    )
    settings = setup.filter_settings()
    grid = place_of(setup.encoder, settings).grid
    dilations_of(sides_of(grid)[-1], settings.reach)  # refuses a reach that does not fit
    method = FilterMethod(
        setup.encoder, setup.compute, settings, setup.inputs, corruption, section.clean_weight
    )
    if chooses_position(setup):
        method.choose = lambda heads: setup.position or position_of(setup, heads, method.score)
    return method


# by kind of model
METHODS: dict[str, Callable[[Setup], Method]] = {"gaussian": gaussian_method, "filter": filter_method}


def make_method(setup: Setup) -> Method:
    """Make the method that the recipe asks for.

    Raises:
        AnomalyFtError: what it needs is not there.
    """
    return METHODS[setup.recipe.model.kind](setup)


def train_together(setup: Setup, output: Path, *, unfinished: Path | None = None) -> FinishedRun:
    """Train in this process alone or in all that torchrun started: each computes its share of the images,
    and only rank 0's output is kept. See `train`."""
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
) -> FinishedRun:
    """Fine-tune an encoder, and leave a finished run folder in `output`; returns it with its summary.

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
    make_method(setup)  # refuses what does not fit before anything is written
    partial = unfinished or start_folder(output, setup.recipe.name)
    with explain_memory(), writing_to(partial), _tracker(setup, output, partial) as tracker:
        _start(setup, partial, tracker, tags or {})

        # induce: statistics of the pretrained encoder
        with setup.phase("fit"):
            setup, method, induced = _induce(setup, partial)
            frozen = measure_baseline(setup, method, induced)
            suspicious = suspicious_images(setup)  # while the encoder was trained on none of them

        # watch: pseudo-anomalies that the pretrained encoder finds neither easy nor impossible
        with setup.phase("calibrate"):
            monitor = make_monitor(setup, method, induced)

        # fine-tune: until validation says stop; the best epoch's weights come back
        pretrained = mixable(trained_weights(method.trained()))
        gallery = _gallery(setup, monitor)
        gallery.look(induced)  # its colours are those of the pretrained encoder, whenever this run goes on
        monitor.observe = gallery.look
        state = loop_state(setup, method)
        records = _fine_tune(setup, partial, state, monitor, (gallery, tracker, induced.decides))

        # choose: a mixture of pretrained and fine-tuned weights, where the recipe asks for it
        with setup.phase("choose"):
            mixed = choose(setup, monitor, pretrained, records)

        # finish: thresholds, test numbers, files
        with setup.phase("audit"):  # of the split; nothing of it goes back into the run
            audit = audit_dataset(setup.data, setup.recipe.data.resize, progress=setup.terminal.track)
        known = summarise(setup, monitor.sets, records, (induced.decides, tracker.run_id))
        known |= {"mixed": mixed, "shortcuts": audit, "suspicious": suspicious}
        known |= {"position": summarise_position(setup)}
        with setup.phase("finish"):
            summary = finish(setup, partial, method, (known, records, frozen))
        finished = finish_folder(partial)
        log_suspicious(suspicious[: setup.recipe.tracking.images], setup.data.undivided, tracker)
        log_end(summary, tracker, finished)
        tracker.model(finished, setup.recipe.runtime.computing(), setup.recipe.tracking.register)
    if tracker.run_id != summary.mlflow_run_id:  # a store that was down at first
        summary = summary.model_copy(update={"mlflow_run_id": tracker.run_id})
        write_json(finished / "summary.json", summary.plain())
    return FinishedRun(finished, summary, tracker.uri and without_password(tracker.uri))


def _tracker(setup: Setup, output: Path, partial: Path) -> Any:
    tracking = setup.recipe.tracking
    return make_tracker(
        TrackedRun(tracking.experiment, finished_name(partial), remembered_run(partial), experiment_tags()),
        enabled=tracking.mlflow and setup.compute.fabric.is_global_zero,
        uri=tracking.uri,
        output=output,
        system_metrics=tracking.system_metrics,
    )


def _start(setup: Setup, partial: Path, tracker: Tracker, tags: Mapping[str, str]) -> None:
    """Write down what the run is, before anything takes time."""
    clear_aside(partial)  # of a run that was killed while it wrote; it would stay in the finished folder
    write_start(partial, setup)
    split = pd.DataFrame(setup.data.manifest())
    log_start(setup.recipe, split, tracker, git_commit())
    tracker.tags(tags)
    remember_run(partial, tracker.run_id)


def _induce(setup: Setup, partial: Path) -> tuple[Setup, Method, Detector]:
    """Fit the pretrained encoder's detector, and choose what positions mean unless the run did so before."""
    setup = replace(setup, position=remembered_position(partial))
    method = make_method(setup)
    induced = method.fit()
    setup = replace(setup, position=setup.position or method.position)
    remember_position(partial, setup.position)
    setup.terminal.say(position_sentence(summarise_position(setup)))
    if not method.has_baseline:
        setup.terminal.say(NO_BASELINE)
    return setup, method, induced


def _fine_tune(
    setup: Setup,
    partial: Path,
    state: LoopState,
    monitor: ValidationMonitor,
    shown: tuple[Gallery, Tracker, str],
) -> list[EpochRecord]:
    """Train to the end, from the last checkpoint if there is one; the records of all epochs. `shown` are the
    pictures, where they go, and the score that decides."""
    checkpoints = Checkpoints(partial / "checkpoint", setup.recipe.runtime.checkpoint_minutes)
    gallery, tracker, decides = shown
    checkpoints.restore(state)
    lines = [json_line(history_line(record)) for record in state.records]
    write_text(partial / "history.jsonl", "".join(lines))
    for record in state.records:
        tracker.metrics(epoch_metrics(record), record.epoch)
    if state.records:
        setup.terminal.say(f"going on with {finished_name(partial)} after epoch {len(state.records) - 1}")
    with finishing_the_step(setup.terminal.say) as asked:

        def keep(state: LoopState, ended: bool) -> None:
            checkpoints.keep(state, ended or bool(asked))
            if ended:
                remember_run(partial, tracker.run_id)
            if asked and not ended:
                raise KeyboardInterrupt

        for record in epochs(setup, state, monitor, keep):
            setup.terminal.epoch(record, decides)
            append_json_line(partial / "history.jsonl", history_line(record))
            tracker.metrics(epoch_metrics(record), record.epoch)
            for name, picture in gallery.pictures():
                tracker.image(picture, name, record.epoch)
            if record.verdict.best_epoch == record.epoch and record.epoch:
                replace_folder(partial / "encoder", setup.encoder.save)
    if not monitor.method.has_baseline and len(state.records) > 1 and not state.records[-1].verdict.best_epoch:
        raise DivergedError(
            "the first epoch diverged, and before it there is nothing to keep; lower optimizer.lr"
        )
    return state.records


def _gallery(setup: Setup, monitor: ValidationMonitor) -> Gallery:
    """Choose the images that are shown after every validation."""
    tracking = setup.recipe.tracking
    count = tracking.images if tracking.mlflow else 0
    pseudo = {name: pseudo.pixels for name, pseudo in monitor.sets.items()}
    return gallery_of(setup.data.test, setup.data.normals("val"), pseudo, setup.compute, count=count)
