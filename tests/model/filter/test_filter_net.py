"""The net of a filter: its start, its sizes, its reach."""

import pytest
import torch

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.filter.net import FilterNet, Mix, dilations_of, make_net, sides_of


def net(side: int = 12, channels: int = 5, *, reach: int = 0, skips: bool = True, seed: int = 0) -> FilterNet:
    return make_net(channels, side, width=16, reach=reach, skips=skips, seed=seed)


@pytest.mark.parametrize("side", [2, 7, 28, 51])
def test_an_untrained_net_leaves_its_input_over_in_another_unit(side: int) -> None:
    x = torch.randn(2, 5, side, side)
    assert torch.allclose(x - net(side)(x), x / 2)
    assert torch.equal(x - net(side, skips=False)(x), x)


def test_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = net().state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = net().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = net(seed=1).state_dict()
    assert not torch.equal(first["enter.0.weight"], other["enter.0.weight"])
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn), "making a net draws nothing from the generator of others"


def test_a_mixture_lies_between_encoder_and_decoder() -> None:
    torch.manual_seed(0)
    encoder, decoder = torch.randn(2, 2, 4, 6, 6)
    mixed = Mix(4)(encoder, decoder)
    assert (mixed >= torch.minimum(encoder, decoder) - 1e-6).all()
    assert (mixed <= torch.maximum(encoder, decoder) + 1e-6).all()


def test_a_reach_beyond_the_middle_is_refused_by_name() -> None:
    assert dilations_of(sides_of(64)[-1], 8) == [1, 2, 4, 8]
    with pytest.raises(EncoderError, match=r"expert\.filter\.reach: a dilation of 16 .* 8 x 8 .* 4 at most"):
        net(8, reach=16)


def test_what_is_wrong_at_one_place_does_not_move_another_beyond_the_reach() -> None:
    torch.manual_seed(0)
    small = net(24, reach=1)
    for parameter in small.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 5, 24, 24)
    changed = x.clone()
    changed[..., 0, 0] += 10
    moved = (small(changed) - small(x)).abs().amax(1)[0]
    assert moved[0, 0] > 0
    assert moved[12:, 12:].max() == 0
