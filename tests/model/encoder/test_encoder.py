import math
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder, pool
from anomaly_ft.model.encoder.level_maps import choose_levels, known_levels


def some_images(size: int = 64, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def normalised(encoder: Encoder, images: Tensor) -> Tensor:
    """What timm's own transforms would hand to the model."""
    config = timm.data.resolve_model_data_config(encoder.model)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    return (images / 255 - mean) / std


@pytest.fixture
def small() -> Encoder:
    return load_encoder("test_efficientnet", "random", image_size=64)


@pytest.mark.parametrize(
    "name",
    ["test_vit", "test_vit2", "test_convnext", "test_byobnet", "test_nfnet", "swin_tiny_patch4_window7_224"],
)
@torch.no_grad()
def test_levels_are_the_intermediates_that_timm_gives(name: str) -> None:
    encoder = load_encoder(name, "random", image_size=64)
    images = some_images()
    expected = encoder.model.forward_intermediates(normalised(encoder, images), intermediates_only=True)
    maps = encoder(images)
    assert len(maps) == len(expected)
    for level, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_efficientnet_levels_are_stem_stages_and_head_after_their_activation(small: Encoder) -> None:
    images, model = some_images(), small.model
    x = model.bn1(model.conv_stem(normalised(small, images)))
    expected = [x]
    for stage in model.blocks:
        x = stage(x)
        expected.append(x)
    expected.append(model.bn2(model.conv_head(x)))
    for level, wanted in zip(small(images), expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-4, atol=1e-4)


def test_lite0_has_nine_levels_with_the_widths_of_the_paper() -> None:
    encoder = load_encoder("tf_efficientnet_lite0", "random", image_size=64)
    assert encoder.levels == ("bn1", *(f"blocks.{i}" for i in range(7)), "bn2")
    assert encoder.widths == (32, 16, 24, 40, 80, 112, 192, 320, 1280)
    assert encoder.strides == (2, 2, 4, 8, 16, 16, 32, 32, 32)


@torch.no_grad()
def test_vision_transformers_are_pooled_over_patches_without_the_class_token() -> None:
    encoder = load_encoder("vit_tiny_patch16_224", "random", levels=[3, -1], image_size=32)
    images, model = some_images(32), encoder.model
    patches = model.patch_embed(normalised(encoder, images))
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), patches], 1) + model.pos_embed
    outputs = []
    for block in model.blocks:
        tokens = block(tokens)
        outputs.append(tokens)
    expected = [outputs[3][:, 1:].mean(1), outputs[11][:, 1:].mean(1)]
    assert encoder.levels == ("blocks.3", "blocks.11")
    assert encoder.strides == (16, 16)
    for features, wanted in zip(pool(encoder(images)), expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=1e-4, atol=1e-5)


def test_pooled_features_are_the_mean_over_positions_in_float32() -> None:
    maps = [torch.rand(2, 3, 4, 5, dtype=torch.bfloat16), torch.rand(2, 7, 1, 1)]
    features = pool(maps)
    assert [f.shape for f in features] == [(2, 3), (2, 7)]
    assert all(f.dtype == torch.float32 for f in features)
    torch.testing.assert_close(features[0], maps[0].float().mean((2, 3)))


def test_training_changes_no_statistics_and_drops_nothing(small: Encoder) -> None:
    small.train()
    assert not any(module.training for module in small.modules())
    before = {name: buffer.clone() for name, buffer in small.named_buffers()}
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    loss = sum(features.square().mean() for features in pool(small(some_images())))
    loss.backward()
    optimizer.step()
    for name, buffer in small.named_buffers():
        assert torch.equal(buffer, before[name]), name
    assert any("running_mean" in name for name in before)


def test_gradients_reach_the_first_convolution(small: Encoder) -> None:
    pool(small(some_images()))[0].mean().backward()
    assert small.model.conv_stem.weight.grad.abs().sum() > 0


def test_only_the_named_blocks_train(small: Encoder) -> None:
    count = small.train_only(["blocks.1", "bn2"])
    trainable = [name for name, p in small.model.named_parameters() if p.requires_grad]
    assert trainable
    assert {name.rsplit(".", 1)[0].split(".")[0] for name in trainable} == {"blocks", "bn2"}
    assert all(name.startswith(("blocks.1.", "bn2.")) for name in trainable)
    expected = [small.model.blocks[1], small.model.bn2]
    assert count == sum(p.numel() for module in expected for p in module.parameters())
    assert small.train_only("all") == sum(p.numel() for p in small.model.parameters())


def test_a_block_that_does_not_exist_is_an_error(small: Encoder) -> None:
    with pytest.raises(
        EncoderError, match=r"train_blocks: no module 'block\.1' \(did you mean 'blocks\.1'\?\); top"
    ):
        small.train_only(["block.1"])


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (
            ["blokcs.2"],
            r"encoder\.levels: no module 'blokcs\.2' \(did you mean 'blocks\.2'\?\); levels are bn1, ",
        ),
        ([9], "no level 9; there are 7: bn1, blocks.0, "),
        ([-8], "no level -8; there are 7"),
        ([], r"expected one or more different levels, got \[\]"),
        (["blocks.0", 1], r"expected one or more different levels, got \['blocks.0', 1\]"),
    ],
)
def test_levels_that_do_not_fit_are_errors(levels: list[str | int], message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        load_encoder("test_efficientnet", "random", levels=levels, image_size=64)


def test_levels_are_chosen_by_name_or_index_in_the_order_given(small: Encoder) -> None:
    assert choose_levels(small.model, ["blocks.4", 0, -1]) == ["blocks.4", "bn1", "bn2"]


def test_a_model_without_feature_info_has_its_levels_named_by_hand() -> None:
    with pytest.raises(EncoderError, match="does not say which levels Sequential has; name modules yourself"):
        known_levels(nn.Sequential(nn.Linear(1, 1)))


@torch.no_grad()
def test_a_saved_encoder_gives_the_same_outputs_in_timm(small: Encoder, tmp_path: Path) -> None:
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    images = some_images()
    small.to(memory_format=torch.channels_last).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}

    whole = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    inputs = normalised(small, images)
    torch.testing.assert_close(whole(inputs), small.model(inputs))
    assert timm.data.resolve_model_data_config(whole)["input_size"] == (3, 64, 64)

    stages = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True).eval()
    maps = dict(zip(small.levels, small(images), strict=True))
    names = stages.feature_info.module_name()
    assert names
    for name, output in zip(names, stages(inputs), strict=True):
        torch.testing.assert_close(output, maps[name], rtol=1e-4, atol=1e-5)


def test_saving_leaves_the_encoder_as_it_was(small: Encoder, tmp_path: Path) -> None:
    small.to(memory_format=torch.channels_last)
    small.train_only(["bn2"])
    small.save(tmp_path)
    assert small.model.blocks[1][0].conv_exp.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.model.conv_stem.weight.requires_grad
    assert len(small(some_images())) == len(small.levels)


def test_tokens_that_make_no_square_are_an_error() -> None:
    with pytest.raises(EncoderError, match=r"3 positions make no square grid"):
        load_encoder("vit_tiny_patch16_224", "random", levels=["patch_embed.norm"], image_size=32)


def test_each_layer_learns_slower_than_the_layer_after_it() -> None:
    encoder = load_encoder("test_efficientnet", "random", levels=[1, 3], image_size=32)
    groups = encoder.parameter_groups(0.1, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(encoder.model.named_parameters())
    assert rates.keys() == {id(p) for p in named.values()}
    first, last = rates[id(named["conv_stem.weight"])], max(rates.values())
    assert last == pytest.approx(0.1)
    assert first < rates[id(named["blocks.1.0.conv_exp.weight"])] < last
    halvings = [math.log2(last / rate) for rate in rates.values()]
    assert halvings == pytest.approx([round(halving) for halving in halvings])


def test_blocks_of_a_transformer_learn_slower_than_those_after_them() -> None:
    encoder = load_encoder("test_vit", "random", image_size=32)
    groups = encoder.parameter_groups(0.1, layer_decay=0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(encoder.model.named_parameters())
    of_blocks = [rates[id(named[f"blocks.{i}.attn.qkv.weight"])] for i in range(6)]
    factors = [after / before for before, after in pairwise(of_blocks)]
    assert factors == pytest.approx([2.0] * 5)
    assert rates[id(named["patch_embed.proj.weight"])] < of_blocks[0]
    assert rates[id(named["pos_embed"])] < of_blocks[0]


def test_without_layer_decay_all_layers_learn_alike_and_frozen_ones_not_at_all() -> None:
    encoder = load_encoder("test_efficientnet", "random", levels=[1, 3], image_size=32)
    encoder.train_only(["blocks.3"])
    groups = encoder.parameter_groups(0.1)
    assert {group["lr"] for group in groups} == {0.1}
    assert {id(p) for group in groups for p in group["params"]} == {
        id(p)
        for p in encoder.model.blocks[3].parameters()  # type: ignore[index, union-attr]
    }
