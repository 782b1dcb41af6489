"""Penalties: terms added to the objective, each zero at the pretrained weights.

Each function makes one term from the encoder as it is when called, which is before training. A term
gets the averaged features of a batch, its images and its maps, and gives a scalar.
"""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.statistics import squared_distance

# features (n, d) of each level, images (n, 3, h, w), maps (n, d, h_l, w_l) of each level
Term = Callable[[Sequence[Tensor], Tensor, Sequence[Tensor]], Tensor]


def l2_sp(encoder: nn.Module) -> Term:
    """Penalise half the squared distance of the weights to where they are now (Li et al., ICML 2018)."""
    start = {name: p.detach().clone() for name, p in _trained(encoder).items()}

    def term(*_batch: object) -> Tensor:
        now = _trained(encoder)
        return 0.5 * torch.stack([(now[name] - start[name]).square().sum() for name in start]).sum()

    return term


def distillation(detector: GaussianDetector) -> Term:
    """Penalise the squared distance between the features of an image now and those that the encoder gives
    before training, in the metric of the detector's Gaussians, mean over images, levels and dimensions (after
    Hinton et al., 2015, with features for outputs)."""
    frozen = copy.deepcopy(detector.encoder).requires_grad_(requires_grad=False)

    def term(features: Sequence[Tensor], images: Tensor, *_maps: object) -> Tensor:
        with torch.no_grad(), frozen.folded():
            before = pool(frozen(images))
        levels = []
        for i, (now, then) in enumerate(zip(features, before, strict=True)):
            mean, whitening = detector.level_gaussian(i)
            levels.append(squared_distance(now - then + mean, mean, whitening).mean() / len(mean))
        return torch.stack(levels).mean()

    return term


def _trained(encoder: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in encoder.named_parameters() if p.requires_grad}
