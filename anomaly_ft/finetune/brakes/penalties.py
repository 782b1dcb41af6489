"""What holds the encoder to what it knew: terms added to the objective, each zero at the pretrained weights.

Each function makes one term from the encoder as it is when called, which is before training. A term
gets the pooled features of a batch and its images, and gives a scalar.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from anomaly_ft.model.encoder.encoder import pool
from anomaly_ft.model.gaussian.detector import GaussianDetector
from anomaly_ft.model.gaussian.statistics import squared_distance

Term = Callable[[Sequence[Tensor], Tensor], Tensor]  # features (n, d) of each level, images (n, 3, h, w)


def l2_sp(encoder: nn.Module) -> Term:
    """Half the squared distance of the weights to where they are now (Li et al., ICML 2018)."""
    return ewc(encoder, {name: torch.ones_like(p) for name, p in _trained(encoder).items()})


def ewc(encoder: nn.Module, fisher: Mapping[str, Tensor]) -> Term:
    """The same, each weight by its Fisher information (Kirkpatrick et al., PNAS 2017)."""
    start = {name: p.detach().clone() for name, p in _trained(encoder).items()}

    def term(_features: Sequence[Tensor], _images: Tensor) -> Tensor:
        now = _trained(encoder)
        terms = [(fisher[name] * (now[name] - start[name]).square()).sum() for name in start]
        return 0.5 * torch.stack(terms).sum()

    return term


def fisher_information(objective: nn.Module, encoder: nn.Module, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """Diagonal Fisher information of an objective at the encoder's weights now: its squared gradient,
    mean over single images; a tensor of each trained parameter's shape.

    PANDA (Reiss et al., CVPR 2021) takes it from the classifier's likelihood on ImageNet. Here the
    objective is the distance of normal images, so that what is held are the weights on which their
    distance depends most, and no ImageNet is needed.

    Args:
        objective: its forward pass of one image is the loss.
        encoder: whose parameters are asked for, under their own names.
        images: batches of one image `(1, 3, h, w)` each.
    """
    parameters = _trained(encoder)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    count = 0
    for image in images:
        if len(image) != 1:
            raise ValueError("the Fisher information is a mean over single images")
        gradients = torch.autograd.grad(objective(image), list(parameters.values()), allow_unused=True)
        for name, gradient in zip(total, gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.square()
        count += 1
    if not count:
        raise ValueError("the Fisher information needs at least one image")
    return {name: value / count for name, value in total.items()}


def distillation(detector: GaussianDetector) -> Term:
    """Squared distance between the features of an image now and those that the encoder gives before
    training, in the metric of the detector's Gaussians, mean over images, levels and dimensions
    (after Hinton et al., 2015, with features for outputs)."""
    frozen = copy.deepcopy(detector.encoder).requires_grad_(requires_grad=False)

    def term(features: Sequence[Tensor], images: Tensor) -> Tensor:
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
