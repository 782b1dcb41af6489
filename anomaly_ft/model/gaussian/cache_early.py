"""Cache early activations: frozen blocks run once for each image; training and validation start behind them.

Of the levels before the boundary no more is kept than scores need: the average of a map, and the map on
the dense grid where it belongs to the dense levels. What explains a pooled score, the contribution map,
needs whole maps and so images.
"""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from anomaly_ft.data.pixels import Pixels
from anomaly_ft.model.compute import Compute
from anomaly_ft.model.encoder.early_activations import EarlyActivations
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.gaussian.levels import choose_dense_levels, choose_map_levels
from anomaly_ft.model.gaussian.settings import DetectorSettings
from anomaly_ft.model.maps import grid_shape, resize_to_grid


@dataclass
class EarlyCache:
    """Early activations in place of images, computed once while there is room.

    Attributes:
        encoder: with an early part that is frozen, see `Encoder.train_only`.
        compute: device, precision, batch size.
        settings: which levels make the dense score and the map, and their grids.
        room: bytes that all of it may take.
    """

    encoder: Encoder
    compute: Compute
    settings: DetectorSettings
    room: int
    _made: dict[str, EarlyActivations] = field(default_factory=dict)

    def __call__(self, name: str, pixels: Pixels) -> Pixels:
        """Look up the early activations of the images known by `name`, computed at first use; `pixels` where
        there is no room."""
        if name not in self._made:
            room = self.room - sum(made.nbytes for made in self._made.values())
            made = run_early(self.encoder, pixels, self.compute, self.settings, room)
            if made is None:
                return pixels
            self._made[name] = made
        return cast(Pixels, self._made[name])  # indexed like images, and batched by `Compute.batch`


def run_early(
    encoder: Encoder, pixels: Pixels, compute: Compute, settings: DetectorSettings, room: int
) -> EarlyActivations | None:
    """Run the frozen early part on uint8 images `(n, h, w, 3)`; the result lies in the processor's memory.

    Args:
        encoder: with an early part that is frozen, see `Encoder.train_only`.
        pixels: the images.
        compute: device, precision, batch size.
        settings: which levels make the dense score and the map, and their grids.
        room: bytes it may take.

    Returns:
        None where there is nothing frozen to run, no image, or not enough room.
    """
    if not encoder.tail or not len(pixels):
        return None
    first = _run(encoder, pixels[:1], compute, settings)  # tells the size alone
    if first.nbytes * len(pixels) > room:
        return None
    count = len(pixels)
    kept = EarlyActivations(_empty(first.activation, count), [_empty(level, count) for level in first.levels])
    with torch.no_grad(), encoder.folded():
        for start in range(0, count, compute.batch_size):
            rows = slice(start, start + compute.batch_size)
            done = _run(encoder, pixels[rows], compute, settings)
            kept.activation[rows] = done.activation
            for level, level_rows in zip(kept.levels, done.levels, strict=True):
                level[rows] = level_rows
    return kept


@torch.no_grad()  # and not inference_mode: training saves these for its backward pass
def _run(encoder: Encoder, pixels: Pixels, compute: Compute, settings: DetectorSettings) -> EarlyActivations:
    coarse, fine_grid = (grid_shape(side, encoder.image_size) for side in (settings.grid, settings.map_grid))
    dense = dict.fromkeys(choose_dense_levels(encoder, settings.dense_levels), coarse)
    fine = dict.fromkeys(choose_map_levels(encoder, settings.map_levels), fine_grid)
    with compute.fabric.autocast():
        done = encoder.early_activations(compute.batch(pixels))
    position = [encoder.levels.index(name) for name in encoder.early]
    levels = [
        _as_much_as_needed(level, {grids[i] for grids in (dense, fine) if i in grids})
        for i, level in zip(position, done.levels, strict=True)
    ]
    return EarlyActivations(done.activation, levels).to(torch.device("cpu"))


def _as_much_as_needed(level: Tensor, grids: set[tuple[int, int]]) -> Tensor:
    """Shrink a map to one with the same average and the same values on the grids, where that is possible."""
    if not grids:
        return level.mean((2, 3), keepdim=True, dtype=torch.float32)
    if len(grids) > 1:
        return level
    grid = grids.pop()
    pairs = list(zip(level.shape[-2:], grid, strict=True))
    if any(side > wanted for side, wanted in pairs) and all(side % wanted == 0 for side, wanted in pairs):
        return resize_to_grid(level.float(), grid)
    return level


def _empty(one: Tensor, count: int) -> Tensor:
    """Allocate `count` rows like this one, each row as it lies in memory."""
    shape = (count, *one.shape[1:])
    channels_last = one.dim() == 4 and one.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=one.dtype, memory_format=memory_format)
