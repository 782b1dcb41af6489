"""The run folder: written aside, renamed when complete, never half there."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomaly_ft.errors import RunError


def start_folder(output: Path, name: str) -> Path:
    """A new empty folder `.NAME-001.partial` in `output`, with the first number not taken yet.

    Raises:
        RunError: `output` cannot be written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        taken = [re.fullmatch(rf"\.?{re.escape(name)}-(\d+)(\.partial)?", p.name) for p in output.iterdir()]
        number = 1 + max((int(match[1]) for match in taken if match), default=0)
        while True:
            folder = output / f".{name}-{number:03d}.partial"
            try:
                folder.mkdir()
            except FileExistsError:  # another run was quicker
                number += 1
            else:
                return folder
    except OSError as cause:
        raise RunError(f"--output {output}: cannot be written to ({cause})") from cause


def finished_name(partial: Path) -> str:
    """What a folder will be called when it is complete."""
    return partial.name.removeprefix(".").removesuffix(".partial")


def finish_folder(partial: Path) -> Path:
    """Give a complete folder its name; until then nobody takes it for a finished run."""
    return partial.rename(partial.with_name(finished_name(partial)))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON; a number that is not finite is an error, not a file that others cannot read."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
