"""What fine-tuning minimises: the distance of normal images to the induced Gaussian.

Rippel et al., "Transfer Learning Gaussian Anomaly Detection by Fine-tuning Representations" (2021):
mean and covariance stay as the pretrained encoder induced them, the features move.
"""

from typing import Literal

from torch import Tensor, nn

from anomaly_ft.model.detector import Detector
from anomaly_ft.model.encoder import pool

Distance = Literal["mahalanobis", "squared_mahalanobis"]


class InducedDistance(nn.Module):
    """Mean distance of a batch of normal images to the Gaussians of a detector; lower = nearer.

    The detector's encoder is what trains; its Gaussians are buffers and stay.
    """

    def __init__(self, detector: Detector, distance: Distance = "mahalanobis") -> None:
        super().__init__()
        self.detector = detector
        self.power = 2 if distance == "squared_mahalanobis" else 1

    def forward(self, images: Tensor) -> Tensor:
        """Images `(n, 3, h, w)` in 0..255 to the mean over images and levels, a scalar."""
        features = pool(self.detector.encoder(images))
        return self.detector.level_distances(features).pow(self.power).mean()
