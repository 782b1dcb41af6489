"""Under which condition each test image was taken: a manifest's column, part of its path, or its folder."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from anomaly_ft.data.layouts.detect import Reading
from anomaly_ft.data.layouts.files import means_defect, means_normal
from anomaly_ft.data.layouts.manifest import NAMES, read_manifest
from anomaly_ft.data.layouts.tables import read_table, short
from anomaly_ft.data.records import Record
from anomaly_ft.errors import DataError, did_you_mean

FOLDER = "folder"
SHOWN = 3


def conditions_of(reading: Reading, tested: Sequence[Record], by: str, manifest: str = "") -> dict[str, str]:
    """Find the condition of each test image, by the image's name.

    Args:
        reading: everything below a root, training images too.
        tested: the test images among them.
        by: a column of the manifest, `folder`, or a regular expression with a (group) on paths.
        manifest: the table that lists the images, where it does not lie below the root or is the root.

    Raises:
        DataError: a column or pattern that is not there, test images without a condition, or a condition that
            has no test images.
    """
    table = _table(reading, manifest)
    columns = list(map(str, read_table(table).columns)) if table else []
    if by in columns and table:
        listed = read_manifest(table, reading.root, group_column=by)
        found = {record.name: record.group for record in listed}
        missing = f"the column {by} is empty for"
    elif by == FOLDER:
        found = {record.name: _folder(record) for record in reading.records}
        missing = "no folder below that of its kind holds"
    else:
        pattern = _pattern(by, columns)
        matches = {record.name: pattern.search(record.name) for record in reading.records}
        found = {name: (match[1] or "") if match else "" for name, match in matches.items()}
        missing = f"{by!r} does not match"
    _refuse_gaps(found, tested, missing)
    names = {record.name for record in tested}
    return {name: condition for name, condition in found.items() if name in names}


def refuse_unread(conditions: dict[str, str], read: Iterable[Record]) -> None:
    """Raise a DataError that names the conditions of which no image could be read."""
    left = set(conditions.values()) - {conditions.get(record.name) for record in read}
    if left:
        raise DataError(f"--by: not one image of {', '.join(sorted(left))} can be read")


def _refuse_gaps(found: dict[str, str], tested: Sequence[Record], missing: str) -> None:
    """Raise a DataError that says all at once: images without a condition, conditions without test images."""
    gaps = [record.name for record in tested if not found.get(record.name)]
    covered = {found.get(record.name) for record in tested}
    empty = sorted({condition for condition in found.values() if condition} - covered)
    said = []
    if gaps:
        some = f"{len(gaps)} of {len(tested)} test images, such as {', '.join(gaps[:SHOWN])}"
        advice = r"a regular expression with a (group) on paths may say it, such as '(cam\d+)'"
        said.append(f"{missing} {some}: each needs a condition; {advice}")
    if empty:
        said.append(
            f"no test images of {', '.join(map(short, empty))}: nobody could say what the detector is worth "
            "there; add some, or list only what is to be measured in a manifest and name it with --data"
        )
    if said:
        raise DataError("--by: " + "\n  ".join(said))


def _pattern(by: str, columns: Sequence[str]) -> re.Pattern[str]:
    """The regular expression; whatever is none was meant as a column.

    Raises:
        DataError: it is none, or has no group.
    """
    known = f" (there are {short(', '.join(columns))})" if columns else ", for no manifest lists these images"
    hint = did_you_mean(by, [*columns, FOLDER])
    neither = (
        f"--by: {by!r} is no column of the manifest{known}{hint}, is not the word {FOLDER}, and is no regular "
        r"expression with a (group), such as '(cam\d+)'"
    )
    try:
        pattern = re.compile(by)
    except re.error as cause:
        raise DataError(f"{neither}: {cause}") from None
    if pattern.groups < 1:
        raise DataError(neither)
    return pattern


def _table(reading: Reading, manifest: str) -> Path | None:
    """The table that lists the images; None where nothing does."""
    if manifest:
        return Path(manifest).expanduser()
    if reading.layout != "manifest":
        return None
    return next((path for name in NAMES if (path := reading.root / name).is_file()), None)


def _folder(record: Record) -> str:
    """The innermost folder of an image below the one that names its kind; empty where there is none.

    >>> names = "test/good/cam1/0.png", "test/good/0.png", "may/0.png"
    >>> [_folder(Record(Path(), name, "test")) for name in names]
    ['cam1', '', 'may']
    """
    inside = record.name.split("/")[:-1]
    of_kind = means_defect if record.anomalous else means_normal
    named = [i for i, part in enumerate(inside) if part == record.kind or of_kind(part)]
    below = inside[named[-1] + 1 :] if named else inside
    return below[-1] if below else ""
