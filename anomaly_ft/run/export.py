"""Export a finished run: written in a format others load, compared with the detector, or deleted."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.pixels import Pixels
from anomaly_ft.deploy.card import Card, write_readme
from anomaly_ft.deploy.formats import GIVES_LEVELS, WRITERS, refuse_if_missing
from anomaly_ft.deploy.parity import Parity, compare, in_batches
from anomaly_ft.errors import DataError, ParityError, RunError
from anomaly_ft.evaluation.metric_names import on_test
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.open import open_exact, open_run, open_summary
from anomaly_ft.run.predict import expand
from anomaly_ft.system.files import write_json, write_text

SHOWN = ("image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_aupro")  # metrics on the card


@dataclass(frozen=True)
class Comparison:
    """What an export is compared with its detector on, and how far they may differ.

    Attributes:
        images: as `predict` takes them; none: the run's own test images.
        count: so many of them, spread evenly; 0: all.
        tolerance: relative difference that is allowed.
    """

    images: Sequence[str] = ()
    count: int = 64
    tolerance: float = 1e-3


def export(
    folder: Path,
    form: str,
    output: Path,
    terminal: Terminal,
    *,
    raw: bool = False,
    comparison: Comparison,
) -> Parity:
    """Write an export of a run folder to `output`, and leave it there only if it agrees with the detector.

    Args:
        folder: what `train` left.
        form: one of `WRITERS`.
        output: a folder that does not exist or is empty.
        terminal: for progress.
        raw: graphs take uint8 (n, h, w, 3) and normalise inside.
        comparison: with the detector.

    Raises:
        RunError: a folder that is not a finished run, an output that is not empty, a library that is missing.
        DataError: no image to compare on.
        ParityError: the export does not agree; nothing is left of it.
    """
    refuse_if_missing(form)
    output = output.resolve()
    if not output.name or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise RunError(f"--output {output}: exists already; name a new folder")
    recipe, predicting = open_run(folder)
    run = open_exact(folder)
    if form in GIVES_LEVELS and not any(True for _ in run.detector.encoder.parameters()):
        raise RunError(
            f"--format {form}: {folder} has no encoder, it works on pixels; use onnx, pt2 or openvino"
        )
    named = list(expand(comparison.images)) if comparison.images else _own_images(recipe)
    paths = _spread(named, comparison.count)
    card, partial = _card(folder, recipe, run), _start(output)
    try:
        terminal.say(f"writing {form}")
        computes = WRITERS[form](run, partial, raw)
        parity = compare(
            run,
            computes,
            in_batches(_decoded(run, terminal.track(paths, "comparing", len(paths)))),
            gives_levels=form in GIVES_LEVELS,
            tolerance=comparison.tolerance,
            predicting=predicting,
        )
        _refuse_unless_passed(form, parity)
        write_json(partial / "parity.json", {"format": form, "precision": "fp32", **parity.to_json()})
        write_text(partial / "README.md", write_readme(run, form, raw, card, parity))
        for file in partial.iterdir():
            file.chmod(0o644)  # safetensors leaves files that only their owner can read
        partial.rename(output)
    except BaseException as cause:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(cause, OSError):
            raise RunError(f"--output {output}: cannot be written ({cause}); nothing is left of it") from cause
        raise
    return parity


def _refuse_unless_passed(form: str, parity: Parity) -> None:
    if not parity.passed:
        raise ParityError(
            f"--format {form}: the export does not agree with the detector and was deleted: {parity}; "
            f"allowed are {parity.tolerance:g} relative and no decision changed away from the threshold"
        )


def _start(output: Path) -> Path:
    """Make an empty folder beside `output`, in place of what a killed export left there."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    except OSError as cause:
        raise RunError(f"--output {output}: cannot be written to ({cause})") from cause
    return partial


def _own_images(recipe: Recipe) -> list[Path]:
    """List the run's own test images, or where there are none what it was trained on."""
    data = recipe.data
    try:
        records = read_records(
            data.root, layout=data.layout, manifest=data.manifest, group_by=data.group_by, allow_leak=True
        ).records
    except DataError as cause:
        raise DataError(f"{cause}\nan export is compared on real images; name some with --images") from cause
    test = [record.path for record in records if record.split == "test"]
    return test or [record.path for record in records]


def _spread(paths: Sequence[Path], count: int) -> Sequence[Path]:
    """Choose `count` of the paths at even distances, the first and the last among them; 0: all."""
    if not count or count >= len(paths):
        return paths
    if count == 1:
        return paths[:1]
    return [paths[round(i * (len(paths) - 1) / (count - 1))] for i in range(count)]


def _decoded(run: LoadedRun, paths: Iterator[Path]) -> Iterator[Pixels]:
    count = 0
    for path in paths:
        try:
            yield run.decoder(path)
            count += 1
        except Exception:  # decoders raise nearly anything on damaged files
            continue
    if not count:
        raise DataError("not one image to compare the export on could be read; name others with --images")


def _card(folder: Path, recipe: Recipe, run: LoadedRun) -> Card:
    """Collect what the export says about where it comes from."""
    summary = open_summary(folder)
    taught = summary.teacher
    before, after = summary.frozen_test or {}, summary.test or {}
    pairs = [(on_test(name).label, before.get(name), after.get(name)) for name in SHOWN]
    source = recipe.encoder.weights
    known = source in ("hub", "package")  # of a file or of random weights nothing is known
    shown = source if known or source == "random" else Path(source).name
    config: dict[str, Any] = getattr(run.detector.encoder.model, "pretrained_cfg", {})
    return Card(
        name=run.name,
        encoder=recipe.encoder.name,
        data=Path(recipe.data.root).name,
        epoch=summary.best_epoch,
        images=summary.data.normal,
        licence=str(config.get("license") or "") if known else "",
        origin=f"{recipe.encoder.name}, weights: {shown}",
        teacher=f"{taught.name}, weights with sha256 {taught.sha256}" if taught and summary.best_epoch else "",
        rows=[(label, old, new) for label, old, new in pairs if old is not None and new is not None],
    )
