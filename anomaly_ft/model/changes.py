"""Changes of a finished run's working point: what it is now, since when and why, in one file of the run folder.

`thresholds.json` is written whole or not at all, and its last entry is in force, so that the change and its
record cannot disagree. The files of the detector stay as they were trained.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anomaly_ft import __version__
from anomaly_ft.errors import RunError
from anomaly_ft.model.threshold import WorkingPoint
from anomaly_ft.system.files import write_json

NAME = "thresholds.json"


@dataclass(frozen=True)
class Change:
    """A change of the working point.

    Attributes:
        when: in UTC, ISO 8601.
        how: what the new one was set on.
        why: as the person said who changed it.
        before: the threshold until then.
        point: the working point from then on.
        map_limit: the limit of the map from then on; None: it stayed.
    """

    when: str
    how: str
    why: str
    before: float
    point: WorkingPoint
    map_limit: float | None = None


def read_changes(folder: Path) -> list[Change]:
    """Read the changes of a run's working point, the one in force last; none where it is as it was trained.

    Raises:
        RunError: a file that is damaged.
    """
    path = folder / NAME
    if not path.exists():
        return []
    try:
        return [_change(entry) for entry in json.loads(path.read_text(encoding="utf-8"))["changes"]]
    except Exception as cause:  # it may hold anything
        reason = f"{type(cause).__name__}: {cause}"
        raise RunError(
            f"{folder}: {NAME} is damaged ({reason:.200}); bring it back, or remove it to return to the "
            "threshold of training"
        ) from cause


def append_change(folder: Path, change: Change) -> None:
    """Put a change in force.

    Raises:
        RunError: a file that is damaged.
        OSError: the folder cannot be written to, or the disk is full; the file is as it was.
    """
    entries = [asdict(each) for each in (*read_changes(folder), change)]
    write_json(folder / NAME, {"anomaly_ft": __version__, "changes": entries})


def _change(entry: Mapping[str, Any]) -> Change:
    point = WorkingPoint(**entry["point"])
    numbers = [*vars(point).values(), entry["before"], entry["map_limit"]]
    if not all(isinstance(value, int | float) for value in numbers if value is not None):
        raise ValueError("a working point is numbers")
    return Change(**{**entry, "point": point})
