"""Weights between the pretrained and the fine-tuned ones: means over epochs, and mixtures of two states."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def trained_weights(module: nn.Module) -> Weights:
    """Copy the parameters that train."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set parameters, in place."""
    parameters = dict(module.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def digest_of(module: nn.Module) -> str:
    """Name the weights of a module by their bytes."""
    content = hashlib.blake2b(digest_size=16)
    for parameter in module.parameters():
        content.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


class WeightAverage:
    """Mean of the trained weights over the epochs so far, the pretrained ones among them (after
    Izmailov et al., UAI 2018)."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.mean = trained_weights(module)
        self.count = 1

    def update(self) -> None:
        """Add the weights as they are now to the mean."""
        self.count += 1
        for name, value in trained_weights(self.module).items():
            self.mean[name].lerp_(value, 1 / self.count)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Load the mean into the module inside the block, and restore the module's own weights afterwards."""
        weights = trained_weights(self.module)
        put_weights(self.module, self.mean)
        try:
            yield
        finally:
            put_weights(self.module, weights)
