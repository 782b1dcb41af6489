"""Adapters: what they change, what they leave, what a run folder keeps of them. peft is the second opinion."""

import copy
import json
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.adapters import digest, drop_adapters, merge, mixable
from anomaly_ft.model.encoder.encoder import Encoder, load_encoder, load_with_timm
from anomaly_ft.model.run_encoder import encoder_of

SIZE = {"test_efficientnet": 32, "test_vit": 160}
each_kind = pytest.mark.parametrize("name", list(SIZE))


@pytest.fixture(autouse=True)
def _peft() -> None:
    pytest.importorskip("peft", reason="peft is not installed: pip install peft")


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, str]:
    """A file of weights for each kind of encoder."""
    files = {}
    for name in SIZE:
        torch.manual_seed(1)
        file = tmp_path / f"{name}.safetensors"
        save_file(timm.create_model(name, num_classes=0).state_dict(), file)
        files[name] = str(file)
    return files


def load(name: str, weights: dict[str, str]) -> Encoder:
    levels = ["blocks.1", "blocks.3"] if name == "test_efficientnet" else ["blocks.1", "blocks.4"]
    return load_encoder(name, weights[name], levels=levels, image_size=SIZE[name])


def adapted(name: str, weights: dict[str, str], *, blocks: list[str] | None = None, rank: int = 2) -> Encoder:
    encoder = load(name, weights)
    encoder.train_only(blocks or "all")
    encoder.adapt(blocks or "all", rank, name=name, weights=weights[name])
    return encoder


def images(name: str) -> Tensor:
    return 255 * torch.rand(2, 3, SIZE[name], SIZE[name], generator=torch.Generator().manual_seed(2))


def train(encoder: Encoder, name: str) -> list[Tensor]:
    """Move all adapters a good way, and give the levels there."""
    optimizer = torch.optim.Adam(encoder.parameter_groups(0.02))
    for _ in range(3):
        sum(level.square().mean() for level in encoder(images(name))).backward()  # type: ignore[union-attr]
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return encoder(images(name))


def assert_close(levels: list[Tensor], others: list[Tensor], tolerance: float = 1e-5) -> None:
    for level, other in zip(levels, others, strict=True):
        assert float((level - other).abs().max()) <= tolerance * float(other.abs().max())


@each_kind
@torch.no_grad()
def test_new_adapters_change_no_number(name: str, weights: dict[str, str]) -> None:
    before = load(name, weights)(images(name))
    for level, other in zip(adapted(name, weights)(images(name)), before, strict=True):
        assert torch.equal(level, other)


@each_kind
def test_dropped_adapters_leave_the_pretrained_encoder_bit_for_bit(name: str, weights: dict[str, str]) -> None:
    encoder = adapted(name, weights)
    with torch.no_grad():
        before = load(name, weights)(images(name))
    moved = train(encoder, name)
    assert not torch.allclose(moved[-1], before[-1], atol=1e-3), "training moved it"
    drop_adapters(encoder.model)
    stored, now = load_file(weights[name]), encoder.model.state_dict()
    assert list(now) == list(timm.create_model(name, num_classes=0).state_dict())
    assert all(torch.equal(now[key], stored[key]) for key in stored if key != "pos_embed")


def test_only_linear_layers_and_whole_one_by_one_convolutions_get_one(weights: dict[str, str]) -> None:
    plain = dict(load("test_efficientnet", weights).model.named_modules())
    wanted = set()
    for module_name, module in plain.items():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Conv2d) and tuple(weight.shape[1:]) == (module.in_channels, 1, 1):
            wanted.add(module_name)
        if isinstance(module, nn.Linear):
            wanted.add(module_name)
    encoder = adapted("test_efficientnet", weights)
    names = {key.split(".lora_")[0] for key, p in encoder.model.named_parameters() if p.requires_grad}
    assert names == wanted
    assert any(m.groups > 1 for m in plain.values() if isinstance(m, nn.Conv2d)), "there are depthwise ones"


def test_adapters_stay_within_the_blocks_that_train(weights: dict[str, str]) -> None:
    encoder = adapted("test_vit", weights, blocks=["blocks.4", "blocks.5"])
    trained = {key.split(".")[1] for key, p in encoder.model.named_parameters() if p.requires_grad}
    assert trained == {"4", "5"}
    assert encoder.tail[:2] == ["blocks.4", "blocks.5"], "what comes before them is computed once"
    with torch.no_grad():
        behind, whole = encoder(encoder.early_activations(images("test_vit"))), encoder(images("test_vit"))
    assert_close(behind, whole)


def test_folding_takes_adapters_along_and_gradients_reach_them(weights: dict[str, str]) -> None:
    name = "test_efficientnet"
    encoder = adapted(name, weights)
    train(encoder, name)
    gradients, maps = [], []
    for fold in (False, True):
        encoder.zero_grad()
        if fold:
            with encoder.folded():
                levels = encoder(images(name))
        else:
            levels = encoder(images(name))
        sum(level.square().mean() for level in levels).backward()  # type: ignore[union-attr]
        gradients.append({key: p.grad.clone() for key, p in encoder.named_parameters() if p.grad is not None})
        maps.append([level.detach() for level in levels])
    assert_close(*maps)
    assert gradients[0].keys() == gradients[1].keys()
    assert all("lora_" in key for key in gradients[0])
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][key], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())
        )


@each_kind
def test_merging_changes_no_feature(name: str, weights: dict[str, str]) -> None:
    encoder = adapted(name, weights)
    apart = train(encoder, name)
    encoder.settle()
    assert not any("lora" in key for key in encoder.model.state_dict())
    with torch.no_grad():
        assert_close(encoder(images(name)), apart)
        with encoder.folded():
            assert_close(encoder(images(name)), apart)


@each_kind
def test_peft_reads_the_folder_and_merges_it_alike(name: str, weights: dict[str, str], tmp_path: Path) -> None:
    from peft import PeftModel

    encoder = adapted(name, weights)
    train(encoder, name)
    encoder.settle()
    encoder.keep(tmp_path, resize="stretch")
    theirs = PeftModel.from_pretrained(load(name, weights).model, tmp_path / "adapter").merge_and_unload()
    ours = encoder.model.state_dict()
    assert theirs.state_dict().keys() == ours.keys()
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours[key], value, rtol=1e-5, atol=1e-6)


@each_kind
def test_a_run_keeps_the_adapter_alone_and_gives_back_the_same_bits(
    name: str, weights: dict[str, str], tmp_path: Path
) -> None:
    encoder = adapted(name, weights)
    train(encoder, name)
    (tmp_path / "encoder").mkdir()  # of the best epoch, while the run was training
    encoder.settle()
    assert encoder.keep(tmp_path, resize="stretch") == name
    assert not (tmp_path / "encoder").exists()
    kept = sum(file.stat().st_size for file in (tmp_path / "adapter").iterdir())
    assert kept < Path(weights[name]).stat().st_size / 2
    read = encoder_of(tmp_path, {"encoder": name, "levels": encoder.levels, "image_size": SIZE[name]})
    for key, value in read.model.state_dict().items():
        assert torch.equal(value, encoder.model.state_dict()[key]), key
    again = tmp_path / "again"
    again.mkdir()
    read.keep(again, resize="stretch")  # as `update` does, where there is no peft
    for file in (tmp_path / "adapter").iterdir():
        assert file.read_bytes() == (again / "adapter" / file.name).read_bytes()


def test_an_encoder_that_still_trains_is_saved_as_a_plain_timm_model(
    weights: dict[str, str], tmp_path: Path
) -> None:
    name = "test_efficientnet"
    encoder = adapted(name, weights)
    apart = train(encoder, name)
    encoder.save(tmp_path / "encoder")
    with torch.no_grad():
        assert_close(load_with_timm(tmp_path / "encoder", encoder.levels, SIZE[name])(images(name)), apart)
        assert_close(encoder(images(name)), apart, 0)  # and goes on as it was


def test_half_of_the_mixture_is_half_way_between_the_weights(weights: dict[str, str]) -> None:
    name = "test_efficientnet"
    encoder = adapted(name, weights)
    train(encoder, name)
    mixed, whole = copy.deepcopy(encoder.model), copy.deepcopy(encoder.model)
    parameters = dict(mixed.named_parameters())
    zero = mixable({key: torch.zeros_like(p) for key, p in parameters.items() if "lora_" in key})
    with torch.no_grad():
        for key, value in zero.items():
            parameters[key].copy_(value.lerp(parameters[key], 0.5))
    ends = load(name, weights).model.state_dict()
    for model in (mixed, whole):
        factors = drop_adapters(model)
        merge(model, factors)
    for key, value in mixed.named_parameters():
        half_way = (ends[key] + whole.get_parameter(key)) / 2
        torch.testing.assert_close(value, half_way, rtol=1e-4, atol=1e-6, check_device=False)


def test_blocks_without_such_layers_are_refused(weights: dict[str, str]) -> None:
    with pytest.raises(
        EncoderError, match=r"^encoder\.adapt: lora: no linear layer .* in bn1; set encoder"
    ) as e:
        adapted("test_efficientnet", weights, blocks=["bn1"])
    assert "\n" not in str(e.value)


def test_without_peft_one_line_says_how_to_get_it(
    weights: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(EncoderError, match=r"^encoder\.adapt: lora needs peft.*; pip install peft, or .*full$"):
        adapted("test_efficientnet", weights)


def test_random_weights_get_no_adapter() -> None:
    encoder = load_encoder("test_efficientnet", "random", image_size=32)
    with pytest.raises(EncoderError, match=r"^encoder\.adapt: lora keeps .* random ones cannot; set enc"):
        encoder.adapt("all", 2, name="test_efficientnet", weights="random")


@pytest.fixture
def kept(weights: dict[str, str], tmp_path: Path) -> Path:
    """A run's folder, and a backbone that lies elsewhere."""
    encoder = adapted("test_efficientnet", weights)
    encoder.settle()
    folder = tmp_path / "run"
    folder.mkdir()
    encoder.keep(folder, resize="stretch")
    return folder


def read(folder: Path) -> Encoder:
    return encoder_of(folder, {"encoder": "test_efficientnet", "levels": ["blocks.1"], "image_size": 32})


def test_a_run_without_its_backbone_says_which_it_needs(kept: Path, weights: dict[str, str]) -> None:
    backbone = load("test_efficientnet", weights)
    Path(weights["test_efficientnet"]).unlink()
    wanted = f"sha256 {digest(backbone.model)}; bring it back, or put a timm folder of it at {kept / 'encoder'}"
    with pytest.raises(EncoderError) as refused:
        read(kept)
    assert "run needs its backbone test_efficientnet, weights from " in str(refused.value)
    assert weights["test_efficientnet"] in str(refused.value)
    assert wanted in str(refused.value)
    backbone.save(kept / "encoder")  # the way out
    assert read(kept).widths


def test_a_backbone_of_other_weights_is_refused(kept: Path, weights: dict[str, str]) -> None:
    other = timm.create_model("test_efficientnet", num_classes=0)
    save_file(other.state_dict(), weights["test_efficientnet"])
    with pytest.raises(EncoderError, match=rf"the one found has sha256 {digest(other)}; bring it back"):
        read(kept)


def test_a_damaged_adapter_is_refused(kept: Path) -> None:
    for file in sorted((kept / "adapter").iterdir()):
        if file.name == "adapter_config.json":
            continue  # for peft alone
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(EncoderError, match="adapter: the stored adapter is damaged"):
            read(kept)
        file.unlink()
        with pytest.raises(EncoderError, match="adapter: the stored adapter is damaged"):
            read(kept)
        file.write_bytes(whole)
    assert read(kept).adapter
    save_file({"weight": torch.zeros(1)}, kept / "adapter" / "adapter_model.safetensors")
    with pytest.raises(EncoderError, match=r"damaged .nothing of an adapter is in adapter_model"):
        read(kept)


def test_an_adapter_of_another_model_is_refused(kept: Path) -> None:
    file = kept / "adapter" / "adapter_model.safetensors"
    for change in (
        lambda tensors: {key.replace("blocks.1", "stages.1"): value for key, value in tensors.items()},
        lambda tensors: {key: value for key, value in tensors.items() if "lora_B" not in key},
        lambda tensors: {key: value[:, :1] for key, value in tensors.items()},
    ):
        before = file.read_bytes()
        save_file({key: value.contiguous() for key, value in change(load_file(file)).items()}, file)
        with pytest.raises(EncoderError, match="does not fit its backbone test_efficientnet"):
            read(kept)
        file.write_bytes(before)


def test_the_hash_is_of_weights_and_names_not_of_the_image_size(weights: dict[str, str]) -> None:
    model = load("test_vit", weights).model
    larger = load_encoder("test_vit", weights["test_vit"], levels=["blocks.1"], image_size=192).model
    assert digest(model) == digest(larger)
    with torch.no_grad():
        model.get_parameter("norm.weight")[0] += 1
    assert digest(model) != digest(larger)
    assert json.dumps(digest(model)).strip('"').isalnum()
