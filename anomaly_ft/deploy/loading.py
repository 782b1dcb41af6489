"""A finished run folder, ready to score images: detector, threshold, and how it computes."""

import json
from dataclasses import dataclass
from pathlib import Path

from anomaly_ft.data.images import Decoder, Resize
from anomaly_ft.errors import RunError
from anomaly_ft.evaluation.working_points import WorkingPoint
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.detector import SCORES, Detector
from anomaly_ft.model.storage import load_detector


@dataclass(frozen=True)
class LoadedRun:
    """A detector, the name of the score that decides, and the working point of that score."""

    folder: Path
    detector: Detector
    compute: Compute
    score: str
    point: WorkingPoint
    decoder: Decoder  # from a file to what the detector takes

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def load_run(
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    channels_last: bool = True,
    resize: Resize = "squash",
    value_range: tuple[float, float] | None = None,
) -> LoadedRun:
    """Load a run folder; see `make_compute` and `Decoder` for the rest.

    Raises:
        RunError: a folder that is not a finished run, or whose description lacks a score or threshold.
    """
    if not folder.is_dir():
        raise RunError(f"no run folder at {folder}; expected what anomaly-ft train leaves, with detector.json")
    detector = load_detector(folder)
    described = json.loads((folder / "detector.json").read_text(encoding="utf-8"))
    try:
        score, point = described["score"], WorkingPoint(**described["threshold"])
    except (KeyError, TypeError) as cause:
        raise RunError(f"{folder}: detector.json has no usable score and threshold ({cause})") from cause
    if score not in SCORES:
        raise RunError(f"{folder}: detector.json decides by {score!r}, expected one of {', '.join(SCORES)}")
    compute = make_compute(
        device=device, precision=precision, batch_size=batch_size, channels_last=channels_last
    )
    compute.prepare(detector.encoder)
    decoder = Decoder(detector.encoder.image_size, resize, value_range)
    return LoadedRun(folder, detector.to(compute.fabric.device), compute, score, point, decoder)
