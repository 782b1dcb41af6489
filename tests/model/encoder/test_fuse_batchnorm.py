import copy

import numpy as np
import pytest
import torch
from settings import detector_settings
from torch import Tensor, nn

from anomaly_ft.model.compute import make_compute
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.gaussian.fitting import fit_detector
from anomaly_ft.model.inference import score_images


def lively(encoder: Encoder) -> Encoder:
    """Float64, with batch norms that do something."""
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.weight.data, 0.5),
                (module.running_var, 0.5),
                (module.running_mean, -1),
            ):
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
            module.bias.data.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return encoder.double()


@pytest.fixture(params=["test_efficientnet", "test_resnet", "test_vit"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return lively(load_encoder(request.param, "random", image_size=64))


def images(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), generator=torch.Generator().manual_seed(2))


def gradients(encoder: Encoder, loss: Tensor) -> list[Tensor]:
    encoder.zero_grad()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in encoder.parameters()]


def loss_of(encoder: Encoder) -> Tensor:
    return torch.stack([level.mean((2, 3)).square().mean() for level in encoder(images())]).sum()


def test_convolutions_of_an_efficientnet_take_all_batch_norms_in() -> None:
    encoder = load_encoder("tf_efficientnet_lite0", "random", image_size=64)
    norms = {name for name, module in encoder.model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert {norm for _, norm in encoder._pairs} == norms
    assert len(norms) == 49


def test_a_transformer_has_nothing_to_fold() -> None:
    assert load_encoder("test_vit", "random", image_size=64)._pairs == []


@torch.no_grad()
def test_features_stay_the_same(encoder: Encoder) -> None:
    expected = encoder(images())
    with encoder.folded():
        found = encoder(images())
    for level, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-10, atol=1e-10)


def test_gradients_reach_the_parameters_of_both(encoder: Encoder) -> None:
    expected = gradients(encoder, loss_of(encoder))
    with encoder.folded():
        loss = loss_of(encoder)
    found = gradients(encoder, loss)
    assert any(bool(gradient.any()) for gradient in expected)
    for gradient, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-10)


def test_afterwards_everything_is_as_before_whatever_happened(encoder: Encoder) -> None:
    before, parameters = copy.deepcopy(encoder.state_dict()), list(encoder.parameters())
    expected = encoder(images())
    with pytest.raises(KeyError), encoder.folded(), encoder.folded():
        raise KeyError
    assert all(a is b for a, b in zip(encoder.parameters(), parameters, strict=True))
    assert list(encoder.state_dict()) == list(before)
    assert all(torch.equal(encoder.state_dict()[name], tensor) for name, tensor in before.items())
    assert all(torch.equal(a, b) for a, b in zip(encoder(images()), expected, strict=True))


def test_a_convolution_that_is_a_level_keeps_its_features() -> None:
    encoder = lively(load_encoder("test_efficientnet", "random", levels=["conv_stem", "bn2"], image_size=64))
    assert "conv_stem" not in {conv for conv, _ in encoder._pairs}
    expected = encoder(images())
    with encoder.folded():
        for level, wanted in zip(encoder(images()), expected, strict=True):
            torch.testing.assert_close(level, wanted)


class Twice(nn.Module):
    """A convolution whose output goes to a batch norm and somewhere else, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.constant_(self.norm.weight, 3)

    def forward_features(self, x: Tensor) -> Tensor:
        given: Tensor = self.conv(x)
        return self.norm(given) + given


def test_nothing_is_folded_where_it_would_change_features() -> None:
    model = Twice()
    model.pretrained_cfg = {}  # type: ignore[assignment]
    last = nn.Identity()
    model.add_module("last", last)
    model.forward_features = lambda x: last(Twice.forward_features(model, x))  # type: ignore[method-assign]
    assert Encoder(model, ["last"], 32)._pairs == []


@pytest.mark.parametrize("how", ["checkpoint_gradients", "compile_parts"])
def test_what_computes_again_or_compiles_is_not_folded(how: str) -> None:
    encoder = load_encoder("test_efficientnet", "random", image_size=64)
    assert encoder._pairs
    getattr(encoder, how)()
    assert encoder._pairs == []


def test_scores_are_those_of_the_encoder_as_it_is() -> None:
    encoder = load_encoder("test_efficientnet", "random", image_size=64)
    compute = make_compute(device="cpu", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3), np.uint8)
    detector = fit_detector(encoder, pixels, pixels[:8], compute, detector_settings(grid=4, map_grid=4))
    found = score_images(detector, pixels, compute)
    with torch.no_grad():
        plain = detector.scores(encoder(compute.batch(pixels)))
    for name, scores in found.items():
        np.testing.assert_allclose(scores, plain[name], rtol=1e-3, atol=1e-3)
