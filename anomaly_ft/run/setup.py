"""Set up from a recipe the objects a run works with; nothing is written here."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from lightning_fabric import seed_everything

from anomaly_ft.analysis.suspicion import Batches
from anomaly_ft.data.augment import Augment, make_augment
from anomaly_ft.data.dataset import SHOWN, Dataset, Options, are_dark, load_dataset, read_records
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.known_defects import load_known_defects
from anomaly_ft.data.layouts.detect import Reading
from anomaly_ft.data.loaded import DARK_SAYS, Images
from anomaly_ft.data.pixels import Pixels, say_size
from anomaly_ft.data.proportions import STEP, native_size
from anomaly_ft.data.records import Part, counts
from anomaly_ft.data.splits import Shares, only
from anomaly_ft.data.variation import Variation, with_copies
from anomaly_ft.evaluation.metric_names import PHASES
from anomaly_ft.finetune.records import PositionChoice, PseudoSet
from anomaly_ft.model.compute import Compute, make_compute, resolve_precision
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.encoder.weights import resolve_source, step_of
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.gaussian.cache_early import EarlyCache
from anomaly_ft.model.gaussian.settings import DetectorSettings
from anomaly_ft.model.inference import feature_batches
from anomaly_ft.model.teacher import Teacher, load_teacher
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.robust import usual_images
from anomaly_ft.run.settings import detector_settings, filter_settings

HELD_OUT_COPIES: dict[Part, int] = {"val": 1, "calibration": 4}  # varied copies of each held-out image
TRAINED_CLEAN = 1 / 3  # share of training images that are seen as they are
TRAINING = 1000  # number of the varied copy of a first pass; the statistics have copies 0, 1, ...


def train_encoder(encoder: Encoder, recipe: Recipe) -> None:
    """Let the weights of the encoder train that the recipe names, or adapters beside them."""
    section = recipe.encoder
    encoder.train_only(section.train_blocks)
    if section.adapt == "lora":
        encoder.adapt(section.train_blocks, section.rank, name=section.name, weights=section.weights)


# what of the encoder trains, by kind of model
TRAINED: dict[str, Callable[[Encoder, Recipe], object]] = {
    "gaussian": train_encoder,
    "filter": lambda encoder, recipe: encoder.requires_grad_(requires_grad=False),
}


@dataclass(frozen=True)
class Setup:
    """Everything a run needs before anything is written."""

    recipe: Recipe
    data: Dataset
    encoder: Encoder
    compute: Compute
    terminal: Terminal
    seconds: dict[str, float] = field(default_factory=dict)
    early: EarlyCache = field(kw_only=True)  # of what frozen early blocks made of images
    augment: Augment = lambda pixels, *_: pixels  # what training images go through after they were varied
    variation: Variation = field(kw_only=True)  # what may differ between good parts
    teacher: Teacher | None = None  # of `objective.teacher`
    features: Batches | None = None  # of all training images, where they were looked through already
    known: Images | None = None  # defects that enter the objective
    position: PositionChoice | None = None  # what `gaussian.position: auto` came to
    pseudo: dict[bytes, dict[str, PseudoSet]] = field(default_factory=dict)  # see `training.pseudo_sets`

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the seconds that pass to a phase of the run."""
        started, self.terminal.doing = time.perf_counter(), PHASES[name]
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def inputs(self, part: Part) -> Pixels:
        """Give the encoder's input for `varied` normal images of one part: the images, or, where early blocks
        are frozen, their cached early activations."""
        return self.early(part, self.varied(part).pixels)

    def varied(self, part: Part) -> Images:
        """Give the normal images of one part, and after all of them their varied copies."""
        copies = HELD_OUT_COPIES.get(part, self.recipe.variation.copies)
        return with_copies(self.data.normals(part), self.variation, copies)

    @property
    def augments(self) -> bool:
        """Whether training images are seen otherwise than they are."""
        return bool(self.variation or self.recipe.data.augment)

    def vary_for_training(
        self, pixels: Pixels, names: Sequence[str], indices: Sequence[int], number: int
    ) -> Pixels:
        """Vary a batch of training images in the pass over all of them that has this number."""
        if self.variation:
            pixels = self.variation.batch(pixels, names, TRAINING + number, clean=TRAINED_CLEAN)
        return self.augment(pixels, indices, number)

    def detector_settings(self) -> DetectorSettings:
        """Translate the recipe's settings of the detector, with the position that was chosen."""
        return detector_settings(self.recipe, self.position.position if self.position else None)

    def filter_settings(self) -> FilterSettings:
        """Translate the recipe's settings of a filter, with the position that was chosen."""
        return filter_settings(self.recipe, self.position.position if self.position else None)

    def describe(self) -> list[str]:
        """Describe for people what will be trained on what."""
        recipe, split, encoder = self.recipe, self.data.split, self.encoder
        test = counts(self.data.test.records)
        trainable = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
        levels = ", ".join(f"{n} ({d})" for n, d in zip(encoder.levels, encoder.widths, strict=True))
        return [
            f"data     {recipe.data.root} ({self.data.layout} layout: {self.data.why}): "
            f"{len(self.data.undivided)} normal images, "
            f"{len(split.train)} train, {len(split.val)} val, {len(split.calibration)} calibration",
            f"test     {', '.join(f'{n} {kind}' for kind, n in test.items()) or 'no images'}",
            *([f"known    {len(self.known)} defects, which training keeps far away"] if self.known else []),
            f"images   {say_size(recipe.data.image_size)} pixels high and wide, {recipe.data.resize}",
            f"model    {recipe.model.kind}",
            f"encoder  {recipe.encoder.name}, weights from {recipe.encoder.weights}, "
            + (f"{trainable / 1e6:.2f} million trainable parameters" if trainable else "stays as it is")
            + (" in adapters" if encoder.adapter else ""),
            f"levels   {levels}",
            *([f"teacher  {self.teacher}"] if self.teacher else []),
            *([f"frozen   all before {encoder.tail[0]}: computed once in validation"] if encoder.tail else []),
            f"compute  {self.compute.fabric.device}, {recipe.runtime.precision}, "
            f"{torch.get_num_threads()} threads",
        ]


def prepare(recipe: Recipe, terminal: Terminal) -> Setup:
    """Read the data, load the encoder, choose the device; nothing is written.

    Raises:
        AnomalyFtError: whatever the recipe asks for that is not there.
    """
    started = time.perf_counter()
    recipe = with_native_size(_resolve(recipe))
    seed_everything(recipe.seed, verbose=False)
    if recipe.runtime.threads:
        torch.set_num_threads(recipe.runtime.threads)
    encoder = load_encoder(
        recipe.encoder.name,
        recipe.encoder.weights,
        levels=recipe.encoder.levels,
        image_size=recipe.data.image_size,
    )
    lesson = recipe.objective
    teacher = load_teacher(lesson.teacher, lesson.teacher_weights, encoder, levels=lesson.teacher_levels)
    TRAINED[recipe.model.kind](encoder, recipe)
    if recipe.runtime.gradient_checkpointing:
        encoder.checkpoint_gradients()
    if recipe.runtime.compile:
        encoder.compile_parts()
    compute = replace(make_compute(**recipe.runtime.computing()), watch=terminal.passes)
    data = load_dataset(
        recipe.data.root,
        image_size=recipe.data.image_size,
        shares=Shares(recipe.data.val_share, recipe.data.calibration_share, recipe.seed),
        threads=torch.get_num_threads(),
        progress=terminal.track,
        options=data_options(recipe),
    )
    _tell(data, recipe, terminal)
    known = _known_defects(recipe, data)
    augment = make_augment(recipe.data.augment, image_size=recipe.data.image_size, seed=recipe.seed)
    encoder = compute.prepare(encoder)
    room = int(recipe.runtime.cache_gib * 2**30) - data.memory
    early = EarlyCache(encoder, compute, detector_settings(recipe), room)
    variation = Variation(recipe.variation.strengths(), recipe.seed)
    setup = Setup(
        *(recipe, data, encoder, compute, terminal, {}),
        augment=augment,
        early=early,
        variation=variation,
        teacher=teacher,
        known=known,
    )
    if recipe.gaussian.robust:
        setup = _robust(setup)
    setup.seconds["prepare"] = time.perf_counter() - started
    return setup


def _known_defects(recipe: Recipe, data: Dataset) -> Images | None:
    """Read the known defects that a recipe names; None where it names none.

    Raises:
        DataError: see `load_known_defects`.
    """
    section = recipe.data
    if not section.known_defects:
        return None
    decoder = Decoder(section.image_size, section.resize, section.range)
    used = (*data.undivided.records, *data.test.records)
    return load_known_defects(Path(section.known_defects).expanduser(), decoder, used)


def _tell(data: Dataset, recipe: Recipe, terminal: Terminal) -> None:
    """Say what was found in the images that a user should know before anything is trained."""
    for notice in data.notices:
        terminal.say(notice)
    for record, why in data.skipped:
        terminal.say(f"skipped {record.path}: {why}")
    if data.skipped:
        total = len(data.skipped) + len(data.undivided) + len(data.test)
        terminal.say(f"skipped {len(data.skipped)} of {total} images, for they cannot be read")
    if recipe.data.range is None and are_dark(data.undivided):
        terminal.say(f"warning: images of more than 8 bits {DARK_SAYS}")
    if recipe.data.known_defects and not recipe.schedule.max_epochs:
        terminal.say("data.known_defects: does nothing where schedule.max_epochs is 0; nothing is trained")


def _robust(setup: Setup) -> Setup:
    """Leave out of the run the training images that stand out from the others, and say which."""
    images, split = setup.data.undivided, setup.data.split
    batches = feature_batches(setup.encoder, images.pixels, setup.compute)
    usual = usual_images(split, batches, len(images), setup.recipe.seed)
    names = [record.name for record, kept in zip(images.records, usual, strict=True) if not kept]
    if names:
        some = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        setup.terminal.say(f"left out, for they stand out from the other training images: {some}")
    data = replace(setup.data, split=only(split, usual))
    return replace(setup, data=data, features=batches)


def data_options(recipe: Recipe) -> Options:
    """Translate the recipe's settings of how images are read and kept."""
    data, runtime = recipe.data, recipe.runtime
    return Options(
        layout=data.layout,
        manifest=data.manifest,
        group_by=data.group_by,
        resize=data.resize,
        value_range=data.range,
        on_error=data.on_error,
        max_bad_share=data.max_bad_share,
        allow_leak=data.allow_leak,
        cache=runtime.cache,
        cache_gib=runtime.cache_gib,
        cache_dir=runtime.cache_dir,
        cache_disk_gib=runtime.cache_disk_gib,
    )


def records_of(recipe: Recipe) -> Reading:
    """List the images that a recipe names.

    Raises:
        DataError: its root is no data set, see `read_records`.
    """
    data = recipe.data
    return read_records(
        data.root,
        layout=data.layout,
        manifest=data.manifest,
        group_by=data.group_by,
        allow_leak=data.allow_leak,
    )


def with_native_size(recipe: Recipe) -> Recipe:
    """Replace the side of a square by height and width, where images keep their own proportions; both are sides
    that the encoder takes.

    Raises:
        DataError: images that are not there, or that differ in their proportions.
    """
    data = recipe.data
    if data.resize != "native" or not isinstance(data.image_size, int):
        return recipe
    size = native_size(records_of(recipe).records, data.image_size, step_of(recipe.encoder.name, STEP))
    return recipe.model_copy(update={"data": data.model_copy(update={"image_size": size})})


def _resolve(recipe: Recipe) -> Recipe:
    """Replace every `auto` that depends on this machine by what it stands for here."""
    weights = resolve_source(recipe.encoder.name, recipe.encoder.weights)
    precision = resolve_precision(recipe.runtime.device, recipe.runtime.precision)
    return recipe.model_copy(
        update={
            "encoder": recipe.encoder.model_copy(update={"weights": weights}),
            "runtime": recipe.runtime.model_copy(update={"precision": precision}),
        }
    )
