"""Which modules of a model run one after another, found by watching it run.

Nothing is assumed about an architecture: a module is in the chain when its only input is, as the very
same tensor, what the module before gave. So the end of a model can be run without its beginning.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

T = TypeVar("T")


class Stop(BaseException):  # nothing between a module and its caller may catch it
    """Carries out what a module was given; see `stop_before`."""

    def __init__(self, activation: Tensor) -> None:
        super().__init__("the rest of the model is not wanted")
        self.activation = activation


def stop_before(module: nn.Module) -> RemovableHandle:
    """Let the module raise `Stop` instead of running, until the handle is removed."""

    def stop(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        raise Stop(inputs[0])

    return module.register_forward_pre_hook(stop)


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
