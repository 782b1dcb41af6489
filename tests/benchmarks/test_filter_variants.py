"""Laws of what benchmarks put around a filter: the masked block predicts, the collapse adds a mean norm."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_ft.finetune.methods.filter import FilterMethod
from anomaly_ft.finetune.methods.filter_loss import batch_of
from anomaly_ft.model.compute import Compute, make_compute
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.filter.settings import FilterSettings

VARIANTS = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "filter_variants.py"))
SETTINGS = FilterSettings(
    "auto", 0, 128, width=16, reach=0, skips=True, smoothing=0.0, top=0.1, shrinkage=0.1, variance_floor=0.1,
    position="free", seed=0,
)  # fmt: skip
CHANNELS, SIDE = 6, 9


@pytest.fixture
def some_map() -> torch.Tensor:
    return torch.randn(2, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def compute() -> Compute:
    return make_compute(device="cpu", precision="fp32")


@pytest.fixture
def method(make_textures: Callable[[int, int, int], np.ndarray], compute: Compute) -> FilterMethod:
    """A method that was fitted to textures."""
    encoder = load_encoder("pixels", image_size=32).requires_grad_(requires_grad=False)
    images = {"train": make_textures(8, 32, 1), "val": make_textures(4, 32, 2)}
    made = FilterMethod(encoder, compute, SETTINGS, images.__getitem__, None, clean_weight=0.5)  # type: ignore[arg-type]
    made.fit()
    return made


def train(method: FilterMethod, seed: int) -> None:
    """Make the net give something else than half of its input."""
    torch.nn.init.normal_(method.made.net.leave.weight, std=0.1, generator=torch.Generator().manual_seed(seed))


class Times(torch.nn.Module):
    """A block that stretches."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


@pytest.fixture
def batch(make_textures: Callable[[int, int, int], np.ndarray]) -> torch.Tensor:
    clean, corrupted = (torch.from_numpy(make_textures(3, 32, k)).permute(0, 3, 1, 2) for k in (3, 4))
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[0, :7, :9] = True
    mask[1, 5, 5] = True
    return batch_of(clean, corrupted, mask)


def seen_from(module: torch.nn.Module, x: torch.Tensor, row: int, column: int) -> set[tuple[int, int]]:
    """The places, as offsets, whose values change what a module gives at one place."""
    x = x.clone().requires_grad_()
    module(x)[0, :, row, column].sum().backward()
    assert x.grad is not None
    moved = x.grad[0].abs().sum(0).nonzero().tolist()
    return {(r - row, c - column) for r, c in moved}


def test_a_masked_convolution_sees_the_four_corners_and_never_the_centre(some_map: torch.Tensor) -> None:
    torch.manual_seed(0)
    convolve = VARIANTS["MaskedConvolution"](CHANNELS)
    assert convolve(some_map).shape == some_map.shape
    far = VARIANTS["CORNER"]
    assert seen_from(convolve, some_map, 4, 4) == {(a, b) for a in (-far, far) for b in (-far, far)}
    assert seen_from(convolve, some_map, 0, 8) == {(far, -far)}, "zeros beyond the edge"


def test_the_masked_centre_changes_nothing_at_its_own_place(some_map: torch.Tensor) -> None:
    torch.manual_seed(0)
    convolve = VARIANTS["MaskedConvolution"](CHANNELS)
    other = some_map.clone()
    other[:, :, 4, 4] += 100
    before, after = convolve(some_map), convolve(other)
    assert torch.equal(before[:, :, 4, 4], after[:, :, 4, 4])
    assert not torch.equal(before, after), "it is a corner of other places"


def test_channel_attention_weighs_whole_channels_between_nothing_and_all(some_map: torch.Tensor) -> None:
    torch.manual_seed(0)
    weights = VARIANTS["ChannelAttention"](CHANNELS)(some_map) / some_map
    assert torch.allclose(weights, weights[:, :, :1, :1].expand_as(weights), atol=1e-5)
    assert ((weights > 0) & (weights < 1)).all()
    turned = VARIANTS["ChannelAttention"](CHANNELS)
    assert torch.allclose(turned(some_map.flip(3)), turned(some_map).flip(3), atol=1e-6), "wherever things are"


def test_the_mean_norm_is_that_of_loops_over_positions(some_map: torch.Tensor) -> None:
    where = torch.zeros(2, SIDE, SIDE)
    where[0, 2:5, 3] = 1
    values = some_map.double().numpy()
    norms = np.array(
        [[[np.sqrt(sum(v**2 for v in x[:, r, c])) for c in range(SIDE)] for r in range(SIDE)] for x in values]
    )
    mean_norm = VARIANTS["mean_norm"]
    assert mean_norm(some_map).numpy() == pytest.approx(norms.mean((1, 2)), rel=1e-5)
    found = mean_norm(some_map, where).numpy()
    assert found == pytest.approx([norms[0, 2:5, 3].mean(), 0], rel=1e-5), "nothing where no place counts"


def test_a_bottleneck_of_zeros_adds_nothing_and_can_be_trained() -> None:
    zero = torch.zeros(3, CHANNELS, SIDE, SIDE, requires_grad=True)
    term = VARIANTS["mean_norm"](zero)
    assert term.tolist() == [0, 0, 0]
    term.sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


@torch.no_grad()
def test_a_stretched_bottleneck_gives_a_higher_score_and_the_same_map(method: FilterMethod) -> None:
    plain = method.refit(
        "refit"
    ).detector  # untrained: the residual is half of the input, whatever the middle gives
    levels = method.encoder(method.compute.batch(method.inputs("val")))
    before = plain.scores(levels)["residual"]
    VARIANTS["collapse"](method, 0.5)
    watched, scored = method.made.net.middle, method.view(plain)  # type: ignore[arg-type]
    once = scored.scores(levels)["residual"]
    assert torch.allclose(once, before + 0.5 * VARIANTS["mean_norm"](watched.given), atol=1e-6)
    watched.block = Times(3)
    stretched = scored.scores(levels)["residual"]
    assert torch.allclose(stretched - before, 3 * (once - before), rtol=1e-4)
    assert (stretched > once).all()
    outputs = scored.outputs(levels, explain=True)
    assert torch.equal(outputs.score, stretched)
    assert torch.equal(outputs.maps["residual"], plain.outputs(levels, explain=True).maps["residual"])
    watched.block = Times(0)
    assert torch.equal(scored.scores(levels)["residual"], before), "a bottleneck of zeros adds nothing"


def test_validation_scores_with_the_collapse(method: FilterMethod) -> None:
    plain = method.refit("refit")
    VARIANTS["collapse"](method, 0.5)
    train(method, 0)  # the last refit is remembered as long as the net is the same
    assert (method.refit("refit").held_out > plain.held_out + 0.1).all()


def test_the_collapse_counts_positions_that_were_not_corrupted(
    method: FilterMethod, batch: torch.Tensor
) -> None:
    train(method, 0)
    plain = float(method.objective()(batch).detach())
    loss = VARIANTS["collapse"](method, 0.5)
    found = float(loss(batch).detach())
    norms = method.made.net.middle.made.detach().norm(dim=1).numpy()
    terms = []
    for image in range(3):
        mask = batch[image, 6].numpy().reshape(16, 2, 16, 2).any((1, 3))  # of the middle's 16 x 16 positions
        terms.append(norms[image][~mask].mean())
    assert found == pytest.approx(plain + 0.5 * np.mean(terms), rel=1e-5)


def test_the_masked_block_is_charged_for_what_it_did_not_foresee(
    method: FilterMethod, batch: torch.Tensor
) -> None:
    loss = VARIANTS["masked_block"](method, 0.5)
    train(method, 0)
    found, watched = float(loss(batch).detach()), method.made.net.middle
    plain = float(method.objective()(batch).detach())
    error = (watched.made - watched.given).detach().numpy()
    assert found == pytest.approx(plain + 0.5 * np.mean(error**2), rel=1e-5)
    assert torch.equal(watched.made, watched.block(watched.given))


@pytest.mark.parametrize("name", ["collapse", "masked_block"])
def test_an_untrained_filter_leaves_the_same_over_whatever_is_around_it(
    method: FilterMethod, name: str
) -> None:
    pixels = method.inputs("val")
    before = method.score(method.refit("refit").detector, pixels)
    torch.manual_seed(1)
    VARIANTS[name](method, 0.5)
    method.view = lambda detector: detector
    assert np.array_equal(method.score(method.refit("refit").detector, pixels), before)


@pytest.mark.parametrize("name", ["collapse", "masked_block"])
def test_parts_of_a_batch_give_the_loss_of_the_whole(
    method: FilterMethod, batch: torch.Tensor, name: str
) -> None:
    train(method, 0)
    loss = VARIANTS[name](method, 0.5)
    parts = [float(loss(batch[i : i + 1]).detach()) for i in range(3)]
    assert float(loss(batch).detach()) == pytest.approx(np.mean(parts), rel=1e-5)


def test_the_masked_block_trains_with_the_net_and_starts_the_same_whatever_was_drawn(
    method: FilterMethod, batch: torch.Tensor
) -> None:
    train(method, 0)
    starts = []
    for drawn in (1, 2):
        torch.manual_seed(drawn)
        loss = VARIANTS["masked_block"](method, 0.5)
        block = method.made.net.middle.block
        starts.append([p.detach().clone() for p in block.parameters()])
        method.made.net.middle = method.made.net.middle.middle
    assert all(torch.equal(a, b) for a, b in zip(*starts, strict=True))
    loss = VARIANTS["masked_block"](method, 0.5)
    loss(batch).backward()
    block = list(method.made.net.middle.block.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block[:2])
    trained = {id(p) for group in method.parameter_groups(1e-3, layer_decay=1) for p in group["params"]}
    assert {id(p) for p in block} <= trained
