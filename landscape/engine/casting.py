"""Forward code and losses that were written for one floating type, run in another."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from landscape.engine.batches import mapped, tensors_of

__all__ = ["running_in"]


@contextlib.contextmanager
def running_in(dtype: torch.dtype) -> Iterator[None]:
    """What is made without a type has this one, and an operation that refuses tensors of two floating types, such as
    weights of classes that a loss in float32 closes over, gets all of them in this one.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _Agreeing(dtype):
            yield
    finally:
        torch.set_default_dtype(before)


class _Agreeing(TorchFunctionMode):
    """Repeats an operation that fails for tensors of two floating types with all of them in one."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            given = tensors_of((args, kwargs))
            if len({each.dtype for each in given if each.is_floating_point()}) < 2:
                raise
        changes_first = getattr(func, "__name__", "").endswith("_") and isinstance(args[0], Tensor)
        dtype = args[0].dtype if changes_first else self.dtype

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        return func(*mapped(args, cast), **mapped(kwargs, cast))
