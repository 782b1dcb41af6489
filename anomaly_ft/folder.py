"""The run folder: written aside, renamed when complete, never half there.

What is written is flushed to the disk before it takes its name, so that no power cut leaves a name without its
content.
"""

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
    for path in sorted(partial.rglob("*"), reverse=True):
        _flush(path)
    _flush(partial)
    finished = partial.rename(partial.with_name(finished_name(partial)))
    _flush(partial.parent)
    return finished


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Indented JSON; a number that is not finite is an error, not a file that others cannot read."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """The file as it was, or all of the new content, whenever the machine stops."""
    aside = path.with_name(f".{path.name}.new")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _flush(path.parent)


def _flush(path: Path) -> None:
    """Let the disk have a file, or the names in a folder."""
    if os.name == "nt" and path.is_dir():  # Windows does so by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
