"""The fine-tuning loss: the distance of normal images to the induced Gaussian.

Rippel et al., "Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations" (2021):
mean and covariance stay as the pretrained encoder induced them, the features move.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from anomaly_ft.finetune.brakes.penalties import Term
from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.detector import GaussianDetector

Distance = Literal["mahalanobis", "squared_mahalanobis"]
Target = Literal["pooled", "dense", "joint"]


class InducedDistance(nn.Module):
    """Mean distance of a batch of normal images to the Gaussians of a detector; lower = nearer.

    The detector's encoder is what trains; its Gaussians are buffers and stay. `terms` are penalties,
    each with its strength, added to the distance. `left_out` is the share of a batch that counts for nothing
    in its distance, those farthest away; gradients must then be computed of whole batches.
    `floor`, `(levels,)`, are squared distances of pooled features at which an image is near enough: one that is
    nearer counts as if it were there, and is not pulled.
    """

    floor: Tensor | None

    def __init__(
        self,
        detector: GaussianDetector,
        distance: Distance = "mahalanobis",
        target: Target = "pooled",
        terms: Mapping[Term, float] | None = None,
        floor: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.power = 1.0 if distance == "squared_mahalanobis" else 0.5
        self.target = target
        self.terms = dict(terms or {})
        self.left_out = 0.0
        self.register_buffer("floor", floor)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the loss of images `(n, 3, h, w)` in 0..255: the mean over images, and over levels by their
        weights (`pooled`), over positions (`dense`), or of both means (`joint`), plus the penalties."""
        with self.detector.encoder.folded():
            maps = self.detector.encoder(images)
        features = pool(maps)
        parts = []
        if self.target != "dense":
            levels = self.detector.squared_level_distances(features)
            if self.floor is not None:
                levels = torch.maximum(levels, self.floor)
            parts.append((self._raise(levels) * self.detector.level_weights).sum(1))
        if self.target != "pooled":
            parts.append(self._raise(self.detector.squared_dense_distances(maps)).mean(1))
        each = torch.stack(parts).mean(0)
        if self.left_out:
            each = each.sort().values[: len(each) - round(self.left_out * len(each))]
        loss = each.mean()
        for term, strength in self.terms.items():
            loss = loss + strength * term(features, images, maps)
        return loss

    def _raise(self, squared: Tensor) -> Tensor:
        # the root of 0 has no slope; a distance this small has nothing left to lower
        return squared.clamp_min(torch.finfo(squared.dtype).tiny).pow(self.power)
