"""Problems by name: those that ship with the package, and the user's own as `pkg.module:NAME` or `FILE.py:NAME`.

Whoever calls `find` or `create` names the code that runs. What a file names goes through `trusted` and `restore`, which
run nothing but built-in problems and what the user has named before.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from landscape.core.errors import LandscapeError, Mismatch, Untrusted
from landscape.core.fields import did_you_mean
from landscape.core.files import differences
from landscape.problems.base import Problem
from landscape.problems.code import Code, is_known, remember, remembered
from landscape.problems.digits import Digits
from landscape.problems.functions import Functions
from landscape.problems.life import Life
from landscape.problems.model import Model

__all__ = [
    "BUILT_IN",
    "Found",
    "Sent",
    "chosen",
    "code_of",
    "create",
    "find",
    "made",
    "name_of",
    "received",
    "record",
    "require_fields",
    "restore",
    "sent",
    "trusted",
]

#: Problems that ship with the package.
BUILT_IN: Mapping[str, type[Problem]] = {"life": Life, "digits": Digits, "functions": Functions}

#: What is found under a name: a class, or a ready instance.
Found = type[Problem] | Problem


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    """What was found, the name that it has in files, its code, and the digest of that when it was loaded."""

    found: Found
    name: str
    code: Code
    digest: str


#: Everything that was found by its name, by identity: problems need not be hashable.
_ENTRIES: dict[int, _Entry] = {}


def find(name: str) -> Found:
    """A problem's class, or a ready instance, by the name that the user gives it: its code runs, and is remembered.

    Raises `LandscapeError` if there is none, or its module fails.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, attribute = _parts(name)
    try:
        code = Code.locate(module)
    except LandscapeError as error:
        raise LandscapeError(f"cannot load problem '{name}': {error}") from error
    entry = _loaded(name, attribute, code)
    remember(code, entry.digest)
    return entry.found


def create(name: str, config: Mapping[str, Any] | None = None) -> Problem:
    """The problem that the user names, with the given fields.

    Raises `LandscapeError` for a field that it does not have.
    """
    return made(name, find(name), config or {})


def chosen(problem: Problem | str) -> Problem:
    """A problem, given itself or by its name; raises `LandscapeError` for what is neither."""
    if isinstance(problem, str):
        return create(problem)
    if not isinstance(problem, Problem):
        raise LandscapeError(
            f"`problem` is {type(problem).__name__}: give what `Problem.from_model` made, or a name such as "
            '"my_module:NAME"'
        )
    return problem


def made(name: str, found: Found, config: Mapping[str, Any]) -> Problem:
    """The problem with these fields; of a ready instance only those that it has."""
    if isinstance(found, Problem):
        if config and (different := differences(dict(config), found.config())):
            raise Mismatch(
                f"problem '{name}' is a ready instance, and not the one that is asked for: {different}. Give the run's "
                "own model and data, or name another problem with `problem`"
            )
        return found
    require_fields(name, found, config)
    return found(**config)


def trusted(name: str, code: Mapping[str, str] | None, *, wanted_by: str) -> Found:
    """What a file names as its problem, if that is built in, or code that the user has named before.

    `code` is what the file says of it (`record`); nothing is found by the name alone, only the file that it leads to.
    Raises `Untrusted`, saying which code `wanted_by` wants and how to allow it, for other code, or code that changed.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    module, attribute = _parts(name)
    files = [Path(code["file"])] if code else []
    with contextlib.suppress(LandscapeError, OSError, ValueError):  # it need not be here
        files.append(Code.locate(module).file)
    for each in files:
        if (known := remembered(each)) is not None:
            return _loaded(name, attribute, known).found
    changed = [file for file in files if is_known(file)]
    file = next(iter(changed + files), None)
    raise Untrusted(
        f"{wanted_by} wants to run the code of problem {name!r}{f' in {str(file)!r}' if file else ''}, which "
        f"{'has changed since you named it' if changed else 'you have not named yet'}: if you trust it, name it with "
        f'`problem="{f"{file}:{attribute}" if file and file.is_file() else name}"`'
    )


def restore(name: str, config: Mapping[str, Any], code: Mapping[str, str] | None = None, *, wanted_by: str) -> Problem:
    """The problem that a file says it is of; raises `Untrusted` as `trusted` does."""
    return made(name, trusted(name, code, wanted_by=wanted_by), config)


@dataclasses.dataclass(frozen=True)
class Sent:
    """A problem for another process, which loads its code itself: its name, code, the digest of that, its fields."""

    name: str
    code: Code
    digest: str
    config: Mapping[str, Any]


def sent(problem: Problem) -> Problem | Sent:
    """A problem as another process can be given it: by its file, if it was found by a name."""
    if (entry := _entry(problem)) is None:
        return problem
    return Sent(entry.name, entry.code, entry.digest, problem.config())


def received(problem: Problem | Sent) -> Problem:
    """What was `sent`; raises `Mismatch` if its code has changed on the way."""
    if not isinstance(problem, Sent):
        return problem
    entry = _loaded(problem.name, _parts(problem.name)[1], problem.code)
    if entry.digest != problem.digest:
        raise Mismatch(f"the code of problem '{problem.name}' has changed since this work began: begin again")
    return made(problem.name, entry.found, problem.config)


def name_of(problem: Found) -> str:
    """The name under which a problem is found again: a key of `BUILT_IN`, the one it was found by, or where its class
    is defined.
    """
    of = problem if isinstance(problem, type) else type(problem)
    if built_in := [name for name, each in BUILT_IN.items() if each is of]:
        return built_in[0]
    if entry := _entry(problem):
        return entry.name
    if isinstance(problem, Model):
        return problem.name or "model"
    return f"{of.__module__}:{of.__qualname__}"


def record(problem: Problem, *, look: bool = False) -> dict[str, Any]:
    """What a file says of its problem: `problem`, its name and all its fields, and what `code_of` gives. With `look`, a
    problem that says not where it is has the name of a module that was imported and holds it, if there is one.
    """
    name = name_of(problem)
    if look and name == "model":
        name = _imported(problem) or name
    return {"problem": {"name": name, "config": problem.config()}, **code_of(problem, name)}


def _imported(problem: Problem) -> str | None:
    """Module and name of a problem in a module that another program can import too: not the one that runs."""
    for name, module in list(sys.modules.items()):
        if name == "__main__" or not getattr(module, "__file__", None):
            continue
        if found := next((key for key, value in list(vars(module).items()) if value is problem), None):
            with contextlib.suppress(LandscapeError, OSError, ValueError):
                if Code.locate(name).file == Path(str(module.__file__)).resolve():
                    return f"{name}:{found}"
    return None


def code_of(problem: Found, name: str | None = None) -> dict[str, Any]:
    """What a file says of the `code` of its problem, by its `name`: file and SHA-256; nothing where it is built in, or
    in no file.
    """
    name = name or name_of(problem)
    if name in BUILT_IN or ":" not in name:
        return {}
    if entry := _entry(problem):
        return {"code": {"file": str(entry.code.file), "sha256": entry.digest}}
    try:
        code = Code.locate(name.rpartition(":")[0])
        return {"code": {"file": str(code.file), "sha256": code.digest()}}
    except (LandscapeError, OSError):  # made where there is no file, as in a notebook
        return {}


def require_fields(name: str, problem: type[Problem], keys: Iterable[str]) -> None:
    """Raise `LandscapeError`, with the nearest that there is, for a key that is no field of the problem."""
    fields: Sequence[str] = [field.name for field in dataclasses.fields(problem)]  # type: ignore[arg-type]  # a dataclass, by contract
    for key in keys:
        if key not in fields:
            raise LandscapeError(f"problem '{name}' has no option '{key}': {did_you_mean(key, fields, 'it has')}")


def _parts(name: str) -> tuple[str, str]:
    """Module, or file, and attribute; raises `LandscapeError` for what is neither that nor a built-in name."""
    module, _, attribute = name.rpartition(":")
    if module and module != "__main__":
        return module, attribute
    if name == "model" or module:
        raise LandscapeError(
            'the problem was made in Python and says not where: name it with `problem="pkg.module:NAME"`, or give '
            "from_model a `name`"
        )
    hint = did_you_mean(name, BUILT_IN)
    own = "" if hint.endswith("?") else ", and your own as pkg.module:NAME"
    raise LandscapeError(f"there is no problem '{name}': {hint}{own}")


def _loaded(name: str, attribute: str, code: Code) -> _Entry:
    """Run the code and take the problem out of it."""
    try:
        digest = code.digest()
        found = getattr(code.load(), attribute)
    except (Exception, SystemExit) as error:  # a module of the user's can fail in any way
        raise LandscapeError(f"cannot load problem '{name}': {type(error).__name__}: {error}") from error
    if not (isinstance(found, Problem) or (isinstance(found, type) and issubclass(found, Problem))):
        raise LandscapeError(f"'{name}' is {type(found).__name__}, not a landscape.Problem")
    _ENTRIES[id(found)] = entry = _Entry(found, name, code, digest)
    return entry


def _entry(problem: Found) -> _Entry | None:
    return _ENTRIES.get(id(problem)) or _ENTRIES.get(id(type(problem)))
