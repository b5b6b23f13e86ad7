"""Whose code runs: modules that hold problems are found without running them, and remembered once they were named.

What a file of results names never runs by itself. Code runs that the user names, in a command or in Python; it is then
remembered in the user's configuration, by absolute path and SHA-256 of the file and of the local modules that it
imports, and files that want the same code find it there until any of it changes.
"""

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from landscape.core.errors import LandscapeError
from landscape.core.files import write_json
from landscape.core.reading import read_json

__all__ = ["Code", "configuration", "is_known", "remember", "remembered"]

_SUFFIXES = (
    *importlib.machinery.EXTENSION_SUFFIXES,
    *importlib.machinery.SOURCE_SUFFIXES,
    *importlib.machinery.BYTECODE_SUFFIXES,
)

#: What was named in this process where the configuration cannot be written.
_UNWRITTEN: dict[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Code:
    """A module by its file. `roots` are the folders from which it may import, beside what is installed."""

    module: str
    file: Path
    roots: tuple[Path, ...]

    @classmethod
    def locate(cls, name: str) -> "Code":
        """The code that a module's name or a `.py` file means in the working directory; none of it is run.

        Raises `LandscapeError` if there is none.
        """
        here = Path.cwd().resolve()
        importlib.invalidate_caches()
        if name.endswith(".py"):
            file = Path(name).resolve()
            if not file.is_file():
                raise LandscapeError(f"{name} does not exist")
            root, parts = file.parent, [file.stem] * (file.name != "__init__.py")
            while (root / "__init__.py").exists():
                root, parts = root.parent, [root.name, *parts]
            module = ".".join(parts)
        else:
            module, found = name, _folder(name.partition(".")[0], [here])
            root, path = found or here, found and _file(found, name)
            if path is None:
                raise LandscapeError(f"there is no module '{name}' in {here}, nor among what is installed")
            file = path
        return cls(module, file, tuple(dict.fromkeys([root, here] if file.is_relative_to(here) else [root])))

    def files(self) -> dict[str, Path]:
        """The module's file, those of its packages and of all modules beside it that they import, by their names.

        Found in the source, without running it: of modules whose names are computed nothing is known.
        """
        importlib.invalidate_caches()
        found: dict[str, Path] = {}
        wanted = [self.module]
        while wanted:
            parts = wanted.pop().split(".")
            for name in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
                file = self.file if name == self.module else self._local(name)
                if file is not None and name not in found:
                    found[name] = file
                    wanted += _imports(name, file)
        return found

    def digest(self) -> str:
        """SHA-256 of the names and contents of `files`."""
        each = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in self.files().items()}
        return hashlib.sha256(json.dumps(each, sort_keys=True).encode()).hexdigest()

    def load(self) -> ModuleType:
        """Run the module, unless it has run already, with `roots` last on the import path; what it prints is no result.

        Where something else has its name, such as `random`, it gets another one.
        """
        top = self.module.partition(".")[0]
        with _importing_from(self.roots), contextlib.redirect_stdout(sys.stderr):
            folder = _folder(top, ())
            if folder is not None and _file(folder, self.module) == self.file:
                return importlib.import_module(self.module)
            name = f"{self.module}_{hashlib.sha256(str(self.file).encode()).hexdigest()[:8]}"
            if name in sys.modules:
                return sys.modules[name]
            spec = importlib.util.spec_from_file_location(name, self.file)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[name]
                raise
            return module

    def _local(self, name: str) -> Path | None:
        """The file of a module if it lies in `roots`; of an installation only the module's own package does."""
        top = name.partition(".")[0]
        root = _folder(top, self.roots)
        own = top == self.module.partition(".")[0]
        if root is None or root not in self.roots or top == "landscape" or (_is_installation(root) and not own):
            return None
        return _file(root, name)


def _folder(top: str, roots: Sequence[Path]) -> Path | None:
    """Where Python finds a top-level module, with `roots` last on its path; None if nowhere."""
    if (loaded := sys.modules.get(top)) is not None:
        places = [*getattr(loaded, "__path__", ()), getattr(loaded, "__file__", None)]
    else:
        spec = None
        with _importing_from(roots), contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(top)
        places = list(spec.submodule_search_locations or (spec.origin,)) if spec else []
    place = next((place for place in places if place), None)
    return Path(place).resolve().parent if place and Path(place).exists() else None


def _file(root: Path, module: str) -> Path | None:
    """The file of a module below a folder, as Python prefers them; None if there is none."""
    path = root.joinpath(*module.split("."))
    candidates = (each.with_name(each.name + suffix) for each in (path / "__init__", path) for suffix in _SUFFIXES)
    return next((file for file in candidates if file.is_file()), None)


def _imports(module: str, file: Path) -> Iterator[str]:
    """Names of all modules that a source file may import, anywhere in it; also such as are only names in modules."""
    try:
        tree = ast.parse(file.read_bytes()) if file.suffix == ".py" else ast.Module([], [])
    except (SyntaxError, ValueError):  # which Python will say in its own words
        return
    package = module.split(".") if file.stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = [*above, *([node.module] if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called, name = getattr(node.func, "attr", getattr(node.func, "id", "")), node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str) and not name.startswith("."):
                yield name


def _is_installation(root: Path) -> bool:
    """Whether a folder holds what is installed, where modules that lie beside each other have nothing in common."""
    return root.name in ("site-packages", "dist-packages") or str(root) in sysconfig.get_paths().values()


@contextlib.contextmanager
def _importing_from(roots: Sequence[Path]) -> Iterator[None]:
    """Within the block modules are found in these folders, too, where they are found nowhere else."""
    added = [str(root) for root in roots if str(root) not in sys.path]
    sys.path += added
    try:
        yield
    finally:
        for root in added:
            with contextlib.suppress(ValueError):  # which the module may have taken off itself
                sys.path.remove(root)


# ----------------------------------------------------------------------------------------------------------------------


def configuration() -> Path | None:
    """The file that remembers what was named; None where there is no home for it."""
    if home := os.environ.get("LANDSCAPE_CONFIG_HOME"):
        return Path(home) / "code.json"
    if home := os.environ.get("APPDATA" if os.name == "nt" else "XDG_CONFIG_HOME"):
        return Path(home) / "landscape" / "code.json"
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".config" / "landscape" / "code.json"
    return None


def remember(code: Code, digest: str) -> None:
    """Remember code that was named, as far as the configuration can be written, else for this process."""
    known, key = _known(), str(code.file)
    entry = {"sha256": digest, "module": code.module, "roots": [str(root) for root in code.roots]}
    if known.get(key) == entry:
        return
    try:
        if (path := configuration()) is None:
            raise LandscapeError("there is no home directory")
        write_json(path, {"schema": 1, "code": {**known, key: entry}})
    except (LandscapeError, OSError):
        _UNWRITTEN[key] = entry


def is_known(file: Path) -> bool:
    """Whether code of this file was named at some time, changed since or not."""
    return str(file) in _known()


def remembered(file: Path) -> Code | None:
    """The code of a file that was named before, unless it or a local import of it has changed since."""
    entry = _known().get(str(file), {})
    try:
        code = Code(entry["module"], file, tuple(map(Path, entry["roots"])))
        return code if code.digest() == entry["sha256"] else None
    except (OSError, KeyError, TypeError):  # gone; or a configuration that is not ours
        return None


def _known() -> dict[str, Any]:
    """What was named, by file; nothing if the configuration is absent or damaged: then all is asked for again."""
    found = None
    if (path := configuration()) is not None:
        with contextlib.suppress(LandscapeError, OSError):
            found = read_json(path)
    code = found.get("code") if isinstance(found, dict) else None
    return {**(code if isinstance(code, dict) else {}), **_UNWRITTEN}
