"""The loss of a filter: how far what it makes of corrupted images is from the images as they were."""

import torch
from torch import Tensor, nn

from anomaly_ft.model.filter.detector import Filter


def batch_of(clean: Tensor, corrupted: Tensor, mask: Tensor) -> Tensor:
    """Join images `(n, 3, h, w)`, corrupted ones, and where they were, `(n, h, w)` bool, to one batch
    `(n, 7, h, w)` uint8."""
    return torch.cat([clean, corrupted, mask[:, None].to(clean.dtype)], 1)


class FilterLoss(nn.Module):
    """Mean over images of w C + (1 - w) D: the squared error per channel averaged over the positions that were
    not corrupted, C, and over those that were, D, each divided by its own area; lower = nearer.

    Errors are measured where the filter works, in whitened features or colours. The net alone trains.
    """

    def __init__(self, made: Filter, clean_weight: float) -> None:
        super().__init__()
        self.encoder, self.space, self.net = made.encoder, made.space, made.net
        self.clean_weight = clean_weight

    def forward(self, batch: Tensor) -> Tensor:
        """Compute the loss of a batch as `batch_of` makes it."""
        clean, corrupted, mask = batch[:, :3], batch[:, 3:6], batch[:, 6:]
        with torch.no_grad(), self.encoder.folded():
            wanted, given = self.space(self.encoder(clean)), self.space(self.encoder(corrupted))
        error = (self.net(given).float() - wanted).square().mean(1)
        touched = nn.functional.adaptive_max_pool2d(mask.float(), self.space.grid)[:, 0]
        return (
            self.clean_weight * _mean_where(error, 1 - touched)
            + (1 - self.clean_weight) * _mean_where(error, touched)
        ).mean()


def _mean_where(error: Tensor, where: Tensor) -> Tensor:
    """Average the errors `(n, g, g)` of each image over the positions marked 1; 0 where there is none."""
    area = where.sum((1, 2))
    return (error * where).sum((1, 2)) / area.clamp_min(1)
