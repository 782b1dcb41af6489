"""The run folder: written aside, renamed when complete, never half there.

What is written is flushed to the disk before it takes its name, so that no power cut leaves a name without its
content.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from anomaly_ft.errors import RunError
from anomaly_ft.system.files import _flush

UPDATED = re.compile(r"-update-\d+$")  # how the names of runs end that `update` made of another


def start_folder(output: Path, name: str) -> Path:
    """Make an empty folder `.NAME-001.partial` in `output`, with the first number not taken yet.

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
    """Give the name that a folder will have when it is complete."""
    return partial.name.removeprefix(".").removesuffix(".partial")


def finish_folder(partial: Path) -> Path:
    """Give a complete folder its name; until then nobody takes it for a finished run. Its checkpoint goes."""
    for path in sorted(partial.rglob("*"), reverse=True):
        _flush(path)
    _flush(partial)
    finished = partial.rename(partial.with_name(finished_name(partial)))
    _flush(partial.parent)
    shutil.rmtree(finished / "checkpoint", ignore_errors=True)  # not before: until here it was needed
    return finished


@contextmanager
def writing_to(folder: Path, then: str = "go on with the same command and --resume") -> Iterator[None]:
    """Raise a RunError for an OSError inside the block: a full or failing disk is the user's to mend; `then` is
    what to do after that."""
    try:
        yield
    except OSError as cause:
        raise RunError(
            f"{folder}: cannot be written ({cause}); what is there is kept. Make room, then {then}"
        ) from cause


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Lock the folder inside the block; the lock ends with the process, however it ends.

    Raises:
        RunError: somebody does, or the folder cannot be written to.
    """
    busy = "another run is being written there; wait for its end, or give this one another --output"
    with _held(output / ".lock", f"--output {output}", busy):
        yield


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Lock a finished run, and all that `update` made of it, inside the block against others that change them
    or make another; the lock lies beside the run.

    Raises:
        RunError: somebody does, or the folder it lies in cannot be written to.
    """
    place = folder.resolve()
    place = place.with_name(UPDATED.sub("", place.name))
    busy = "another command is changing this run or updating it; wait for its end"
    with _held(place.with_name(f".{place.name}.lock"), str(folder), busy):
        yield


@contextmanager
def _held(path: Path, what: str, busy: str) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, blocking=False)
        lock.acquire()
    except Timeout:
        raise RunError(f"{what}: {busy}") from None
    except OSError as cause:
        raise RunError(f"{what}: cannot be written to ({cause})") from cause
    try:
        yield
    finally:
        lock.release()
