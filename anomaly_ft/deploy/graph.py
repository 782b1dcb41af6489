"""The detector, or its encoder, as one graph that other runtimes can hold: tensors in, tensors out.

Nothing is solved or fitted in it: what the graph needs (whitening matrices, mean and standard
deviation, the threshold) is stored in it. Reading and resizing an image stay outside; every runtime
resizes differently, and Pillow does it in one line.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from anomaly_ft.data.pixels import Pixels, sides
from anomaly_ft.model.encoder.encoder import Encoder
from anomaly_ft.model.interface import Detector

OUTPUTS = ("score", "map", "decision")
Computes = Callable[[Pixels], Sequence[Tensor]]  # what an export makes of decoded images


class DetectorGraph(nn.Module):
    """Image to `score (n,)`, `map (n, height, width)` in score units and `decision (n,)`, true = anomalous.

    `image` is float32 `(n, 3, height, width)`, RGB, normalised with the encoder's mean and standard
    deviation; or, with `raw`, uint8 `(n, height, width, 3)`, which the graph normalises itself.
    """

    def __init__(self, detector: Detector, *, raw: bool) -> None:
        super().__init__()
        self.detector: Any = detector  # a module whatever its kind
        self.raw = raw

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute score, map and decision of images, see the class."""
        return self.judge(_levels(self.detector.encoder, image, self.raw))

    def judge(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Score, map and decision from the encoder's levels."""
        outputs = self.detector.detect(levels, sides(self.detector.encoder.image_size))
        return outputs.scores, outputs.maps, outputs.scores > self.detector.threshold


class EncoderGraph(nn.Module):
    """Image, as `DetectorGraph` takes it, to the feature map `(n, d_l, h_l, w_l)` of each level."""

    def __init__(self, encoder: Encoder, *, raw: bool) -> None:
        super().__init__()
        self.encoder, self.raw = encoder, raw

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature map of each level."""
        return tuple(_levels(self.encoder, image, self.raw))


def trace(graph: DetectorGraph | EncoderGraph) -> ExportedProgram:
    """Trace the graph for any number of images, batch norms folded in, without the paths of source files."""
    encoder = graph.encoder if isinstance(graph, EncoderGraph) else graph.detector.encoder
    size = sides(encoder.image_size)
    image = torch.zeros(2, 3, *size)
    if graph.raw:
        image = torch.zeros(2, *size, 3, dtype=torch.uint8)
    with torch.no_grad(), encoder.folded():
        program = torch.export.export(
            graph, (image,), dynamic_shapes={"image": {0: Dim("batch", min=1)}}, strict=False
        )
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def _levels(encoder: Encoder, image: Tensor, raw: bool) -> Sequence[Tensor]:
    return encoder(image.permute(0, 3, 1, 2)) if raw else encoder.feature_maps(image)
