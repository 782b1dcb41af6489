"""Format one image's prediction as a row, in CSV or JSON lines."""

import csv
import io
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from anomaly_ft.errors import DataError
from anomaly_ft.model.maps import Map

Format = Literal["csv", "jsonl"]
LONGEST_ROW = 2**20  # bytes


@dataclass(frozen=True)
class Prediction:
    """One image: scores by name, higher = more anomalous, and the map `(rows, columns)` of the score that
    decides, if maps were asked for; or the reason why they are None."""

    path: str
    scores: dict[str, float | None]
    score: float | None = None
    anomalous: bool | None = None
    map: Map | None = None
    error: str = ""

    def row(self, map_name: str = "") -> dict[str, str | float | None]:
        """Give the columns that are written; None where there is nothing to say."""
        decision = None if self.anomalous is None else "anomalous" if self.anomalous else "normal"
        by_name = {f"{name}_score": score for name, score in self.scores.items()}
        return {
            "path": readable(self.path),
            "score": self.score,
            "decision": decision,
            **by_name,
            "map": readable(map_name) or None,
            "error": self.error or None,
        }


def readable(path: str) -> str:
    """Spell a path so that any file can hold it: bytes that are not UTF-8 as `\\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def columns(scores: Iterable[str]) -> tuple[str, ...]:
    """Name the columns that are written of a detector with these scores."""
    return ("path", "score", "decision", *(f"{name}_score" for name in scores), "map", "error")


def render(row: dict[str, str | float | None], form: Format) -> str:
    """Format one complete line, its end included; floats as short as they can be without loss."""
    if form == "jsonl":
        return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
    buffer = io.StringIO()
    values = ["" if value is None else value for value in row.values()]
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()


def header(form: Format, names: Iterable[str]) -> str:
    """Format what stands before the first row, given the names of the columns."""
    return ",".join(names) + "\n" if form == "csv" else ""


def cut_to_rows(path: Path) -> None:
    """Take away what follows the last end of a line."""
    with suppress(OSError), path.open("r+b") as file:
        start = max(0, path.stat().st_size - LONGEST_ROW)
        file.seek(start)
        file.truncate(start + file.read().rfind(b"\n") + 1)


@dataclass
class Tally:
    """How many images were seen, called anomalous, and could not be read or scored."""

    images: int = 0
    anomalous: int = 0
    errors: int = 0
    notices: tuple[str, ...] = ()  # on the images as a whole

    def __str__(self) -> str:
        text = f"{self.images} images, {self.anomalous} anomalous"
        return text + (f", {self.errors} could not be read or scored" if self.errors else "")

    def count(self, *, anomalous: bool, error: bool) -> None:
        """Count an image."""
        self.images += 1
        self.anomalous += anomalous
        self.errors += error

    def refuse_if_nothing_was_scored(self) -> None:
        """Raise a DataError when not a single image got a decision."""
        if self.errors == self.images:
            raise DataError(f"none of {self.images} images could be read and scored")
