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
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
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
        EncoderError: one that is missing or is not the one described.
        ValueError: an image size that none is.
    """
    return load_encoder(
        description["encoder"],
        f"local-dir:{folder / 'encoder'}",
        levels=description["levels"],
        image_size=_image_size(description["image_size"]),
    )


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
