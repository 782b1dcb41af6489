"""Shortcuts planted on purpose: does the audit see them, does an explanation, and what do they do to the AUROC?

    python benchmarks/planted.py --output planted --sets kolektor

Each set is copied as it is and with an artefact: a mark in the corner of every defective test image, a mark in
the corner of a share of the training images, defective test images resized once with another filter. On each
copy stand the verdict of the audit, the image AUROC of the frozen encoder (beside that of the copy as it is:
what is left once the artefact is removed), and where the relevance of defective and of good test images lies.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from PIL import Image
from sets import grid_options, recipe_for, roots_of

from anomaly_ft.cli.options import look_at, quieten_libraries
from anomaly_ft.data.images import read_image
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.records import Record
from anomaly_ft.data.splits import hold_out
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.explain import Effort, explain_run
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import train

MARK = 1 / 16  # of the shorter side
MARKED_SHARE = 0.2
Change = Callable[[Record, np.ndarray, float], np.ndarray]  # record, pixels, a number in [0, 1)


class Planted(NamedTuple):
    """An artefact by name, and what it makes of an image."""

    name: str
    change: Change


def marked(pixels: np.ndarray) -> np.ndarray:
    """A white square on black in the upper left corner, as a sticker or a counter would be."""
    side = max(4, round(MARK * min(pixels.shape[:2])))
    changed = pixels.copy()
    changed[: 2 * side, : 2 * side] = 0
    changed[side // 2 : side // 2 + side, side // 2 : side // 2 + side] = 255
    return changed


def refiltered(pixels: np.ndarray) -> np.ndarray:
    """Down to two thirds and up again without smoothing: another program in between."""
    image = Image.fromarray(pixels)
    small = tuple(max(1, round(side * 2 / 3)) for side in image.size)
    nearest = Image.Resampling.NEAREST
    return np.asarray(image.resize(small, nearest).resize(image.size, nearest))


def _defective(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda record, pixels, number: change(pixels) if record.anomalous else pixels


def _some_training(record: Record, pixels: np.ndarray, number: float) -> np.ndarray:
    return marked(pixels) if record.split == "train" and number < MARKED_SHARE else pixels


ARTEFACTS = (
    Planted("nothing", lambda record, pixels, number: pixels),
    Planted("mark on defective images", _defective(marked)),
    Planted(f"mark on {MARKED_SHARE:.0%} of training", _some_training),
    Planted("other filter on defective images", _defective(refiltered)),
)


def copy_with(root: str, planted: Planted, folder: Path) -> Path:
    """Write the set as MVTec AD lays it out, with the artefact planted, without masks where it has none."""
    rng = np.random.default_rng(0)
    for i, record in enumerate(hold_out(read_root(root).records)):
        pixels = np.asarray(read_image(record.path))
        changed = planted.change(record, pixels, rng.random())
        target = folder / record.split / record.kind / f"{i:05d}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(changed).save(target, compress_level=1)
        if record.mask:
            mask = folder / "ground_truth" / record.kind / f"{i:05d}_mask.png"
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.open(record.mask).convert("L").save(mask)
    return folder


def rows(
    name: str, root: str, output: Path, settings: tuple[str, ...], effort: Effort
) -> Iterator[dict[str, str]]:
    """A row for each artefact."""
    for planted in ARTEFACTS:
        place = output / f"{name}-{planted.name.replace(' ', '-').replace('%', '')}"
        data = place / "data"
        if not data.is_dir():
            copy_with(root, planted, data)
        report = look_at(str(data), "auto", Terminal())
        audit, marks = report.audit, [trouble for trouble in report.troubles if trouble.kind == "mark"]
        recipe = recipe_for(str(data), ["schedule.max_epochs=0", *settings])
        run = train(prepare(recipe, Terminal()), place / "runs")
        _, table, _ = explain_run(run.folder, Terminal(), effort)
        mean = table[0]
        yield {
            "set": name,
            "planted": planted.name,
            "audit": audit.verdict if audit else "-",
            "mark in training": marks[0].says.split(" good")[0] if marks else "none",
            "by": _by(audit.rows[0].words() if audit and audit.rows else "-"),
            "AUROC": f"{(run.summary.test or {}).get('image_auroc') or float('nan'):.4f}",
            "frame defective": f"{mean['frame_defective']:.2f}",
            "frame good": f"{mean['frame_good']:.2f}",
            "inside over area": "-" if mean["inside_over_area"] is None else f"{mean['inside_over_area']:.1f}",
        }


def _by(words: str) -> str:
    return words.replace(" alone", "")


@click.command()
@grid_options(sets="kolektor", seeds=1)
@click.option("--images", default=12, show_default=True, help="Defective images to explain.")
@click.option("--steps", default=16, show_default=True, help="Of integrated gradients.")
def main(
    output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...], images: int, steps: int
) -> None:
    """Print a Markdown table, a row for each set and artefact."""
    del seeds
    quieten_libraries()
    first = True
    for name, root in roots_of(sets, data, lambda text: click.echo(text, err=True)).items():
        for row in rows(name, root, output, settings, Effort(images, steps)):
            if first:
                click.echo("| " + " | ".join(row) + " |\n|" + "---|" * len(row))
            first = False
            click.echo("| " + " | ".join(row.values()) + " |")


if __name__ == "__main__":
    main()
