"""What restoring a detector from disk takes, whatever its kind: its threshold, a trial."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anomaly_ft.data.pixels import sides
from anomaly_ft.errors import EncoderError, RunError
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
