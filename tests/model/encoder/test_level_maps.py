"""Levels are read as timm reads them, or refused in one line that says what to do."""

import re

import pytest
import timm
import torch
from torch import nn

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder
from anomaly_ft.model.encoder.level_maps import stride_of
from anomaly_ft.model.gaussian.levels import choose_dense_levels, choose_map_levels


@pytest.mark.parametrize("size", [224, 240, 256, 260, 300, 380])
def test_the_same_levels_are_chosen_at_every_image_size(size: int) -> None:
    encoder = load_encoder("tf_efficientnet_lite0", "random", image_size=size)
    assert encoder.strides == (2, 2, 4, 8, 16, 16, 32, 32, 32)
    assert choose_dense_levels(encoder, "auto") == [4, 5, 6]
    assert choose_map_levels(encoder, "auto") == [2, 3, 4]


@pytest.mark.parametrize("size", [224, 299, 300])
def test_strides_are_the_reductions_that_timm_knows(size: int) -> None:
    encoder = load_encoder("resnet18", "random", image_size=size)
    assert list(encoder.strides) == [stage["reduction"] for stage in timm.create_model("resnet18").feature_info]


def test_patches_that_divide_their_image_keep_their_size() -> None:
    for patch in (8, 14, 16, 32):
        assert {stride_of(patch * side, side) for side in (14, 16, 37)} == {patch}


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("hrnet_w18_small", 224, "levels of HighResolutionNet are no modules (stem"),
        ("twins_pcpvt_small", 224, "levels of Twins are no modules (block.0"),
        ("mvitv2_tiny", 224, "levels of MultiScaleVit are no modules (block.0"),
        ("tresnet_m", 224, "levels of TResNet are no modules (nothing)"),
        ("crossvit_tiny_240", 240, "a level gives no map but list"),
        ("selecsls42b", 224, "a level gives no map but list"),
        ("coat_lite_tiny", 224, "features do not pass through serial_blocks1"),
        ("cait_xxs24_224", 224, "195 positions make no square grid after 1 prefix tokens"),
        ("convit_tiny", 224, "195 positions make no square grid"),
        ("xcit_nano_12_p16_224", 224, "195 positions make no square grid"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_levels_that_cannot_be_read_are_refused_with_a_way_out(name: str, size: int, why: str) -> None:
    with pytest.raises(EncoderError, match=re.escape(why)) as error:
        load_encoder(name, "random", image_size=size)
    said = str(error.value)
    assert said.startswith("expert.encoder.levels: ")
    assert re.search(r"modules that each give one map .* in expert\.encoder\.levels, or choose another", said)
    assert re.search(r"top modules of \w+ are \w+", said)
    assert "\n" not in said


def test_named_modules_are_the_way_out() -> None:
    encoder = load_encoder("hrnet_w18_small", "random", levels=["act2", "layer1"], image_size=64)
    assert encoder.strides == (4, 4)


@pytest.mark.parametrize("name", ["hiera_tiny_224", "samvit_base_patch16_224"])
def test_maps_that_timm_lays_out_otherwise_are_refused(name: str) -> None:
    with pytest.raises(EncoderError, match=r"blocks\.0 of \w+ is not laid out as the map that timm reads"):
        load_encoder(name, "random", image_size=224)


class Shuffled(nn.Module):
    """A model whose intermediates are its level's positions in another order, or cannot be had."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.feature_info = [{"module": "conv", "num_chs": 4, "reduction": 4}]
        self.conv, self.order = nn.Conv2d(3, 4, 4, 4), order

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)

    def forward_intermediates(self, x: torch.Tensor, **_: object) -> list[torch.Tensor]:
        if self.order == "unknown":
            raise NotImplementedError
        return [self.conv(x).flip(3) if self.order == "flipped" else self.conv(x)]


@pytest.mark.parametrize("order", ["same", "unknown", "flipped"])
def test_a_map_is_compared_with_timms_where_timm_has_one(order: str) -> None:
    if order == "flipped":
        with pytest.raises(EncoderError, match="conv of Shuffled is not laid out"):
            Encoder(Shuffled(order), ["conv"], 32)
    else:
        assert Encoder(Shuffled(order), ["conv"], 32).strides == (4,)
