"""Types and shapes of the package's functions, checked at run time: by beartype, within jaxtyping's contexts."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import jaxtyping
import numpy as np
from torch import Tensor

_jaxtyped = jaxtyping.jaxtyped
_SHAPE = re.compile(
    rf"\b({'|'.join(('Bool', 'Complex', 'Float', 'Inexact', 'Int', 'Num', 'Real', 'Shaped', 'UInt'))})\w*\["
)
_EVERY = 53  # a prime: calls that take turns are met in their turns
_test = 0


def check(package: str) -> None:
    """Check the functions of a package, from its first import on.

    Functions within functions go without: they have no shapes, and would be compiled anew each time that the outer one
    runs, which took more time than what they do. Others without shapes need no context that binds sizes to names, which
    costs more than the check: beartype alone does for them.
    """
    jaxtyping.jaxtyped = decorator  # by this name jaxtyping's hook decorates each function
    # An int may stand where a float is asked for (PEP 484).
    jaxtyping.install_import_hook(package, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


def begin_test() -> None:
    """From here on each kind of call is new again."""
    global _test
    _test += 1


def _sometimes(bare: Callable[..., Any], checked: Callable[..., Any]) -> Callable[..., Any]:
    """In each test the first call of each kind is checked, and every 53rd of all calls.

    Calls are of one kind whose arguments have the same types, shapes and, if they are words, truth values or None, the
    same values. A function that is called ten thousand times in a test is mostly called in the same way, and to check
    it each time took more than half of what all tests took. What this trades: a wrong shape that depends on something
    else (on a number, or on what an object holds) is met only if the first call of its kind has it, or a 53rd.
    """
    test, calls, kinds = -1, 0, set[tuple[Any, ...]]()

    @functools.wraps(bare)
    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal test, calls
        if test != _test:
            test, calls = _test, 0
            kinds.clear()
        calls += 1
        kind = (*map(_kind, arguments), *options, *map(_kind, options.values()))
        if (kind in kinds and calls % _EVERY) or jaxtyping.config.jaxtyping_disable:
            return bare(*arguments, **options)
        kinds.add(kind)
        return checked(*arguments, **options)

    return call


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        return type(value), value.shape, value.dtype
    return value if isinstance(value, bool | str) else type(value)


def decorator(*, typechecker: Any) -> Any:
    def decorate(thing: Any) -> Any:
        if "<locals>" in getattr(thing, "__qualname__", ""):
            return thing
        if isinstance(thing, classmethod | staticmethod):
            return type(thing)(decorate(thing.__func__))
        if isinstance(thing, property):
            return property(*(each and decorate(each) for each in (thing.fget, thing.fset, thing.fdel)))
        if isinstance(thing, type):
            if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
                bare = thing.__init__
                thing.__init__ = _sometimes(bare, _jaxtyped(bare, typechecker=typechecker))
            return thing
        if not inspect.isfunction(thing):
            return typechecker(thing)
        if set(thing.__annotations__.values()) <= {Any, None}:  # nothing to check; numba compiles some of these
            return thing
        shapes = any(_SHAPE.search(repr(each)) for each in thing.__annotations__.values())
        return _sometimes(thing, _jaxtyped(thing, typechecker=typechecker) if shapes else typechecker(thing))

    return decorate
