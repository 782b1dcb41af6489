"""Open several finished runs to score the same images: one after another, what they share loaded once."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from anomaly_ft.errors import RunError
from anomaly_ft.model.loading import LoadedRun
from anomaly_ft.model.run_encoder import SharedEncoder, encoder_key
from anomaly_ft.model.storage import read_description
from anomaly_ft.run.open import open_run, refuse_unfinished


def open_each(folders: Sequence[Path]) -> Iterator[LoadedRun]:
    """Open runs one after another, those that can share an encoder together, which is loaded once for them: the
    same files, or adapters on one backbone. Each run is to be used before the next one is asked for, which may
    be given its encoder.

    Raises:
        RunError: a folder that is not a finished run, or two of one name, before any is opened; a damaged
            detector, when it is opened.
        EncoderError: an encoder or a backbone that is missing or is not the one described.
    """
    for folder in folders:
        refuse_unfinished(folder)
    refuse_one_name(folders)
    if len(folders) == 1:
        return _opened(folders)
    keys = [encoder_key(folder, read_description(folder)) for folder in folders]
    order = sorted(range(len(folders)), key=lambda i: keys.index(keys[i]))
    return _opened([folders[i] for i in order])


def refuse_one_name(folders: Sequence[Path]) -> None:
    """Raise a RunError where two runs have folders of one name, which is what predictions go by."""
    known: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in known:
            raise RunError(
                f"--also: {known[name]} and {folder} are both named {name}, and so would be the folders of "
                "their predictions; give one of them another name, or leave it out"
            )
        known[name] = folder


def _opened(folders: Sequence[Path]) -> Iterator[LoadedRun]:
    shared = SharedEncoder() if len(folders) > 1 else None
    for folder in folders:
        yield open_run(folder, shared)[1]
