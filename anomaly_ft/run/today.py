"""Is today like training? What a run knows of its images' looks, and what is said of images that go by."""

from pathlib import Path
from threading import Lock

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.appearance_shift import (
    Difference,
    KnownAppearance,
    Seen,
    compare,
    look_at,
    look_at_all,
    say,
)
from anomaly_ft.model.storage import read_description


def read_appearance(folder: Path) -> KnownAppearance | None:
    """Read how the images look that the detector of a run folder knows; None where an older version left it.

    Raises:
        RunError: a description that is damaged.
    """
    stored = read_description(folder).get("appearance")
    if stored is None:
        return None
    try:
        return KnownAppearance.restored(stored)
    except (ValueError, TypeError, KeyError) as cause:
        raise RunError(f"{folder}: detector.json has no usable appearance ({cause})") from cause


class ImageWatch:
    """Looks at images as they go by, from any thread, and says in the end whether they are like those that a
    run knows."""

    def __init__(self, folder: Path) -> None:
        self._known = read_appearance(folder)
        self.seen, self._lock = Seen(), Lock()

    def look(self, image: Pixels) -> None:
        """Measure an image `(h, w, 3)` that was decoded as the run decodes."""
        if self._known is None:
            return
        measured = look_at(image)
        with self._lock:
            self.seen.add(measured)

    def look_at_all(self, pixels: Pixels) -> None:
        """Measure images `(n, h, w, 3)`, a few fetched at a time."""
        if self._known is not None:
            self.seen.add(look_at_all(pixels))

    @property
    def difference(self) -> Difference | None:
        """How far the images lie beside what is known; None where nothing is known or nothing was seen."""
        return compare(self._known, self.seen) if self._known and self.seen.count else None

    def says(self, what: str = "images") -> list[str]:
        """What a person must know: a difference, or that none could be seen."""
        if self._known is None:
            return [NOT_KNOWN]
        found = self.difference
        said = say(found, what) if found else ""
        return [said] if said else []


NOT_KNOWN = (
    "this run keeps no record of how its images look (an older version made it), so nothing is said of whether "
    "these images are like them; train again for that"
)
