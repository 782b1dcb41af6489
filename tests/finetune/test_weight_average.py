from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from anomaly_ft.finetune.brakes.interpolation import interpolate
from anomaly_ft.finetune.brakes.weight_average import WeightAverage, put_weights, trained_weights
from anomaly_ft.finetune.early_stopping import StoppingRule
from anomaly_ft.finetune.records import Validation


def module(value: float) -> nn.Linear:
    linear = nn.Linear(2, 1)
    put_weights(linear, {"weight": torch.full((1, 2), value), "bias": torch.full((1,), value)})
    return linear


def flat(linear: nn.Module) -> list[float]:
    return [float(x) for p in linear.parameters() for x in p.detach().flatten()]


def noisy(auroc: float) -> Validation:
    """On 40 images, each with an influence of its own."""
    influence = np.random.default_rng(int(auroc * 1e6)).normal(0, 0.05, 40)
    return Validation(auroc, {"scar": auroc}, {"scar": influence - influence.mean()}, 0.0)


def test_the_average_is_the_mean_over_epochs_and_the_pretrained_weights() -> None:
    linear = module(1.0)
    average = WeightAverage(linear)
    for value in (2.0, 6.0):
        put_weights(linear, {"weight": torch.full((1, 2), value)})
        average.update()
    with average.in_place():
        assert flat(linear) == pytest.approx([3.0, 3.0, 1.0])
    assert flat(linear) == [6.0, 6.0, 1.0]


def test_weights_come_back_when_something_fails_while_the_average_is_in_place() -> None:
    linear = module(1.0)
    average = WeightAverage(linear)
    put_weights(linear, {"bias": torch.tensor([5.0])})
    with pytest.raises(RuntimeError, match="no space"), average.in_place():
        raise RuntimeError("no space")
    assert flat(linear) == [1.0, 1.0, 5.0]


def test_only_trained_weights_are_kept() -> None:
    linear = module(1.0)
    linear.bias.requires_grad = False
    assert list(trained_weights(linear)) == ["weight"]


@pytest.mark.parametrize(
    ("auroc", "kept"),
    [
        (lambda share: 0.8 + 0.1 * share, 1.0),  # better all the way
        (lambda share: 0.9 - 0.4 * share, 0.0),  # worse all the way
        (lambda share: 0.9 - abs(share - 0.5), 0.5),  # best in the middle
    ],
)
def test_the_mixture_furthest_from_the_start_that_has_not_forgotten_is_kept(
    auroc: Callable[[float], float], kept: float
) -> None:
    linear, pretrained = module(2.0), trained_weights(module(0.0))

    def validate() -> Validation:
        return noisy(auroc(float(linear.bias.detach()) / 2))

    share, found = interpolate(
        linear, pretrained, [0.5, 0.25], validate, StoppingRule(1), (noisy(auroc(0.0)), noisy(auroc(1.0)))
    )
    assert share == kept
    assert list(found) == [0.0, 0.25, 0.5, 1.0]
    assert found[0.25].auroc == pytest.approx(auroc(0.25))
    assert flat(linear) == pytest.approx([2 * kept] * 3)
