"""Which layer of a network has a kink: its loss has no second derivative there, and a pass need be no saddle."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.loss import _Loss
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["kinked"]

#: Operations with a kink, without a trailing underscore.
_KINKED = frozenset({"relu", "leaky_relu", "prelu", "_prelu_kernel", "rrelu_with_noise", "hardtanh", "hardsigmoid"}) | {
    *("hardswish", "hardshrink", "softshrink", "threshold", "clamp", "clamp_min", "clamp_max", "abs", "sign", "floor"),
    *("ceil", "round", "maximum", "minimum", "mkldnn_max_pool2d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
    *("max_pool2d_with_indices", "max_pool3d_with_indices", "fractional_max_pool2d"),
}


def kinked(run: Callable[[], Any]) -> str:
    """Name and class of the module whose forward performs the first operation with a kink while it runs; empty without
    one. Losses do not count.

    >>> import torch
    >>> network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> kinked(lambda: network(torch.ones(1, 2))), kinked(lambda: network[0](torch.ones(1, 2)))
    ('1 (ReLU)', '')
    """
    watcher = _Watcher()
    with _entering(watcher.inside), watcher:
        run()
    return watcher.found


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at operations inside of modules."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inside, self.found = list[nn.Module](), ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        bent = name in _KINKED or (name == "elu" and _uneven(*args[1:]))
        if bent and not self.found and self.inside and not any(isinstance(each, _Loss) for each in self.inside):
            root, layer = self.inside[0], self.inside[-1]
            where = next(place for place, each in root.named_modules() if each is layer)
            self.found = f"{where} ({type(layer).__name__})" if where else f"the forward of {type(layer).__name__}"
        return func(*args, **(kwargs or {}))


def _uneven(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> bool:
    """Whether an ELU has two slopes at zero."""
    return abs(alpha * input_scale - 1) > 1e-6


@contextmanager
def _entering(inside: list[nn.Module]) -> Iterator[None]:
    """Keep a list of the modules whose forwards are running, the outermost first."""

    def leave(*_: Any) -> None:
        inside.pop()

    handles = [
        register_module_forward_pre_hook(lambda module, given: inside.append(module)),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
