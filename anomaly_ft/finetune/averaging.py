"""Weights between the pretrained and the fine-tuned ones: means over epochs, and mixtures of two states."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from anomaly_ft.finetune.forgetting import Rule, judge
from anomaly_ft.finetune.validation import Validation

Weights = dict[str, Tensor]


def trained_weights(module: nn.Module) -> Weights:
    """A copy of the parameters that train."""
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@torch.no_grad()
def put_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Set parameters, in place."""
    parameters = dict(module.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


class WeightAverage:
    """Mean of the trained weights over the epochs so far, the pretrained ones among them (after
    Izmailov et al., UAI 2018)."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.mean = trained_weights(module)
        self.count = 1

    def update(self) -> None:
        self.count += 1
        for name, value in trained_weights(self.module).items():
            self.mean[name].lerp_(value, 1 / self.count)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the mean; afterwards it holds again what it held."""
        own = trained_weights(self.module)
        put_weights(self.module, self.mean)
        try:
            yield
        finally:
            put_weights(self.module, own)


def interpolate(
    module: nn.Module,
    pretrained: Mapping[str, Tensor],
    shares: Sequence[float],
    validate: Callable[[], Validation],
    rule: Rule,
    ends: tuple[Validation, Validation],
) -> tuple[float, dict[float, Validation]]:
    """Leave in the module the mixture of pretrained and fine-tuned weights that validation chooses
    (WiSE-FT, Wortsman et al., CVPR 2022).

    The way from the pretrained to the fine-tuned weights is judged as epochs are: the mixture furthest
    from the pretrained weights that has not forgotten is kept.

    Args:
        module: holds the fine-tuned weights.
        pretrained: the weights before training.
        shares: of the fine-tuned weights, in (0, 1); 0 and 1 are always among the candidates.
        validate: measures the module as it is now.
        rule: its tolerance decides what counts as forgotten.
        ends: validations of the pretrained and of the fine-tuned weights, which are known already.

    Returns:
        The share kept, and the validation of each share.
    """
    tuned = trained_weights(module)

    def put_mixture(share: float) -> None:
        put_weights(module, {name: value.lerp(tuned[name], share) for name, value in pretrained.items()})

    found = {0.0: ends[0]}
    for share in sorted(shares):
        put_mixture(share)
        found[share] = validate()
    found[1.0] = ends[1]
    kept = list(found)[judge(list(found.values()), rule).best_epoch]
    put_mixture(kept)
    return kept, found
