"""Loops of plain Python that numba (extra `fast`) compiles when they are asked for."""

import concurrent.futures
import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import torch

from landscape.core.errors import Unsupported
from landscape.engine.program.products import ceil_div

__all__ = ["by_type", "compiled", "helpers", "in_threads", "numba"]

#: Evaluations for which another thread is worth its start.
_PER_THREAD = 256

#: Each operation rounds as it is written, but that products are added at once.
_AS_WRITTEN = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

#: The compiler chooses in which order sums are taken, once for all that they are called with.
_SUMS = {**_AS_WRITTEN, "fastmath": {"contract", "reassoc", "nsz"}}


@functools.cache
def numba() -> Any:
    """The package; raises `Unsupported` if it is not installed."""
    try:
        importlib.import_module("numba.extending")
        return importlib.import_module("numba")
    except ImportError as error:
        raise Unsupported(
            "`engine=\"fused\"` needs numba, which is not installed: from a clone, pip install '.[fast]', or use "
            '`engine="stacked"`'
        ) from error


def helpers(*functions: Callable[..., Any], sums: bool = False, inline: bool = True) -> None:
    """Let compiled loops call these; `sums` are those that may be taken in any order, the same each time."""
    for function in functions:
        numba().extending.register_jitable(forceinline=inline, **(_SUMS if sums else _AS_WRITTEN))(function)


def by_type(function: Callable[..., Any], make: Callable[[str], Callable[..., Any]]) -> None:
    """Let compiled loops call `function`, which is what `make` gives for the name of its argument's type."""
    options = {"forceinline": True, **_AS_WRITTEN}
    numba().extending.overload(function, jit_options=options, strict=False)(lambda x: make(str(x)))


def compiled(function: Callable[..., None]) -> Callable[..., None]:
    """The loop, compiled when it is first called; kept on the disk by numba, where it can be."""
    for cache in (True, False):  # where nothing can be written, it is compiled in each process
        try:
            return numba().njit(function, cache=cache, **_AS_WRITTEN)  # type: ignore[no-any-return]
        except RuntimeError:
            if not cache:
                raise
    raise AssertionError


def in_threads(part: Callable[[slice], None], members: int, each: int = 1) -> None:
    """Call `part` for parts of the members, for each of which it does something `each` times, in as many threads as
    torch has where there is enough to do; compiled loops let go of Python's lock.
    """
    threads = max(1, min(torch.get_num_threads(), members, ceil_div(members * each, _PER_THREAD)))
    ends = [members * k // threads for k in range(threads + 1)]
    parts = list(itertools.starmap(slice, itertools.pairwise(ends)))
    if threads == 1:
        part(parts[0])
    else:
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(part, parts))
