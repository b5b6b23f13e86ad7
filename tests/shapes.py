"""Types and shapes of the package's functions, checked at run time: by beartype, within jaxtyping's contexts."""

import functools
import inspect
import re
from typing import Any

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped
_SHAPE = re.compile(
    rf"\b({'|'.join(('Bool', 'Complex', 'Float', 'Inexact', 'Int', 'Num', 'Real', 'Shaped', 'UInt'))})\w*\["
)


def check(package: str) -> None:
    """Check the functions of a package, from its first import on.

    Functions within functions go without: they have no shapes, and would be compiled anew each time that the outer one
    runs, which took more time than what they do. Others without shapes need no context that binds sizes to names, which
    costs more than the check: beartype alone does for them.
    """
    jaxtyping.jaxtyped = _decorator  # by this name jaxtyping's hook decorates each function
    # An int may stand where a float is asked for (PEP 484).
    jaxtyping.install_import_hook(package, "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


def _decorator(*, typechecker: Any) -> Any:
    def decorate(thing: Any) -> Any:
        if "<locals>" in getattr(thing, "__qualname__", ""):
            return thing
        types = getattr(getattr(thing, "__func__", thing), "__annotations__", {})
        if isinstance(thing, type | property) or any(_SHAPE.search(repr(each)) for each in types.values()):
            return _jaxtyped(thing, typechecker=typechecker)
        checked = typechecker(thing)
        if not inspect.isfunction(thing):
            return checked

        @functools.wraps(thing)
        def call(*arguments: Any, **options: Any) -> Any:
            return (thing if jaxtyping.config.jaxtyping_disable else checked)(*arguments, **options)

        return call

    return decorate
