"""The sums behind a detector's Gaussians on disk: new images are added to them, and it is as if all had been
there from the beginning.

They are float64, and of each matrix the upper triangle is kept: 4 g d^2 bytes for a grid of g positions with d
channels, as much as the detector's own whitening in float32; one position for all takes 1 / g of that.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anomaly_ft.errors import RunError
from anomaly_ft.model.gaussian.statistics import Moments

NAME = "sums.safetensors"
FORMAT = 1
PARTS = ("shift", "first", "second", "third", "fourth")


def save_sums(folder: Path, sums: Sequence[Moments]) -> None:
    """Write the sums of all Gaussians: of each level, of the dense score and of the map.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    tensors = {"format": torch.tensor(FORMAT)}
    for i, moments in enumerate(sums):
        packed = replace(moments, second=_triangle(moments.second))
        tensors[f"count_{i}"] = torch.tensor(moments.count)
        tensors |= {f"{name}_{i}": getattr(packed, name).cpu().contiguous() for name in PARTS}
    try:
        save_file(tensors, folder / NAME)
    except SafetensorError as cause:  # its name for a full disk
        raise OSError(f"{folder}: {cause}") from cause


def load_sums(folder: Path) -> list[Moments]:
    """Read what `save_sums` wrote, on the CPU.

    Raises:
        RunError: there are none, or they are damaged.
    """
    if not (folder / NAME).is_file():
        raise RunError(
            f"{folder} keeps no sums to add to: expert.gaussian.keep_sums was false, its statistics are those "
            "of the pretrained encoder, or an older version made it; train again"
        )
    try:
        tensors = load_file(folder / NAME)
        if int(tensors["format"]) != FORMAT:
            raise ValueError(f"format {int(tensors['format'])}, expected {FORMAT}")
        count = sum(name.startswith("count_") for name in tensors)
        return [_moments(tensors, i) for i in range(count)]
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        raise RunError(f"{folder}: {NAME} is damaged: {cause}; train again") from cause


def _moments(tensors: dict[str, Tensor], i: int) -> Moments:
    shift, first, second, third, fourth = (tensors[f"{name}_{i}"] for name in PARTS)
    d = shift.shape[-1]
    whole = second.new_zeros(*shift.shape, d)
    rows, columns = torch.triu_indices(d, d)
    whole[..., rows, columns] = second
    whole[..., columns, rows] = second
    return Moments(int(tensors[f"count_{i}"]), shift, first, whole, third, fourth)


def _triangle(matrices: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(matrices.shape[-1], matrices.shape[-1], device=matrices.device)
    return matrices[..., rows, columns]
