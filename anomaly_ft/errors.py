"""Errors and their wording: what, where, got, expected, what to do.

Everything a user can cause derives from `AnomalyFtError`; the command line prints its text
without a traceback and exits with 2. Anything else is a bug and exits with 1.
"""

import difflib
import re
from collections.abc import Container, Iterable, Sequence


class AnomalyFtError(Exception):
    """Base of all errors that a user can cause and mend."""


class RecipeError(AnomalyFtError):
    """A recipe with one or more mistakes, all reported at once."""

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        super().__init__(source, mistakes)
        self.source = source
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        count = len(self.mistakes)
        head = f"{self.source}: {count} mistake{'s' if count != 1 else ''}"
        return "\n  ".join([head, *self.mistakes])


class DataError(AnomalyFtError):
    """Images that are missing, unreadable or too few."""


class EncoderError(AnomalyFtError):
    """An encoder, a level, a block or a weights source that does not exist or does not fit."""


class DeviceError(AnomalyFtError):
    """A device that is asked for and not there."""


class GaussianError(AnomalyFtError):
    """Features to which no Gaussian can be fitted."""


class DivergedError(AnomalyFtError):
    """A number that has to be finite is not."""


class RunError(AnomalyFtError):
    """A run folder or an output folder that cannot be used."""


class ParityError(AnomalyFtError):
    """An export whose outputs differ from the detector's."""


class OfflineError(AnomalyFtError):
    """A use of the network that `--offline` forbids."""


def did_you_mean(word: str, known: Iterable[str], common: Container[str] = ()) -> str:
    """Suggest `" (did you mean 'name'?)"` when a known word has all of its parts, a common one first, or is
    close, else nothing.

    >>> did_you_mean("nmae", ["name", "weights"])
    " (did you mean 'name'?)"
    >>> did_you_mean("dinov2_small", ["mvitv2_small", "vit_small_patch14_dinov2"])
    " (did you mean 'vit_small_patch14_dinov2'?)"
    """
    names, parts = list(known), _parts(word)
    whole = [name for name in names if parts and parts <= _parts(name)]
    best = min(whole, key=lambda name: (name not in common, len(name)), default="")
    close = [best] if best else difflib.get_close_matches(word, names, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _parts(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
