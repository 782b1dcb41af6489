"""Which images updates have added to a run since it was trained, and what each serves."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from anomaly_ft.data.duplicates import digest, identical
from anomaly_ft.data.loaded import Images
from anomaly_ft.data.records import Part, Record
from anomaly_ft.errors import RunError
from anomaly_ft.recipe.schema import Data, Recipe
from anomaly_ft.run.own_images import own_records, some

UPDATES = "updates.csv"
COLUMNS = ["root", "image_path", "split", "group", "digest"]


def part_of(record: Record, data: Data) -> Part:
    """Choose what a new image serves, by its content or its group alone, in the shares of the recipe."""
    group = hashlib.blake2b(record.group.encode(), digest_size=16).hexdigest()
    name = group if record.group else digest(record.path)
    place = int(name, 16) / 16 ** len(name)
    if place < data.val_share:
        return "val"
    return "calibration" if place < data.val_share + data.calibration_share else "train"


def named_by_content(images: Images, added: Sequence[Record]) -> Images:
    """Name those images that were added by their content, which then decides how they vary: the folder they
    lay in does not matter."""
    new = set(added)
    names = (replace(r, name=digest(r.path)) if r in new else r for r in images.records)
    return Images(images.pixels, tuple(names))


def read_updates(folder: Path) -> list[Record]:
    """List the images that updates have added to a run before.

    Raises:
        RunError: they are gone, or not those that were added.
    """
    path = folder / UPDATES
    if not path.exists():
        return []
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        records = [
            Record(Path(root), name, "train", part=part, group=group)
            for root, name, part, group in rows[["root", "image_path", "split", "group"]].itertuples(
                index=False
            )
        ]
        known = dict(zip(records, rows["digest"], strict=True))
    except (OSError, KeyError, ValueError) as cause:
        raise RunError(f"{folder}: {UPDATES} is damaged: {cause}") from cause
    changed = [str(r.path) for r, was in known.items() if not r.path.is_file() or digest(r.path) != was]
    if changed:
        raise RunError(
            f"{folder}: images of earlier updates are gone or changed: {some(changed)}; bring them back"
        )
    return records


def say_if_known(folder: Path, recipe: Recipe, records: Sequence[Record]) -> list[str]:
    """Say which images a run was fitted to or set with already, by content; nothing where its own are not at
    hand."""
    try:
        own, added = own_records(folder, recipe), read_updates(folder)
    except RunError:
        return []
    asked = set(map(id, records))
    groups = identical([*records, *own["train"], *own["val"], *own["calibration"], *added])
    known = [r.name for same in groups if not asked.issuperset(map(id, same)) for r in same if id(r) in asked]
    if not known:
        return []
    return [
        f"{len(known)} of {len(records)} images are images that the run was fitted to or its threshold was set "
        f"with, such as {known[0]}: of these numbers say too much, and rates are too low"
    ]


def write_updates(folder: Path, records: Sequence[Record]) -> None:
    """Write which images updates have added to a run, all of them."""
    rows = [(str(r.root.resolve()), r.name, r.part, r.group, digest(r.path)) for r in records]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(folder / UPDATES, index=False)
