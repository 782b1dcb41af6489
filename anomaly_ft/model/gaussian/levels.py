"""Choose the levels, and of them the channels, that make the dense score and the dense map."""

import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from anomaly_ft.errors import EncoderError


class Levels(Protocol):
    """An encoder as this module sees it: its levels by name, their widths, and their strides in pixels."""

    @property
    def levels(self) -> tuple[str, ...]:
        """Names, from the input on."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels between positions of each level."""


def choose_dense_levels(encoder: Levels, levels: Sequence[str | int] | Literal["auto"]) -> list[int]:
    """Choose the levels that make the dense score; `auto`: all at stride 16 and the first at 32. Returns
    positions.

    Encoders whose levels all have one stride, vision transformers, give the levels behind a quarter, half
    and three quarters of their depth.
    """
    if levels != "auto":
        return choose_named_levels(encoder, levels, "expert.gaussian.dense_levels")
    chosen = [i for i, stride in enumerate(encoder.strides) if stride == 16]
    return _unless_flat(encoder, [*chosen, *_first_at(encoder, (32,))])


def choose_map_levels(encoder: Levels, levels: Sequence[str | int] | Literal["auto"]) -> list[int]:
    """Choose the levels that make the dense map; `auto`: the first at stride 16 and the last at 4 and 8, with
    the same exception as `choose_dense_levels`. Returns positions."""
    if levels != "auto":
        return choose_named_levels(encoder, levels, "map_levels")
    return _unless_flat(encoder, [*_last_at(encoder, (4, 8)), *_first_at(encoder, (16,))])


def shares(weights: Sequence[float], levels: Sequence[str]) -> Tensor:
    """Normalise the weights of the levels to shares of one `(levels,)`; equal ones where no weights are
    given.

    Raises:
        EncoderError: not one weight for each level, negative ones, or zeros alone.
    """
    if not weights:
        return torch.full((len(levels),), 1 / len(levels))
    if len(weights) != len(levels) or min(weights) < 0 or sum(weights) <= 0:
        raise EncoderError(
            "expert.gaussian.level_weights: expected one weight of 0 or more for each "
            f"of the {len(levels)} levels "
            f"({', '.join(levels)}), not all of them 0; got {list(weights)}"
        )
    return torch.tensor(weights) / sum(weights)


def kept_channels(encoder: Levels, levels: Sequence[int], most: int) -> Tensor:
    """Choose which channels of some levels are kept, `(d,)` with d at most `most`: all where there are no
    more, else a random choice, always the same one, as PaDiM makes it."""
    width = sum(encoder.widths[i] for i in levels)
    if width <= most:
        return torch.arange(width)
    return torch.randperm(width, generator=torch.Generator().manual_seed(0))[:most].sort().values


def refuse_without_grid(names: Sequence[str], maps: Sequence[Tensor]) -> None:
    """Refuse levels `(n, d_l, h_l, w_l)` that have no grid at all, of which there is nothing to share.

    Raises:
        EncoderError: each has a single position.
    """
    if all(level.shape[-2:].numel() == 1 for level in maps):
        raise EncoderError(
            f"gaussian.position: free needs a grid, but {', '.join(names)} have one position for the whole "
            "image; name others in expert.gaussian.dense_levels, raise data.image_size, or set it to fixed"
        )


def choose_named_levels(encoder: Levels, levels: Sequence[str | int], setting: str) -> list[int]:
    """Give the positions of levels that are named, or counted from 0.

    Raises:
        EncoderError: none at all, or one that is no level; `setting` is the key that named it.
    """
    if not levels:
        raise EncoderError(f"{setting}: expected one or more levels, got none")
    for level in levels:
        if level not in (*encoder.levels, *range(len(encoder.levels))):
            raise EncoderError(f"{setting}: {level!r} is none of the levels: {', '.join(encoder.levels)}")
    return [level if isinstance(level, int) else encoder.levels.index(level) for level in levels]


def _first_at(encoder: Levels, strides: Sequence[int]) -> list[int]:
    return [encoder.strides.index(stride) for stride in strides if stride in encoder.strides]


def _last_at(encoder: Levels, strides: Sequence[int]) -> list[int]:
    last = {stride: i for i, stride in enumerate(encoder.strides)}
    return [last[stride] for stride in strides if stride in last]


def _unless_flat(encoder: Levels, chosen: list[int]) -> list[int]:
    """Return the chosen levels, or levels spread over the depth where all have one stride or none was
    found."""
    if len(set(encoder.strides)) > 1 and chosen:
        return chosen
    return spread_levels(encoder)


def spread_levels(encoder: Levels) -> list[int]:
    """Choose the levels behind a quarter, half and three quarters of all: blocks 2, 5 and 8 of twelve, from 0.
    Returns positions."""
    depth = len(encoder.levels)
    return sorted({math.ceil(depth * k / 4) - 1 for k in (1, 2, 3)})
