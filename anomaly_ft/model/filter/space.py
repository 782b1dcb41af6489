"""What a filter works on: features of an encoder on one grid, whitened by one Gaussian of all positions.

For an encoder that is the image itself these are its pixels, their colours whitened.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.settings import FilterSettings
from anomaly_ft.model.gaussian.levels import choose_named_levels, kept_channels, spread_levels
from anomaly_ft.model.gaussian.statistics import Gaussian
from anomaly_ft.model.maps import on_grid


class FilterSpace(nn.Module):
    """Turns the levels of an encoder into whitened maps; a frozen value.

    Buffers, float32: `mean (d,)` and `whitening (d, d)` of the features at all positions; `kept (d,)`, int64,
    which channels of the levels, one after another, those are.
    """

    mean: Tensor
    whitening: Tensor
    kept: Tensor

    def __init__(self, levels: Sequence[int], grid: int, kept: Tensor, gaussian: Gaussian) -> None:
        super().__init__()
        self.levels, self.grid = tuple(levels), grid
        self.register_buffer("kept", kept.to(gaussian.mean.device))
        self.register_buffer("mean", gaussian.mean.float())
        self.register_buffer("whitening", gaussian.whitening.float())

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        """Compute `(n, d, grid, grid)` in float32 from all feature maps of the encoder."""
        features = on_grid([levels[i] for i in self.levels], self.grid, self.kept)
        with torch.autocast(features.device.type, enabled=False):
            white = (features - self.mean) @ self.whitening.mT
        return white.mT.reshape(*white.mT.shape[:2], self.grid, self.grid)


def place_of(encoder: Encoder, settings: FilterSettings) -> tuple[list[int], int, Tensor]:
    """Choose levels, grid and channels of an encoder that a filter works on.

    Raises:
        EncoderError: a level that is none, or a grid finer than the image.
    """
    levels = choose_filter_levels(encoder, settings.levels)
    grid = settings.grid or -(-encoder.image_size // min(encoder.strides[i] for i in levels))
    if grid > encoder.image_size:
        raise EncoderError(
            f"expert.filter.grid: {grid} positions along each side are more than the {encoder.image_size} "
            "pixels of data.image_size"
        )
    return levels, grid, kept_channels(encoder, levels, settings.dimensions)


def choose_filter_levels(encoder: Encoder, levels: Sequence[str | int] | Literal["auto"]) -> list[int]:
    """Choose the levels that a filter works on; `auto`: the last at stride 8, all at 16, the first at 32.
    Returns positions.

    Encoders whose levels all have one stride give the levels at a quarter, half and three quarters of their
    depth.
    """
    if levels != "auto":
        return choose_named_levels(encoder, levels, "expert.filter.levels")
    strides = encoder.strides
    if len(set(strides)) == 1 or not {8, 16, 32} & set(strides):
        return spread_levels(encoder)
    fine = [i for i, stride in enumerate(strides) if stride == 8][-1:]
    deep = [i for i, stride in enumerate(strides) if stride == 32][:1]
    return [*fine, *(i for i, stride in enumerate(strides) if stride == 16), *deep]
