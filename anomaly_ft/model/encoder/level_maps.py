"""Read a level of a timm model as a map: its stride, its names, and whether it is the map timm means."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from anomaly_ft.errors import EncoderError, did_you_mean

TOLERANCE = 1e-2  # of a map's largest value; a scrambled map is off by about as much as that value


def stride_of(image_size: int, side: int) -> int:
    """Compute the pixels from position to position of a map with `side` positions.

    Sides of convolutions are rounded up or down: 260 pixels at stride 16 make 17 positions. So the power of two
    that gives this side counts before the ratio; patches of 14 pixels divide their image evenly.

    >>> stride_of(260, 17), stride_of(300, 10), stride_of(224, 16), stride_of(299, 8)
    (16, 32, 14, 32)
    """
    power: int = 2 ** max(0, round(math.log2(image_size / side)))
    rounded = side in (image_size // power, -(-image_size // power))
    if rounded or image_size % side:
        return power
    return image_size // side


def way_out(model: nn.Module) -> str:
    """Advise what to do about levels that cannot be read."""
    tops = [name for name, _ in model.named_children()]
    return (
        "name modules that each give one map (n, channels, h, w) in expert.encoder.levels, "
        "or choose another encoder; "
        f"top modules of {type(model).__name__} are {', '.join(tops)}"
    )


def refuse_unnamed(model: nn.Module, levels: Sequence[str]) -> list[str]:
    """Refuse levels that timm names but that are no modules; returns the levels as a list.

    Raises:
        EncoderError: they are not all modules of the model.
    """
    modules = {name for name, _ in model.named_modules() if name}
    wrong = [level for level in levels if level not in modules]
    if wrong:
        named = ", ".join(filter(None, wrong)) or "nothing"
        trouble = f"expert.encoder.levels: timm's levels of {type(model).__name__} are no modules ({named})"
        raise EncoderError(f"{trouble}; {way_out(model)}")
    return list(levels)


def to_grid(model: nn.Module, output: Tensor) -> Tensor:
    """Reshape a level's output to `(n, d, h, w)`: patch tokens become a grid, channels come second.

    Raises:
        EncoderError: it is no tensor, or its positions make no grid.
    """
    if not isinstance(output, Tensor) or output.dim() not in (3, 4):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise EncoderError(f"expert.encoder.levels: a level gives no map but {shape}; {way_out(model)}")
    if output.dim() == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        if last:
            return output.permute(0, 3, 1, 2)
        return output
    prefix: int = getattr(model, "num_prefix_tokens", 0)
    tokens = output[:, prefix:].mT  # (n, d, positions)
    height, width = getattr(getattr(model, "patch_embed", None), "grid_size", None) or (0, 0)
    if height * width == tokens.shape[2]:
        return tokens.reshape(*tokens.shape[:2], height, width)
    side = math.isqrt(tokens.shape[2])
    if side**2 != tokens.shape[2]:
        raise EncoderError(
            f"expert.encoder.levels: {tokens.shape[2]} positions make no square grid "
            f"after {prefix} prefix tokens; " + way_out(model)
        )
    return tokens.reshape(*tokens.shape[:2], side, -1)


def refuse_scrambled(model: nn.Module, levels: Sequence[str], maps: Sequence[Tensor], images: Tensor) -> None:
    """Compare the maps `(n, d_l, h_l, w_l)` of normalised images with those that timm reads itself.

    Levels that timm does not name, and models without `forward_intermediates`, cannot be compared.

    Raises:
        EncoderError: a map whose positions or channels are not where timm has them.
    """
    theirs = _read_by_timm(model, images)
    for level, ours in zip(levels, maps, strict=True):
        their = theirs.get(level)
        if their is None:
            continue
        if ours.shape != their.shape or (ours - their).abs().max() > TOLERANCE * their.abs().max():
            raise EncoderError(
                f"expert.encoder.levels: {level} of {type(model).__name__} is not laid out "
                "as the map that timm reads "
                f"{tuple(their.shape[1:])}; defects would be found in wrong places; choose another encoder"
            )


def _read_by_timm(model: Any, images: Tensor) -> dict[str, Tensor]:
    """Read the maps of the levels that timm names, by module."""
    info = getattr(model, "feature_info", None)
    if not info or not hasattr(model, "forward_intermediates"):
        return {}
    names = [stage["module"] for stage in (info if isinstance(info, list) else info.info)]
    try:
        with torch.no_grad():
            maps = model.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    except (AssertionError, NotImplementedError, RuntimeError, TypeError):  # not every model takes it
        return {}
    if len(names) != len(maps):
        return {}
    return dict(zip(names, maps, strict=True))


def known_levels(model: nn.Module) -> list[str]:
    """List the names of all levels: each stage timm knows, plus stem and head convolution where there are
    any.

    For an EfficientNet these are the nine levels of Rippel et al. (IEEE TIM 70, 2021): stem, seven
    stages, head convolution, each after its normalisation and activation.
    """
    children = dict(model.named_children())
    blocks = children.get("blocks")
    if "conv_stem" in children and isinstance(blocks, nn.Sequential):
        names = ["bn1", *(f"blocks.{i}" for i in range(len(blocks)))]
        if "bn2" not in children:
            return names
        return [*names, "bn2"]
    info = getattr(model, "feature_info", None)
    if not info:
        raise EncoderError(
            f"expert.encoder.levels: timm does not say which levels {type(model).__name__} has; "
            "name modules yourself"
        )
    return refuse_unnamed(model, [stage["module"] for stage in (info if isinstance(info, list) else info.info)])


def choose_levels(model: nn.Module, levels: Sequence[str | int] | Literal["all"]) -> list[str]:
    """Resolve the wanted levels, given as names or as indices into `known_levels`, to module names.

    Raises:
        EncoderError: an index out of range, a name that is no module, none at all, or one twice.
    """
    if levels == "all":
        return known_levels(model)
    modules = [name for name, _ in model.named_modules() if name]
    chosen = []
    for level in levels:
        known = known_levels(model) if isinstance(level, int) else modules
        if isinstance(level, int) and not -len(known) <= level < len(known):
            raise EncoderError(
                f"expert.encoder.levels: no level {level}; there are {len(known)}: {', '.join(known)}"
            )
        name = known[level] if isinstance(level, int) else level
        if name not in known:
            raise EncoderError(
                f"expert.encoder.levels: no module {name!r}{did_you_mean(name, known)}; "
                f"levels are {', '.join(known_levels(model))}"
            )
        chosen.append(name)
    if not chosen or len(set(chosen)) != len(chosen):
        raise EncoderError(f"expert.encoder.levels: expected one or more different levels, got {list(levels)}")
    return chosen
