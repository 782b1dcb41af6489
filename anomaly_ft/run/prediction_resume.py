"""Go on with predictions that were stopped: rows that are complete stay, and their images are not scored again.

`predict.json` beside the rows says which detector made them and what else was asked for, so that rows of two
detectors never stand in one file.
"""

import csv
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, TextIO

from anomaly_ft.data.duplicates import digest
from anomaly_ft.errors import RunError
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.run.prediction_rows import Format, Tally, columns, cut_to_rows, header, readable, render
from anomaly_ft.run.region_rows import COLUMNS
from anomaly_ft.system.files import write_json, write_text

NAME = "predict.json"
AFRESH = "give another --output, or leave out --resume to begin afresh"
Asked = Mapping[str, Any]  # what else decides what is written, as JSON holds it


def remember(run: LoadedRun, folder: Path, asked: Asked) -> None:
    """Write into a folder which detector its rows are of.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    write_json(folder / NAME, _about(run, asked))


def go_on(
    run: LoadedRun, folder: Path, form: Format, paths: Iterable[Path], asked: Asked
) -> tuple[Tally, Iterator[Path]]:
    """Count the rows that a folder has, and give the paths that have none yet; a row, and regions, that were
    not written to their end are taken away.

    Args:
        run: the detector.
        folder: of the rows.
        form: of the rows.
        paths: all of them, in the order of the rows.
        asked: what was asked for then has to be the same.

    Raises:
        RunError: rows of another detector or of other images, or damaged ones.
    """
    rows, remaining = folder / f"predictions.{form}", iter(paths)
    tally, done = Tally(), set[str]()
    if not rows.is_file():
        return tally, remaining
    _refuse_others(folder, _about(run, asked))
    cut_to_rows(rows)
    with rows.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(_rows(file, form, rows, columns(run.detector.score_names)), 1):
            path = next(remaining, None)
            if path is None or readable(str(path)) != row["path"]:
                here = "there is no such image any more" if path is None else f"now comes {path}"
                raise RunError(f"--resume: row {number} of {rows} is of {row['path']:.200}, {here}; {AFRESH}")
            done.add(row["path"])
            tally.count(anomalous=row["decision"] == "anomalous", error=bool(row["error"]))
    _cut_regions(folder / f"regions.{form}", form, done)
    return tally, remaining


def _about(run: LoadedRun, asked: Asked) -> dict[str, Any]:
    """Tell a detector, and what is asked of it, from any other."""
    files = {name: digest(run.folder / name) for name in ("detector.json", "detector.safetensors")}
    tile = list(run.tile) if run.tile else None
    return {"run": run.name, "threshold": run.point.threshold, "tile": tile, **asked, "files": files}


def _refuse_others(folder: Path, about: Mapping[str, Any]) -> None:
    try:
        before = json.loads((folder / NAME).read_text(encoding="utf-8"))
        changed = [name for name in about if about[name] != before[name] and name != "run"]
    except (OSError, ValueError, TypeError, KeyError) as cause:
        raise RunError(
            f"--resume: {folder / NAME} does not say what its rows are of ({cause}); {AFRESH}"
        ) from None
    if changed:
        what = {"files": "detector"}
        raise RunError(
            f"--resume: {folder} was begun by {before['run']!s:.100} with another "
            f"{', '.join(what.get(name, name) for name in changed)}; {AFRESH}"
        )


def _rows(file: TextIO, form: Format, path: Path, names: tuple[str, ...]) -> Iterator[Mapping[str, Any]]:
    """Read rows one by one."""
    number = 0
    try:
        reader = csv.DictReader(file, strict=True)
        if form == "csv" and tuple(reader.fieldnames or names) != names:
            raise ValueError(f"its columns are {', '.join(reader.fieldnames or ())}")
        for each in reader if form == "csv" else file:
            number += 1
            row = each if isinstance(each, dict) else json.loads(each)
            if form == "csv" and None in row.values():
                raise ValueError("too few columns")
            yield {name: row[name] for name in names}
    except (ValueError, KeyError, TypeError, csv.Error) as cause:
        raise RunError(f"--resume: {path} is damaged at row {number} ({cause}); {AFRESH}") from cause


def _cut_regions(path: Path, form: Format, done: Container[str]) -> None:
    """Take away the regions of images that have no row: they are written before it."""
    if not path.is_file():
        return
    cut_to_rows(path)
    with path.open(encoding="utf-8", newline="") as file:
        kept = list(takewhile(lambda region: region["path"] in done, _rows(file, form, path, COLUMNS)))
    write_text(path, header(form, COLUMNS) + "".join(render(dict(region), form) for region in kept))
