"""A finished run folder, ready to score images: detector, threshold, and how it computes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.pixels import RESIZES
from anomaly_ft.errors import RunError
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.gaussian.detector import Detector, ScoreName
from anomaly_ft.model.storage import read_description
from anomaly_ft.model.threshold import WorkingPoint


@dataclass(frozen=True)
class LoadedRun:
    """A detector that has a working point, how it computes, and how files become what it takes."""

    folder: Path
    detector: Detector
    point: WorkingPoint
    compute: Compute
    decoder: Decoder

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def score(self) -> ScoreName:
        """The score that decides."""
        return self.detector.settings.score


def load_run(
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    channels_last: bool = True,
    preprocessing: Mapping[str, Any] | None = None,
) -> LoadedRun:
    """Load a run folder; see `make_compute` for the rest.

    `preprocessing`, `resize` and `range` of the recipe, is for the very first runs, whose description does not
    have them.

    Raises:
        RunError: a folder that is not a finished run, or whose description lacks threshold or preprocessing.
    """
    if not folder.is_dir():
        raise RunError(f"no run folder at {folder}; expected what anomaly-ft train leaves, with detector.json")
    detector = Detector.load(folder)
    if detector.point is None:
        raise RunError(f"{folder}: detector.json has no threshold")
    compute = make_compute(
        device=device, precision=precision, batch_size=batch_size, channels_last=channels_last
    )
    compute.prepare(detector.encoder)
    detector.to(compute.fabric.device)
    return LoadedRun(folder, detector, detector.point, compute, _decoder(folder, detector, preprocessing))


def _decoder(folder: Path, detector: Detector, otherwise: Mapping[str, Any] | None) -> Decoder:
    try:
        how = read_description(folder).get("preprocessing", otherwise)
        if how is None:
            raise ValueError("it is of the first runs, whose images were read as their recipe.yaml says")
        resize, limits = how["resize"], how["range"]
        if resize not in RESIZES:
            raise ValueError(f"resize is {resize!r}, expected one of {', '.join(RESIZES)}")
        value_range = None if limits is None else (float(limits[0]), float(limits[1]))
    except (KeyError, TypeError, ValueError, IndexError) as cause:
        raise RunError(f"{folder}: detector.json has no usable preprocessing ({cause})") from cause
    return Decoder(detector.encoder.image_size, resize, value_range)
