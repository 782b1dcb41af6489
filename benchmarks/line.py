"""What do new images and a new threshold do to a finished detector?

    python benchmarks/line.py --output results

For each set and seed the frozen encoder's detector is fitted to half of the good training images. The other
half are images of later, taken once as they are and once in other light (1.3 times as bright). Measured are

* thresholds: what each rule rejects of the good test images and finds of the defective ones; the rule from
  defects is set on every other defective test image and measured on the others;
* updates: with the later images at once, in two parts, and in other light: seconds, size of the sums, how far
  scores of one and of two updates differ, and what is rejected of good test images as they are and in other
  light;
* distances by which images in other light, and good training images of the next set, look like another part.

No limit is chosen here. Sets and where they lie: see `sets.py`. Writes `thresholds.csv`, `updates.csv` and
`distances.csv`, prints the tables.
"""

import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sets import grid, grid_options

from anomaly_ft.data.dataset import read_records
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError
from anomaly_ft.metrics import image_auroc
from anomaly_ft.model.inference import score_images
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run import threshold
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.open import open_run
from anomaly_ft.run.own_images import own_records, read_all
from anomaly_ft.run.setup import prepare
from anomaly_ft.run.train import train
from anomaly_ft.run.update import FARTHEST, Wanted, update

BRIGHTER = 1.3
RATE = 0.05
Row = dict[str, object]


@dataclass(frozen=True)
class Line:
    """A run fitted to half of the good images of a set, and folders with the other half."""

    run: Path
    later: Path
    brighter: Path
    parts: tuple[Path, Path]  # of the later ones


def start(recipe: Recipe, folder: Path, terminal: Terminal) -> Line:
    """Fit to every other good training image, and lay the others aside."""
    records = read_records(recipe.data.root).records
    good = [record for record in records if record.split == "train"]
    used = [*good[::2], *(record for record in records if record.split == "test")]
    rows = [(r.name, int(r.anomalous), r.split, r.mask_name, r.kind) for r in used]
    columns = ["image_path", "label_index", "split", "mask_path", "kind"]
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_csv(folder / "half.csv", index=False)
    halves = [folder / "later" / str(i) for i in range(2)]
    brighter = folder / "brighter"
    for place in (*halves, brighter):
        place.mkdir(parents=True)
    for i, record in enumerate(good[1::2]):
        shutil.copyfile(record.path, halves[i % 2] / f"{i:04d}{record.path.suffix}")
        with Image.open(record.path) as image:
            Image.fromarray(brightened(np.asarray(image.convert("RGB")))).save(brighter / f"{i:04d}.png")
    changed = {
        "data": recipe.data.model_copy(update={"manifest": str(folder / "half.csv"), "layout": "auto"}),
        "schedule": recipe.schedule.model_copy(update={"max_epochs": 0}),
        "tracking": recipe.tracking.model_copy(update={"mlflow": False}),
    }
    run = train(prepare(recipe.model_copy(update=changed), terminal), folder / "runs").folder
    return Line(run, folder / "later", brighter, (halves[0], halves[1]))


def brightened(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Multiply grey values, cut off at white."""
    return np.clip(pixels.astype(np.float32) * BRIGHTER, 0, 255).round().astype(np.uint8)


@dataclass(frozen=True)
class Scores:
    """Scores of test images: good and defective ones, and good ones in other light."""

    good: NDArray[np.float64]
    defective: NDArray[np.float64]
    brighter: NDArray[np.float64]
    threshold: float

    def row(self) -> Row:
        """Give shares above the threshold, and the AUROC."""
        anomalous = np.r_[np.zeros(len(self.good)), np.ones(len(self.defective))] > 0
        return {
            "threshold": self.threshold,
            "good rejected": float((self.good > self.threshold).mean()),
            "of": len(self.good),
            "found": float((self.defective > self.threshold).mean()),
            "brighter rejected": float((self.brighter > self.threshold).mean()),
            "AUROC": image_auroc(anomalous, np.r_[self.good, self.defective]),
        }


def test_scores(folder: Path, terminal: Terminal) -> Scores:
    """Score the test images of a run."""
    recipe, run = open_run(folder)
    images = read_all(own_records(folder, recipe)["test"], recipe, run.decoder, terminal)
    anomalous = np.array([record.anomalous for record in images.records])
    good = np.asarray(images.pixels[np.flatnonzero(~anomalous)])
    scores = [
        score_images(run.detector, pixels, run.compute)[run.score]
        for pixels in (good, np.asarray(images.pixels[np.flatnonzero(anomalous)]), brightened(good))
    ]
    return Scores(scores[0], scores[1], scores[2], run.point.threshold)


def thresholds_of(line: Line, terminal: Terminal) -> list[Row]:
    """Set the threshold by each rule, and see what it does to test images."""
    recipe, _ = open_run(line.run)
    defective = [record for record in own_records(line.run, recipe)["test"] if record.anomalous]
    folder = line.run.parent.parent / "defects"
    lay_out(defective[::2], folder)
    rows, scores = [], test_scores(line.run, terminal)
    for name, wanted in {
        f"average, {RATE:.0%}": threshold.Wanted(rate=RATE, guarantee="average"),
        f"confidence, {RATE:.0%}": threshold.Wanted(rate=RATE, guarantee="confidence"),
        "half of the defects, none missed": threshold.Wanted(defects=str(folder)),
    }.items():
        point = threshold.change_threshold(line.run, wanted, "benchmark", terminal).point
        seen = replace(scores, threshold=point.threshold)
        others = seen.defective[1::2]
        bound = point.found_share if point.found_share is not None else float("nan")
        rows.append(
            {
                "rule": name,
                "images": point.images or len(defective[::2]),
                "guaranteed": point.guaranteed_fpr,
                "missing": point.missing,
                **{key: seen.row()[key] for key in ("good rejected", "of", "found")},
                "others found": float((others > point.threshold).mean()),
                "at least": bound,
            }
        )
    (line.run / "thresholds.json").unlink()
    return rows


def lay_out(records: Sequence[Record], folder: Path) -> None:
    """Copy images into one folder."""
    folder.mkdir(parents=True)
    for i, record in enumerate(records):
        shutil.copyfile(record.path, folder / f"{i:04d}{record.path.suffix}")


def updates_of(line: Line, terminal: Terminal) -> list[Row]:
    """Update with the later images, and see what it does to test images."""
    before = test_scores(line.run, terminal)
    rows: list[Row] = [{"update": "none", **before.row()}]

    def add(name: str, run: Path, folder: Path) -> tuple[Path, Scores]:
        started = time.perf_counter()
        made = update(run, Wanted(str(folder), force=True), terminal)
        seconds = time.perf_counter() - started
        scores, what = test_scores(made.folder, terminal), made.summary.update
        size = (made.folder / "sums.safetensors").stat().st_size / 2**20
        added = sum(what.added.values()) if what else 0
        rows.append({"update": name, "added": added, **scores.row(), "seconds": seconds, "MiB of sums": size})
        return made.folder, scores

    _, once = add("all at once", line.run, line.later)
    first, _ = add("first part", line.run, line.parts[0])
    _, twice = add("then the other", first, line.parts[1])
    add("in other light", line.run, line.brighter)
    apart = float(np.abs(once.good - twice.good).max() / once.good.std())
    rows[-2]["spreads apart"] = apart
    return rows


def distances_of(line: Line, others: dict[str, Path], terminal: Terminal) -> list[Row]:
    """Measure how far images lie from those of a run, and whether they are refused."""
    rows: list[Row] = []
    for name, folder in {"in other light": line.brighter, **others}.items():
        try:
            made = update(line.run, Wanted(str(folder)), terminal).summary.update
            distance = made.distance if made else 0.0
        except DataError as refusal:
            found = re.search(r"lies (\S+) standard deviations", str(refusal))
            distance = float(found[1]) if found else float("nan")
        rows.append({"images": name, "distance": distance, "refused": distance > FARTHEST})
    return rows


@click.command()
@grid_options(sets="kolektor,bottle", seeds=1)
def main(output: Path, data: str, sets: str, seeds: int, settings: tuple[str, ...]) -> None:
    """Change thresholds and add images, set by set."""
    output.mkdir(parents=True, exist_ok=True)
    terminal = Terminal()
    tables: dict[str, list[Row]] = {"thresholds": [], "updates": [], "distances": []}
    with tempfile.TemporaryDirectory(prefix="anomaly_ft") as scratch:
        lines = {}
        for name, seed, recipe in grid(sets, seeds, settings, data=data, say=terminal.say):
            lines[name, seed] = start(recipe, Path(scratch) / f"{name}-{seed}", terminal)
        for (name, seed), line in lines.items():
            others = {f"good {n}": lines[n, s].later for n, s in lines if n != name and s == seed}
            found = {
                "thresholds": thresholds_of(line, terminal),
                "updates": updates_of(line, terminal),
                "distances": distances_of(line, others, terminal),
            }
            for table, rows in found.items():
                tables[table] += [{"set": name, "seed": seed, **row} for row in rows]
                pd.DataFrame(tables[table]).to_csv(output / f"{table}.csv", index=False)
    for rows in tables.values():
        print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format, na_rep="-"))


if __name__ == "__main__":
    main()
