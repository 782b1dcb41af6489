"""The net of a filter: what is normal passes through it, what is not is replaced.

Strided convolutions lead down to a middle of stacked layers of parallel dilated convolutions, which see far
without losing places; convolutions lead up again. At every size, the input's own included, encoder e and
decoder d are mixed: a e + (1 - a) d with a = sigmoid(conv([e, d])), so that normal places can be passed on as
they are. (After Bauer, Nakajima and Müller, arXiv 2206.11723, as far as it is known; see docs/filter.md.)

Nothing in it averages over positions, so that what is wrong at one place moves no other place far away.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError

LARGEST_MIDDLE = 24  # positions along each side of the middle; larger inputs are halved until they have no more
LAYERS = 3  # of parallel dilated convolutions
FARTHEST = 16  # dilation that is used at most, unless the recipe says so
NARROWEST = 16  # channels of the outermost size


class PerPosition(nn.Module):
    """Normalise the channels at each position of a map `(n, c, h, w)` by themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Give a map of the same shape."""
        normed: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


class ParallelDilations(nn.Module):
    """One layer of convolutions side by side, each with a dilation of its own, added to its input."""

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        shares = [channels // len(dilations) + (i < channels % len(dilations)) for i in range(len(dilations))]
        self.parts = nn.ModuleList(
            nn.Conv2d(channels, share, 3, padding=dilation, dilation=dilation)
            for share, dilation in zip(shares, dilations, strict=True)
        )
        self.norm = PerPosition(channels)
        self.join = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Give a map of the same shape."""
        seen = torch.cat([part(x) for part in self.parts], 1)
        joined: Tensor = self.join(F.relu(self.norm(seen)))
        return x + joined


class Mix(nn.Module):
    """Mix encoder e and decoder d by a learned convex combination, a e + (1 - a) d, at each position and in
    each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.share = nn.Conv2d(2 * channels, channels, 1)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        """Give a map of the same shape as either."""
        share = torch.sigmoid(self.share(torch.cat([encoder, decoder], 1)))
        return share * encoder + (1 - share) * decoder


class FilterNet(nn.Module):
    """Maps `(n, channels, side, side)` to what it would be, were it normal. Untrained it gives half of its
    input, or nothing without `skips`: either way what is left over is the input, in another unit."""

    def __init__(self, channels: int, side: int, *, width: int, reach: int, skips: bool) -> None:
        super().__init__()
        sides = sides_of(side)
        widths = [max(NARROWEST, width >> k) for k in range(len(sides) - 1, -1, -1)]  # from the outermost in
        dilations = dilations_of(sides[-1], reach)
        self.enter = _block(channels, widths[0])
        self.down = nn.ModuleList(_block(a, b, stride=2) for a, b in pairwise(widths))
        self.middle = nn.Sequential(*(ParallelDilations(width, dilations) for _ in range(LAYERS)))
        self.up = nn.ModuleList(_block(b, a) for a, b in pairwise(widths))
        self.mixes = nn.ModuleList(Mix(c) for c in (channels, *widths[:-1])) if skips else nn.ModuleList()
        self.leave = nn.Conv2d(widths[0], channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        for module in (self.leave, *self.mixes[:1]):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Filter a map."""
        sizes = [self.enter(x)]
        for down in self.down:
            sizes.append(down(sizes[-1]))
        y = self.middle(sizes.pop())
        for place in range(len(self.up) - 1, -1, -1):
            encoder = sizes.pop()
            y = self.up[place](F.interpolate(y, size=encoder.shape[-2:], mode="nearest"))
            y = self.mixes[place + 1](encoder, y) if self.mixes else y
        y = self.leave(y)
        filtered: Tensor = self.mixes[0](x, y) if self.mixes else y
        return filtered


def sides_of(side: int) -> list[int]:
    """List the sides of the net's maps, from its input to its middle.

    >>> sides_of(128), sides_of(28), sides_of(14)
    ([128, 64, 32, 16], [28, 14], [14])
    """
    sides = [side]
    while sides[-1] > LARGEST_MIDDLE:
        sides.append(-(-sides[-1] // 2))
    return sides


def dilations_of(side: int, reach: int) -> list[int]:
    """List the dilations of the middle: powers of two up to the reach; 0: up to what its `side` allows.

    >>> dilations_of(16, 0), dilations_of(24, 0), dilations_of(14, 1)
    ([1, 2, 4, 8], [1, 2, 4, 8, 16], [1])

    Raises:
        EncoderError: convolutions that would reach beyond the middle.
    """
    if reach >= side:
        raise EncoderError(
            f"expert.filter.reach: a dilation of {reach} does not fit into the middle of the net, which has "
            f"{side} x {side} positions for images of this size; set it to {largest_reach(side)} at most, or "
            "data.image_size higher"
        )
    most = reach or min(FARTHEST, largest_reach(side))
    return [2**k for k in range(most.bit_length())]


def largest_reach(side: int) -> int:
    """Give the largest power of two below a side."""
    return 1 << max(0, (side - 1).bit_length() - 1)


def make_net(channels: int, side: int, *, width: int, reach: int, skips: bool, seed: int) -> FilterNet:
    """Make a net whose first weights depend on the seed alone, whatever was drawn before.

    Raises:
        EncoderError: a reach that the side does not allow.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FilterNet(channels, side, width=width, reach=reach, skips=skips)


def _block(channels: int, out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, stride=stride, padding=1), PerPosition(out), nn.ReLU())
