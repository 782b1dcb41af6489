"""The loss of a filter, against its formula written out in loops."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from anomaly_ft.finetune.methods.filter_loss import FilterLoss, batch_of
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.filter.detector import Filter, FilterSpace
from anomaly_ft.model.filter.net import make_net
from anomaly_ft.model.filter.place import choose_filter_levels, place_of
from anomaly_ft.model.filter.settings import FilterSettings

SETTINGS = FilterSettings(
    "auto", 0, 128, width=16, reach=0, skips=True, smoothing=0.0, top=0.1, shrinkage=0.1, variance_floor=0.1,
    position="free", seed=0,
)  # fmt: skip


@pytest.fixture
def made() -> Filter:
    encoder = load_encoder("pixels", image_size=32).requires_grad_(requires_grad=False)
    space = FilterSpace(place_of(encoder, SETTINGS), torch.zeros(3), torch.eye(3))
    net = make_net(3, 32, width=16, reach=0, skips=True, seed=0)
    torch.nn.init.normal_(net.leave.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    return Filter(encoder, space, net, SETTINGS)


@pytest.fixture
def batch(make_textures: Callable[[int, int, int], np.ndarray]) -> torch.Tensor:
    clean, corrupted = (torch.from_numpy(make_textures(3, 32, k)).permute(0, 3, 1, 2) for k in (1, 2))
    mask = torch.zeros(3, 32, 32, dtype=torch.bool)
    mask[0, :4, :8] = True
    mask[1, 5, 5] = True  # the third image is not corrupted
    return batch_of(clean, corrupted, mask)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_each_part_is_averaged_over_its_own_area(made: Filter, batch: torch.Tensor, weight: float) -> None:
    loss = float(FilterLoss(made, weight)(batch).detach())
    whole = []
    with torch.no_grad():
        wanted, given = (batch[:, part].float() / 127.5 - 1 for part in (slice(0, 3), slice(3, 6)))
        error = (made.net(given) - wanted).square().numpy()
    for image in range(3):
        parts: tuple[list[float], list[float]] = ([], [])
        for row in range(32):
            for column in range(32):
                parts[int(batch[image, 6, row, column])].append(float(error[image, :, row, column].mean()))
        clean, wrong = (np.mean(part) if part else 0.0 for part in parts)
        whole.append(weight * clean + (1 - weight) * wrong)
    assert loss == pytest.approx(np.mean(whole), rel=1e-4)


def test_the_net_alone_trains(made: Filter, batch: torch.Tensor) -> None:
    loss = FilterLoss(made, 0.5)
    loss(batch).backward()
    assert {name.split(".")[0] for name, p in loss.named_parameters() if p.grad is not None} == {"net"}


def test_parts_of_a_batch_give_the_loss_of_the_whole(made: Filter, batch: torch.Tensor) -> None:
    loss = FilterLoss(made, 0.5)
    parts = [float(loss(batch[i : i + 1]).detach()) for i in range(3)]
    assert float(loss(batch).detach()) == pytest.approx(np.mean(parts), rel=1e-5)


def test_levels_are_those_that_localise_and_those_that_know() -> None:
    encoder = load_encoder("test_efficientnet", "random", image_size=64)
    chosen = choose_filter_levels(encoder, "auto")
    strides = [encoder.strides[i] for i in chosen]
    assert strides == sorted(strides)
    assert strides[0] == 8
    assert strides.count(16) == encoder.strides.count(16)
    assert place_of(encoder, SETTINGS).grid == 8, "as fine as the finest level"
    assert choose_filter_levels(load_encoder("pixels", image_size=32), "auto") == [0]
