"""Choose the levels of an encoder that a filter works on, the grid, and the channels."""

from collections.abc import Sequence
from typing import Literal

from anomaly_ft.data.pixels import sides
from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.settings import FilterSettings, Place
from anomaly_ft.model.gaussian.levels import choose_named_levels, kept_channels, spread_levels


def place_of(encoder: Encoder, settings: FilterSettings) -> Place:
    """Choose levels, grid and channels of an encoder that a filter works on.

    Raises:
        EncoderError: a level that is none, images that are no squares, or a grid finer than the image.
    """
    height, width = sides(encoder.image_size)
    if height != width:
        raise EncoderError(
            f"data.image_size: a filter takes squares, not {height} x {width} pixels; give one number and set "
            "data.resize to stretch or letterbox"
        )
    levels = choose_filter_levels(encoder, settings.levels)
    grid = settings.grid or -(-height // min(encoder.strides[i] for i in levels))
    if grid > height:
        raise EncoderError(
            f"expert.filter.grid: {grid} positions along each side are more than the {height} pixels of "
            "data.image_size"
        )
    return Place(tuple(levels), grid, kept_channels(encoder, levels, settings.dimensions))


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
