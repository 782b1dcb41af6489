"""Images beside a finished run: its own, by what they served, and others that somebody brings."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from anomaly_ft.data.cache import load_cached
from anomaly_ft.data.dataset import place
from anomaly_ft.data.duplicates import identical
from anomaly_ft.data.images import Decoder
from anomaly_ft.data.layouts.detect import read_root
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Part, Record
from anomaly_ft.data.splits import group
from anomaly_ft.data.variation import Variation, with_copies
from anomaly_ft.errors import DataError, RunError
from anomaly_ft.recipe.schema import Recipe
from anomaly_ft.run.console import Terminal
from anomaly_ft.run.setup import HELD_OUT_COPIES, data_options, records_of

SHOWN = 5  # images named in one message


def own_records(folder: Path, recipe: Recipe) -> dict[str, list[Record]]:
    """List the images of a run by what they served: `train`, `val`, `calibration`, `test`.

    Raises:
        RunError: its images are gone, or not those it was made from.
    """
    data = recipe.data
    try:
        rows = pd.read_csv(folder / "split.csv", dtype=str, keep_default_na=False)
        parts = dict(zip(rows["image_path"], rows["split"], strict=True))
        reading = records_of(recipe)
    except (DataError, OSError, KeyError, ValueError) as cause:
        raise RunError(
            f"{folder}: the images it was made from cannot be read: {cause}; bring them back"
        ) from cause
    there = {record.name: record for record in reading.records if record.path.is_file()}
    if gone := [name for name in parts if name not in there]:
        raise RunError(
            f"{folder}: {len(gone)} of the images it was made from are gone from {data.root}: {some(gone)}; "
            "bring them back"
        )
    found: dict[str, list[Record]] = {"train": [], "val": [], "calibration": [], "test": []}
    for name, part in parts.items():
        found[part].append(there[name])
    return found


def good_records(root: str, recipe: Recipe) -> list[Record]:
    """List the good images below a folder or in a manifest, in the groups of the recipe.

    Raises:
        DataError: there are none, or nothing says which group they are in though the run goes by groups.
    """
    by = recipe.data.group_by
    listed = read_root(root, group_by=by).records
    records = [replace(r, split="train", part=None) for r in listed if not r.anomalous]
    if not records:
        raise DataError(f"{root}: there are no good images")
    if by and not any(record.group for record in records):
        if not re.compile(by).groups:
            raise DataError(
                f"{root}: the run goes by groups of the manifest's column {by} (data.group_by), and there is "
                "no such column; name a manifest that has it"
            )
        records = group(records, by)
    return records


def refuse_known(root: str, records: Sequence[Record], known: Sequence[Record]) -> None:
    """Raise a DataError that names images which are, byte by byte, images the run already has, or one
    another."""
    new = set(map(id, records))
    groups = [same for same in identical([*records, *known]) if any(id(r) in new for r in same)]
    if groups:
        names = [" = ".join(str(record.path) for record in same) for same in groups]
        raise DataError(
            f"{root}: {len(groups)} images are there twice or are images of the run already: {some(names)}; "
            "take them out"
        )


def read_images(records: Sequence[Record], recipe: Recipe, decoder: Decoder, terminal: Terminal) -> Images:
    """Decode images as a run does; those that cannot be read are set aside.

    Raises:
        DataError: not a single one could be read.
    """
    seen = terminal.track(records, "reading images", len(records))
    kind, disk = place(decoder, len(records), data_options(recipe))
    return load_cached(records, decoder, kind, disk=disk, threads=torch.get_num_threads(), progress=seen)


def read_all(records: Sequence[Record], recipe: Recipe, decoder: Decoder, terminal: Terminal) -> Images:
    """Decode images as `read_images` does, all of them.

    Raises:
        DataError: one that cannot be read.
    """
    images = read_images(records, recipe, decoder, terminal)
    if images.skipped:
        lines = [f"{record.path}: {why}" for record, why in images.skipped]
        raise DataError(f"{len(lines)} images cannot be read: {some(lines)}; mend them or take them out")
    return images


def with_own_copies(images: Images, recipe: Recipe, part: Part) -> Images:
    """Put after images the varied copies that the recipe wants of those that serve one purpose."""
    copies = HELD_OUT_COPIES.get(part, recipe.variation.copies)
    return with_copies(images, Variation(recipe.variation.strengths(), recipe.seed), copies)


def some(names: Sequence[str]) -> str:
    """Name the first of many."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
