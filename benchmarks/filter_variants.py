"""Two additions to a filter that `filter_ablation.py` measures, put around its net and its loss. Not a benchmark.

*Collapse* (after Soltani et al., 2023): beta times the mean norm of the bottleneck is added to the loss and to the
score, so that what is normal falls together in one point and its distance from there tells of an anomaly. The
bottleneck is what the net's middle gives, at each of its positions; the map stays that of the residual. In
training the norm is that of the positions that were not corrupted: no others are normal.

*Masked block* (after Ristea et al., CVPR 2022): behind the middle, each position is predicted from the four corners
of the square around it, of which it is the centre; channels are then weighed by what they have on average in the
image. The squared error of what is predicted against what was there is added to the loss.

Both are written from their descriptions. The second averages over positions, which the net itself never does.
"""  # noqa: E501

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from anomaly_ft.finetune.methods.filter import FilterMethod
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.filter.detector import FilterDetector
from anomaly_ft.model.filter.net import FilterNet
from anomaly_ft.model.filter.settings import SCORE
from anomaly_ft.model.outputs import Outputs

BETA = 0.1  # of the collapse
SHARE = 0.1  # of the masked block's error in the loss
CORNER = 2  # positions between a masked centre and each corner, along rows and columns
SQUEEZE = 8  # channels for each that channel attention thinks in


class MaskedConvolution(nn.Module):
    """Predicts each position of a map `(n, c, h, w)` from those at the four corners of the square around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # two by two weights so far apart that the centre lies between them
        self.corners = nn.Conv2d(channels, channels, 2, padding=CORNER, dilation=2 * CORNER)

    def forward(self, x: Tensor) -> Tensor:
        """Give a map of the same shape; beyond its edge there are zeros."""
        predicted: Tensor = self.corners(x)
        return predicted


class ChannelAttention(nn.Module):
    """Weighs each channel of a map `(n, c, h, w)` by a number in (0, 1) that all channels' means decide."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // SQUEEZE))
        self.excite = nn.Linear(max(1, channels // SQUEEZE), channels)

    def forward(self, x: Tensor) -> Tensor:
        """Give a map of the same shape."""
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * weights[:, :, None, None]


class MaskedBlock(nn.Sequential):
    """Masked convolution, then channel attention; of a map `(n, c, h, w)` one of the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__(MaskedConvolution(channels), ChannelAttention(channels))


class Watched(nn.Module):
    """A net's middle and a block behind it; remembers what the middle gave and what the block made of it."""

    def __init__(self, middle: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.middle, self.block = middle, block
        self.given, self.made = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Give what the block makes."""
        self.given = self.middle(x)
        self.made = self.block(self.given)
        return self.made


class CollapseLoss(nn.Module):
    """A filter's loss, and beta times the mean norm of the bottleneck where nothing was corrupted."""

    def __init__(self, loss: nn.Module, watched: Watched, beta: float) -> None:
        super().__init__()
        self.loss, self.watched, self.beta = loss, watched, beta

    def forward(self, batch: Tensor) -> Tensor:
        """Compute the loss of a batch as `filter_loss.batch_of` makes it."""
        loss: Tensor = self.loss(batch)
        bottleneck = self.watched.made
        touched = F.adaptive_max_pool2d(batch[:, 6:].float(), bottleneck.shape[-2:])[:, 0]
        return loss + self.beta * mean_norm(bottleneck, 1 - touched).mean()


class MaskedLoss(nn.Module):
    """A filter's loss, and a share of the masked block's squared error per channel, averaged over positions."""

    def __init__(self, loss: nn.Module, watched: Watched, share: float) -> None:
        super().__init__()
        self.loss, self.watched, self.share = loss, watched, share

    def forward(self, batch: Tensor) -> Tensor:
        """Compute the loss of a batch as `filter_loss.batch_of` makes it."""
        loss: Tensor = self.loss(batch)
        return loss + self.share * (self.watched.made.float() - self.watched.given.float()).square().mean()


@dataclass(frozen=True)
class CollapseDetector:
    """A filter's detector whose score has beta times the mean norm of the bottleneck added."""

    detector: FilterDetector
    watched: Watched
    beta: float

    @property
    def encoder(self) -> Encoder:
        """What gives the levels."""
        return self.detector.encoder

    @property
    def decides(self) -> str:
        """Name of the score."""
        return SCORE

    def scores(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        """Compute the score `(n,)`."""
        return self._raised(self.detector.scores(levels))

    def outputs(self, levels: Sequence[Tensor], *, explain: bool) -> Outputs[Tensor]:
        """Compute score and map; the map is that of the residual."""
        outputs = self.detector.outputs(levels, explain=explain)
        return replace(outputs, scores=self._raised(outputs.scores))

    def _raised(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {SCORE: scores[SCORE] + self.beta * mean_norm(self.watched.made)}


def mean_norm(bottleneck: Tensor, where: Tensor | None = None) -> Tensor:
    """Average the norm of a map `(n, c, h, w)` over the positions of each image, or over those marked 1 in
    `where (n, h, w)`: `(n,)`; 0 where there is none."""
    norms = torch.linalg.vector_norm(bottleneck.float(), dim=1)
    where = torch.ones_like(norms) if where is None else where
    return (norms * where).sum((1, 2)) / where.sum((1, 2)).clamp_min(1)


def watch(net: FilterNet, block: nn.Module) -> Watched:
    """Put a block behind the middle of a net."""
    net.middle = watched = Watched(net.middle, block.to(next(net.parameters()).device))
    return watched


def collapse(method: FilterMethod, beta: float) -> nn.Module:
    """Add the collapse to a method that was fitted; its loss."""
    watched = watch(method.made.net, nn.Identity())
    method.view = lambda detector: CollapseDetector(detector, watched, beta)
    return CollapseLoss(method.objective(), watched, beta)


def masked_block(method: FilterMethod, share: float) -> nn.Module:
    """Add the masked block to a method that was fitted; its loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.settings.seed)
        block = MaskedBlock(method.settings.width)
    return MaskedLoss(method.objective(), watch(method.made.net, block), share)
