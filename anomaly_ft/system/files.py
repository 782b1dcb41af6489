"""Write files that are whole or absent: written aside, flushed to the disk, then renamed."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write indented JSON; a number that is not finite is an error, not a file that others cannot read."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append a value as a line of JSON, flushed to the disk."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json_line(value))
        file.flush()
        os.fsync(file.fileno())


def json_line(value: Mapping[str, Any]) -> str:
    """Format a value as a line of JSON; a number that is not finite is an error."""
    return json.dumps(value, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file such that it holds the old content or all of the new, whenever the machine stops.

    Where the disk is full, nothing new is left on it: a half written file would keep the room it took.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make the folder aside, then put it in the place of the one before."""
    aside, before = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for left in (aside, before):
        shutil.rmtree(left, ignore_errors=True)
    write(aside)
    if folder.exists():
        folder.rename(before)
    aside.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def clear_aside(folder: Path) -> None:
    """Remove what a process that was killed had written aside, at any depth.

    A folder that was being replaced and is not there comes back as it was before.
    """
    for before in list(folder.rglob(".*.old")):
        replaced = before.with_name(before.name.removeprefix(".").removesuffix(".old"))
        if not replaced.exists():
            before.rename(replaced)
    for left in [*folder.rglob(".*.new"), *folder.rglob(".*.old")]:
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Let the disk have a file, or the names in a folder."""
    if os.name == "nt" and path.is_dir():  # Windows does so by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
