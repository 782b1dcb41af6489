"""Find which modules of a model run one after another by tracing a forward pass.

Nothing is assumed about an architecture: a module is in the chain when its only input is, as the very
same tensor, what the module before gave. So the end of a model can be run without its beginning.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

T = TypeVar("T")


class Stop(BaseException):  # nothing between a module and its caller may catch it
    """Carries out what a module was given; see `input_of`."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__("the rest of the model is not wanted")
        self.activation = activation


def input_of(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """Capture a module's input while `run` runs a model; neither it nor what comes after it is run.

    Raises:
        RuntimeError: the module is not run.
    """

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise Stop(inputs[0])

    handle = module.register_forward_pre_hook(stop)
    try:
        run()
    except Stop as reached:
        return reached.activation
    finally:
        handle.remove()
    raise RuntimeError(f"{type(module).__name__} is not run")


def run_chain(model: nn.Module, names: Sequence[str], x: Tensor, *, again: bool) -> Tensor:
    """Run modules one after another. With `again`, what they compute inside is not kept for the backward
    pass but computed again: less memory, about a third more time (Chen et al., arXiv 1604.06174)."""
    for name in names:
        module = model.get_submodule(name)
        x = checkpoint(module, x, use_reentrant=False) if again and torch.is_grad_enabled() else module(x)
    return x


def find_chain(model: nn.Module, whole: Sequence[str], run: Callable[[], T]) -> tuple[T, list[str]]:
    """Run once, and name the modules that form the model's end as a chain, in order.

    Args:
        model: whose modules are watched: its children, and in place of a sequence its items.
        whole: sequences that are not taken apart.
        run: runs the model.

    Returns:
        What `run` gave, and the longest chain that reaches to the last module; not longer than the model.
    """
    calls: list[tuple[str, Any, Any, Any]] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda _module, args, kwargs, output: calls.append((name, args, kwargs, output))

    links = _links(model, whole)
    handles = [m.register_forward_hook(watch(name), with_kwargs=True) for name, m in links.items()]
    try:
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    chain: list[str] = []
    wanted: Any = None
    for name, args, kwargs, output in reversed(calls):
        simple = len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and isinstance(output, Tensor)
        if not simple or (chain and output is not wanted) or name in chain:
            break
        chain.insert(0, name)
        wanted = args[0]
    return result, chain


def _links(model: nn.Module, whole: Sequence[str], prefix: str = "") -> dict[str, nn.Module]:
    links: dict[str, nn.Module] = {}
    for child, module in model.named_children():
        name = prefix + child
        if isinstance(module, nn.Sequential | nn.ModuleList) and name not in whole:
            links |= _links(module, whole, f"{name}.")
        else:
            links[name] = module
    return links
