"""A finished run folder, ready to score images: detector, threshold, and how it computes."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.data.images import Decoder
from anomaly_ft.data.pixels import RESIZES
from anomaly_ft.errors import RunError
from anomaly_ft.model.changes import read_changes
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.filter.restore import restore_filter
from anomaly_ft.model.gaussian.restore import restore_detector
from anomaly_ft.model.interface import Detector
from anomaly_ft.model.run_encoder import SharedEncoder
from anomaly_ft.model.storage import read_description, read_detector
from anomaly_ft.model.threshold import WorkingPoint

Restore = Callable[[Path, Mapping[str, Any], Mapping[str, Tensor], SharedEncoder | None], Detector]
# kinds of detector, by the name that detector.json gives them
KINDS: dict[str, Restore] = {"gaussian": restore_detector, "filter": restore_filter}


@dataclass(frozen=True)
class LoadedRun:
    """A detector that has a working point, how it computes, and how files become what it takes."""

    folder: Path
    detector: Detector
    point: WorkingPoint
    compute: Compute
    decoder: Decoder
    tile: tuple[int, int] | None = None  # height and width in pixels; unset: images are seen whole

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    @property
    def score(self) -> str:
        """The score that decides."""
        return self.detector.decides


def load_run(
    folder: Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 32,
    channels_last: bool = True,
    shared: SharedEncoder | None = None,
) -> LoadedRun:
    """Load a run folder; see `make_compute` for the rest, and `encoder_of` for what is `shared`.

    Raises:
        RunError: a folder that is not a finished run, or whose description lacks threshold or preprocessing.
    """
    if not folder.is_dir():
        raise RunError(f"no run folder at {folder}; expected what anomaly-ft train leaves, with detector.json")
    detector = load_detector(folder, shared)
    if detector.thresholds is None:
        raise RunError(f"{folder}: detector.json has no threshold")
    compute = make_compute(
        device=device, precision=precision, batch_size=batch_size, channels_last=channels_last
    )
    compute.prepare(detector.encoder)
    detector.to(compute.fabric.device)
    return LoadedRun(folder, detector, detector.thresholds.point, compute, _decoder(folder, detector))


def load_detector(folder: Path, shared: SharedEncoder | None = None) -> Detector:
    """Load the detector of a run folder, with the working point that is in force, on the CPU, without the way
    it computes; see `encoder_of` for what is `shared`.

    Raises:
        RunError: files that are missing, damaged, or of a format or kind this version does not know.
        EncoderError: an encoder that is missing or is not the one described.
    """
    description, tensors = read_detector(folder)
    kind = description.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        older = "; it is of a version before the first release: train it again" if kind is None else ""
        expected = f"expected one of {', '.join(KINDS)}"
        raise RunError(f"{folder}: detector.json has kind {kind!r:.40}, {expected}{older}")
    if changes := read_changes(folder):
        last = changes[-1]
        description["threshold"] = asdict(last.point)
        tensors["threshold"] = torch.tensor(last.point.threshold, dtype=torch.float32)
        if last.map_limit is not None:
            tensors["map_limit"] = torch.tensor(last.map_limit, dtype=torch.float32)
    return KINDS[kind](folder, description, tensors, shared)


def _decoder(folder: Path, detector: Detector) -> Decoder:
    try:
        preprocessing = read_description(folder)["preprocessing"]
        resize, limits = preprocessing["resize"], preprocessing["range"]
        if resize not in RESIZES:
            raise ValueError(f"resize is {resize!r}, expected one of {', '.join(RESIZES)}")
        value_range = None if limits is None else (float(limits[0]), float(limits[1]))
    except (KeyError, TypeError, ValueError, IndexError) as cause:
        raise RunError(f"{folder}: detector.json has no usable preprocessing ({cause})") from cause
    return Decoder(detector.encoder.image_size, resize, value_range)
