"""Cached early activations: images on their way through an encoder."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class EarlyActivations:
    """Activations of n images behind the frozen early part of an encoder, which takes them as its input.

    `activation` `(n, ...)` is what the first module that trains is given; `levels` are the maps
    `(n, d_l, h, w)` of the levels before it. No dataclass: Fabric would take one apart.
    """

    def __init__(self, activation: Tensor, levels: Sequence[Tensor]) -> None:
        self.activation = activation
        self.levels = tuple(levels)

    def __len__(self) -> int:
        return len(self.activation)

    def __getitem__(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> "EarlyActivations":
        """Select some of the images, copied: what runs on them may work in place."""
        chosen = torch.from_numpy(np.arange(len(self))[rows])
        return EarlyActivations(_take(self.activation, chosen), [_take(level, chosen) for level in self.levels])

    def to(self, device: torch.device) -> "EarlyActivations":
        """Copy to a device."""
        return EarlyActivations(self.activation.to(device), [level.to(device) for level in self.levels])

    @property
    def nbytes(self) -> int:
        """Bytes that all tensors take."""
        return sum(tensor.nbytes for tensor in (self.activation, *self.levels))


def _take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Select some rows, in the memory format of the whole."""
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
    return tensor.index_select(0, rows)
