"""No encoder at all: the image itself in the place of a timm model, as one level of three channels.

What works on levels works on pixels with it. It has no weights, so it knows nothing before training.
"""

from typing import Any

from torch import Tensor, nn

PIXELS = "pixels"  # what stands for it in `encoder.name`
LEVEL = "image"


class ImageItself(nn.Module):
    """Gives the normalised image back."""

    num_classes = 0
    num_features = 3

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Identity()
        self.feature_info = [{"num_chs": 3, "reduction": 1, "module": LEVEL}]
        self.pretrained_cfg: dict[str, Any] = {
            "architecture": PIXELS,
            "input_size": (3, 224, 224),
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
        }

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the images `(n, 3, h, w)`."""
        result: Tensor = self.image(images)
        return result

    def forward(self, images: Tensor) -> Tensor:
        """Return the images `(n, 3, h, w)`."""
        return self.forward_features(images)
