"""What restoring a detector from disk takes, whatever its kind: its encoder, its threshold, a trial."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.data.pixels import Size, sides
from anomaly_ft.errors import EncoderError, RunError
from anomaly_ft.model.encoder.adapters import digest, merge, read_adapter
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.encoder.weights import LOCAL
from anomaly_ft.model.gaussian.settings import POSITIONS
from anomaly_ft.model.threshold import WorkingPoint


@contextmanager
def fitting_together(folder: Path) -> Iterator[None]:
    """Raise a RunError in place of whatever files that do not fit together bring about inside the block.

    Raises:
        RunError: in place of that.
        EncoderError: an encoder that is missing or is not the one described.
    """
    try:
        yield
    except (RunError, EncoderError):
        raise
    except Exception as cause:  # the files may hold anything
        reason = f"{type(cause).__name__}: {cause}".splitlines()[0][:300]
        raise RunError(
            f"{folder}: detector.json and detector.safetensors do not fit together: {reason}"
        ) from cause


def encoder_of(folder: Path, description: Mapping[str, Any]) -> Encoder:
    """Load the encoder of a run folder, as its description has it.

    Raises:
        EncoderError: one that is missing or is not the one described, or whose backbone is not there.
        ValueError: an image size that none is.
    """
    levels, image_size = description["levels"], _image_size(description["image_size"])
    beside = folder / "encoder"
    if not (folder / "adapter").exists():
        return load_encoder(description["encoder"], f"{LOCAL}{beside}", levels=levels, image_size=image_size)
    adapter = read_adapter(folder / "adapter")
    backbone = adapter.backbone
    source = f"{LOCAL}{beside}" if beside.exists() else backbone.weights
    which = f"{backbone.name}, weights from {backbone.weights}, sha256 {backbone.sha256}"
    needs = f"{folder} needs its backbone {which}"
    way_out = f"bring it back, or put a timm folder of it at {beside}"
    try:
        encoder = load_encoder(backbone.name, source, levels=levels, image_size=image_size)
    except EncoderError as cause:
        raise EncoderError(f"{needs}; {way_out} ({str(cause).splitlines()[0]})") from cause
    if (there := digest(encoder.model)) != backbone.sha256:
        raise EncoderError(f"{needs}; the one found has sha256 {there}; {way_out}")
    try:
        merge(encoder.model, adapter.factors)
    except (AttributeError, KeyError, RuntimeError) as cause:
        raise EncoderError(
            f"{folder / 'adapter'} does not fit its backbone {backbone.name}: {cause}"
        ) from cause
    encoder.adapter = adapter
    return encoder


def _image_size(stored: Any) -> Size:
    """Check the side of square images, or height and width of others."""
    both = stored if isinstance(stored, list) and len(stored) == 2 else [stored]
    if not all(type(side) is int and 32 <= side <= 2048 for side in both):
        raise ValueError(f"image_size is {stored!r:.40}, expected 32 to 2048, or height and width")
    return both[0] if len(both) == 1 else (both[0], both[1])


def check_position(folder: Path, position: str) -> None:
    """Check what positions mean to a detector.

    Raises:
        RunError: nothing that is known.
    """
    if position not in POSITIONS:
        raise RunError(
            f"{folder}: detector.json has position {position!r:.40}, expected {', '.join(POSITIONS)}"
        )


def point_of(
    folder: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> WorkingPoint | None:
    """Read the threshold that a detector decides by; None where it was not set.

    Raises:
        RunError: the two files have different ones.
    """
    if description["threshold"] is None:
        return None
    point = WorkingPoint(**description["threshold"])
    if torch.tensor(point.threshold, dtype=torch.float32) != tensors["threshold"]:
        raise RunError(f"{folder}: detector.json and detector.safetensors have two thresholds")
    return point


def try_out(detector: Any, *, may_be_infinite: Sequence[str]) -> None:
    """Raise a ValueError, or whatever a blank image brings about, unless all parts fit together."""
    for name, tensor in detector.state_dict().items():
        if name not in may_be_infinite and not tensor.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")
    thresholds = detector.thresholds
    if thresholds and not all(
        math.isfinite(value) for value in vars(thresholds.point).values() if value is not None
    ):
        raise ValueError("the threshold is not finite")
    size = sides(detector.encoder.image_size)
    with torch.inference_mode():
        detector(torch.zeros(1, 3, *size, dtype=torch.uint8))
