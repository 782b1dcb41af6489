"""Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685): a product `up @ down` beside a weight that stays.

peft makes them and computes with them while they train. What they learnt is then added to the weights, which
takes torch alone: a run is used where peft is not installed. On disk an adapter is a folder in peft's layout;
`backbone.json` in it says what it was put on.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.layers import Conv2dSame
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError

Factors = dict[str, Tensor]  # `MODULE.lora_A.weight` (down) and `MODULE.lora_B.weight` (up), as peft names them
DOWN, UP = ".lora_A.", ".lora_B."
NAME = "default"  # peft's for the only one
PREFIX = "base_model.model."  # peft's, before every name in its files
ABOUT, WEIGHTS = "backbone.json", "adapter_model.safetensors"
RESIZED = "pos_embed"  # to the image size, and rounded otherwise by another version of torch


@dataclass(frozen=True)
class Backbone:
    """A pretrained encoder that is not kept because it can be had again.

    Attributes:
        name: `encoder.name` of the recipe.
        weights: where `load_pretrained` finds it; folders and files by their whole path.
        sha256: of its weights, see `digest`.
    """

    name: str
    weights: str
    sha256: str = ""


@dataclass(frozen=True)
class Adapter:
    """What was learnt beside a backbone's weights."""

    backbone: Backbone
    factors: Factors


def add_adapters(
    model: nn.Module,
    levels: Sequence[str],
    blocks: Sequence[str] | Literal["all"],
    rank: int,
    backbone: Backbone,
) -> Adapter:
    """Put an adapter beside every weight below the blocks that can have one, zero at first; nothing else of the
    model trains any more.

    Args:
        model: pretrained; changed in place.
        levels: modules that are left as they are.
        blocks: names of modules.
        rank: of each product.
        backbone: where the model can be had again.

    Raises:
        EncoderError: nothing to adapt, weights that cannot be had again, or peft is not installed.
    """
    if backbone.weights == "random":
        raise EncoderError(
            "encoder.adapt: lora keeps what changes beside weights that can be had again; random ones cannot; "
            "set encoder.adapt: full, or other encoder.weights"
        )
    names = targets(model, levels, blocks)
    if not names:
        raise EncoderError(
            "encoder.adapt: lora: no linear layer and no 1 x 1 convolution in "
            f"{backbone.name if blocks == 'all' else ', '.join(blocks)}; set encoder.adapt: full, or "
            "name other encoder.train_blocks"
        )
    adapter = Adapter(replace(backbone, sha256=digest(model)), {})
    _add(model, names, rank)
    return adapter


def targets(model: nn.Module, levels: Sequence[str], blocks: Sequence[str] | Literal["all"]) -> list[str]:
    """List linear layers and ungrouped 1 x 1 convolutions below the blocks that are no levels themselves."""
    return [
        name
        for name, module in model.named_modules()
        if _takes_product(module)
        and name not in levels
        and (blocks == "all" or any(f"{name}.".startswith(f"{block}.") for block in blocks))
    ]


def settle(model: nn.Module) -> Factors:
    """Add what all adapters learnt to the weights, and leave a plain timm model; what was added."""
    factors = drop_adapters(model)
    merge(model, factors)
    return factors


def drop_adapters(model: nn.Module) -> Factors:
    """Take all adapters out, and leave the model that they were put into; their factors, on the CPU."""
    trained = {name.replace(f".{NAME}.", "."): value for name, value in model.named_parameters()}
    factors = {name: each.detach().cpu() for name, each in trained.items() if DOWN in name or UP in name}
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer"):
            model.set_submodule(name, module.base_layer)
    model.__dict__.pop("peft_config", None)
    return factors


@torch.no_grad()
def merge(model: nn.Module, factors: Mapping[str, Tensor]) -> None:
    """Add each product `up @ down` to the weight it belongs to, in place; the same to the last bit whenever and
    wherever it is done.

    Raises:
        AttributeError, KeyError, RuntimeError: factors of another model.
    """
    for name, weight in adapted_weights(model, factors):
        up, down = (factors[f"{name}{part}weight"].flatten(1).double() for part in (UP, DOWN))
        weight.add_((up @ down).view(weight.shape).to(weight))


def adapted_weights(model: nn.Module, factors: Mapping[str, Tensor]) -> Iterator[tuple[str, nn.Parameter]]:
    """List the modules that factors belong to, by name, with their weights.

    Raises:
        AttributeError: factors of another model.
    """
    for name in [name.split(DOWN)[0] for name in factors if DOWN in name]:
        yield name, model.get_submodule(name).get_parameter("weight")


def mixable(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the `down` factors of adapters: between zero and what `up` became the product, and so the
    weight, moves along a straight line. Other weights are returned as they are."""
    return {name: value for name, value in weights.items() if DOWN not in name}


def digest(model: nn.Module) -> str:
    """Hash a model's weights and stored statistics (SHA-256), under their names; not the position embedding,
    which is resized to the image size."""
    content = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if value.is_floating_point() and not name.endswith(RESIZED):
            content.update(f"{name} {tuple(value.shape)} ".encode())
            content.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write an adapter as peft does, and what it belongs to."""
    downs = {name.split(DOWN)[0]: value for name, value in adapter.factors.items() if DOWN in name}
    rank = len(next(iter(downs.values())))
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.backbone.name,
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(downs),
        "inference_mode": True,
    }
    folder.mkdir(exist_ok=True)
    for name, values in (("adapter_config.json", config), (ABOUT, asdict(adapter.backbone))):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    tensors = {PREFIX + name: value.contiguous() for name, value in adapter.factors.items()}
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as cause:  # its name for a full disk
        raise OSError(f"{folder}: {cause}") from cause


def read_adapter(folder: Path) -> Adapter:
    """Read what `write_adapter` wrote.

    Raises:
        EncoderError: files that are missing or damaged.
    """
    try:
        about: Mapping[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        backbone = Backbone(**{key: str(about[key]) for key in ("name", "weights", "sha256")})
        stored = load_file(folder / WEIGHTS)
        if not any(DOWN in name for name in stored):
            raise ValueError(f"nothing of an adapter is in {WEIGHTS}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as cause:
        raise EncoderError(f"{folder}: the stored adapter is damaged ({cause})") from cause
    factors: Factors = {name.removeprefix(PREFIX): value for name, value in stored.items()}
    return Adapter(backbone, factors)


def _add(model: nn.Module, names: Sequence[str], rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as cause:
        raise EncoderError(
            "encoder.adapt: lora needs peft, which is not installed; pip install peft, or set "
            "encoder.adapt: full"
        ) from cause
    # with alpha = rank the product counts once: no factor to store and to forget
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(names)), model, NAME)


def _takes_product(module: nn.Module) -> bool:
    """Tell whether a module multiplies by its weight and does nothing else that may depend on it."""
    if isinstance(module, nn.Conv2d):
        return type(module) in (nn.Conv2d, Conv2dSame) and module.kernel_size == (1, 1) and module.groups == 1
    return type(module) is nn.Linear
