"""Fuse batch norms into the convolutions before them: the same function with one operation less for each.

In evaluation mode a batch norm is a factor and a summand for each channel, which may as well stand in the
convolution's weights (Jacob et al., arXiv 1712.05877, section 3.2). Weights are fused for as long as a
context lasts, and differentiably: training goes through them too, and the parameters stay what they are. What
an adapter adds to a convolution is fused with it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

CONVOLUTIONS = (nn.Conv2d, Conv2dSame)  # and no subclass that makes something else of its weights
TOLERANCE = 1e-3
Pair = tuple[str, str]  # names of a convolution and of the batch norm behind it


def find_pairs(model: nn.Module, run: Callable[[], Any]) -> list[Pair]:
    """Find convolutions whose very output goes to a batch norm, each of both called once while `run` runs."""
    names = {
        module: name
        for name, module in model.named_modules()
        if type(module) in CONVOLUTIONS or isinstance(module, nn.BatchNorm2d)
    }
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def watch(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((module, inputs[0], output))

    handles = [module.register_forward_hook(watch) for module in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(module for module, _, _ in calls)
    made = {id(output): module for module, _, output in calls if type(module) in CONVOLUTIONS}
    pairs = [(made.get(id(given)), norm) for norm, given, _ in calls if isinstance(norm, nn.BatchNorm2d)]
    return [(names[conv], names[norm]) for conv, norm in pairs if conv and times[conv] == times[norm] == 1]


def foldable(model: nn.Module, levels: Sequence[str], run: Callable[[], Sequence[Tensor]]) -> list[Pair]:
    """Select the pairs to fuse: none that makes a level, and none at all unless what `run` gives stays the
    same."""
    maps: list[Tensor] = []
    pairs = [pair for pair in find_pairs(model, lambda: maps.extend(run())) if pair[0] not in levels]
    with folded(model, pairs):
        if _same(maps, run()):
            return pairs
        return []


@contextmanager
def folded(model: nn.Module, pairs: Sequence[Pair]) -> Iterator[None]:
    """Fuse the batch norms into the convolutions inside the block; where gradients are wanted they reach the
    parameters of both."""
    before: list[tuple[Any, dict[str, Tensor | None], Any, Any]] = []
    try:
        for pair in pairs:
            adapted, norm = (cast(Any, model.get_submodule(name)) for name in pair)
            if "forward" in vars(norm):
                continue  # fused already, by a context around this one
            conv = getattr(adapted, "base_layer", adapted)
            weight, bias = _fold(_weight(adapted), conv.bias, norm)
            before.append((conv, {name: conv._parameters[name] for name in ("weight", "bias")}, norm, adapted))
            _put(conv, {"weight": weight, "bias": bias})
            norm.forward = _without_norm(norm)
            if adapted is not conv:
                adapted.forward = conv.forward
        yield
    finally:
        for conv, parameters, *run in before:
            _put(conv, parameters)
            for module in run:
                module.__dict__.pop("forward", None)


def _weight(module: Any) -> Tensor:
    """Compute a convolution's weight as it is now, with what an adapter of peft adds to it."""
    weight: Tensor = module.weight
    return weight + module.get_delta_weight("default") if hasattr(module, "base_layer") else weight


def _fold(weight: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """Compute weight and bias of a convolution with the batch norm in it."""
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    mean = norm.running_mean if bias is None else norm.running_mean - bias
    bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
    weight = weight * scale[:, None, None, None]
    if not torch.is_grad_enabled():  # torch.export takes nothing but parameters
        return nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return weight, bias


def _put(conv: nn.Module, parameters: dict[str, Tensor | None]) -> None:
    conv._parameters.update(parameters)  # type: ignore[arg-type]  # tensors, as torch.func does it


def _without_norm(norm: Any) -> Callable[[Tensor], Tensor]:
    """Give what a batch norm does beside normalising: timm's holds the activation."""
    steps = [step for step in (getattr(norm, "drop", None), getattr(norm, "act", None)) if step is not None]

    def forward(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return forward


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    """Compare feature maps, up to rounding, measured by the largest value of each."""
    pairs = zip(first, second, strict=True)
    return all(bool((a - b).abs().max() <= TOLERANCE * a.abs().max()) for a, b in pairs)
