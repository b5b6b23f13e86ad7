"""Other people's pickles, read without running anything.

Each is followed before it is read: what it wants to run is refused by name, and so is what would take more time, memory
or nesting than tensors need.
"""

import argparse
import dataclasses
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.core.errors import DamagedFile, LandscapeError, Unsupported, few
from landscape.core.reading import DEPTH, most_bytes, opened, require_room

__all__ = ["read_pickle", "require_file"]

#: What torch itself reads with `weights_only=True`; it is not worth naming.
_KNOWN = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(set|bytearray|complex)"
    r"|torch\._utils\._rebuild_\w+|torch(\.cuda|\.storage)?\.\w+Storage|torch\.nn\.parameter\.(Parameter|Buffer)"
    r"|torch\.(Size|Tensor|device|b?float\d\w*|u?int\d+|bool|double|half|serialization\._get_layout)"
)

#: How a zip archive begins, which `torch.save` writes since PyTorch 1.6.
_ZIP = b"PK\x03\x04"

#: Pickles in a file of `torch.save` before PyTorch 1.6: magic number, protocol, system, object, keys of the storages.
_LEGACY_PICKLES = 5

#: Opcodes of a pickle that are followed, which takes a microsecond or two each, by bytes of a file that are read at
#: most; and for each tensor.
_OPCODES, _OPCODES_A_TENSOR = 1_000_000 / 2**36, 200

#: Entries that one who walks through all dictionaries and lists of a file meets at most, shared ones each time.
_ENTRIES = 2_000_000


def _harmless() -> list[Any]:
    """Classes beyond torch's own that may be made while reading: they hold data, and making one runs nothing."""
    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    kinds = ("?", *np.typecodes["AllInteger"], *np.typecodes["Float"])
    return [
        # Random states, and metrics kept as NumPy numbers. Named as NumPy 1 and 2 name them.
        *((multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        np.ndarray,
        np.dtype,
        *{type(np.dtype(kind)) for kind in kinds},
        # Options of a training script, versions and paths beside the weights. Pure paths never touch a disk.
        argparse.Namespace,
        torch.torch_version.TorchVersion,
        *(
            (getattr(pathlib, f"Pure{system}Path"), f"{module}.{pure}{system}Path")
            for module in ("pathlib", "pathlib._local")
            for pure in ("", "Pure")
            for system in ("Posix", "Windows")
        ),
    ]


def require_file(path: Path) -> None:
    """Raise `LandscapeError` unless there is a file that can be read, `DamagedFile` if there is nothing of it in it."""
    if path.is_dir():
        raise LandscapeError(f"{path} is a directory: give a checkpoint file in it")
    with opened(path) as file:
        start = file.read(64)
    if not start:
        raise DamagedFile(f"{path} is damaged: it is empty; restore it or save it again")
    if start.startswith(b"version https://git-lfs.github.com/"):
        raise DamagedFile(f"{path} is a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`")


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU.

    Read with `weights_only=True`. Raises `Unsupported`, naming them, if the file wants to run other globals than those
    that only hold data, `DamagedFile` if it is none of `torch.save`, or made to do harm: of more than tensors need,
    nested too deeply, holding itself.
    """
    require_file(path)
    contents = _contents(path)
    if contents.harm:
        raise DamagedFile(f"{path} is damaged, or made to do harm: {contents.harm}")
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError as error:
        raise LandscapeError(f"{path} does not fit into memory") from error
    except Exception as error:  # what a damaged pickle raises may be anything
        raise _refusal(path, contents, error) from error
    _require_tree(path, found)
    return found


def _require_tree(path: Path, found: Any) -> None:
    """Raise `DamagedFile` for what holds itself, is nested deeply or shared so that no walk through it ends, or has
    tensors of more numbers than the file has.
    """
    entries, level, sizes = 0, [found], dict[int, int]()
    for _ in range(DEPTH):
        inside: list[Any] = []
        for each in level:
            if isinstance(each, torch.Tensor):
                sizes[id(each)] = each.numel() * each.element_size() if each.layout == torch.strided else 0
                continue
            if vars(each).keys() - {"_metadata"} if hasattr(each, "__dict__") and isinstance(each, Mapping) else ():
                raise DamagedFile(f"{path} is damaged: it has a dictionary with attributes")
            if isinstance(each, Mapping | list | tuple | set):
                inside += each.values() if isinstance(each, Mapping) else each
                if (entries := entries + len(each)) > _ENTRIES:
                    raise DamagedFile(f"{path} is damaged: its dictionaries and lists hold themselves, or one another")
        if not (level := inside):
            break
    if level:
        raise DamagedFile(f"{path} is damaged: it holds itself, or is nested more than {DEPTH} deep")
    # Tied and expanded tensors are few times the file.
    require_room(path, 8 * path.stat().st_size, sum(sizes.values()))


def _refusal(path: Path, contents: "_Contents", error: Exception) -> LandscapeError:
    """Why a file was not read, in one line."""
    if contents.script:
        return Unsupported(
            f"{path} is a TorchScript archive, which holds code: "
            "keep torch.jit.load(FILE).state_dict() with torch.save instead"
        )
    if contents.wanted:
        holds = f"it holds a whole pickled module, {contents.module}, and " if contents.module else ""
        remedy = "save model.state_dict() alone instead"
        if contents.lightning:
            remedy = (
                "if you trust this Lightning checkpoint, keep its weights alone: "
                'torch.save(torch.load(FILE, weights_only=False)["state_dict"], "weights.pt")'
            )
        return Unsupported(f"{path} is refused: {holds}its pickle wants to run {few(contents.wanted)}; {remedy}")
    if contents.foreign:
        return Unsupported(
            f"{path} is a pickle (protocol {contents.protocol}) that PyTorch does not read without running it: "
            "write model.state_dict() with torch.save"
        )
    if isinstance(error, pickle.UnpicklingError):
        return DamagedFile(f"{path} is damaged or no PyTorch checkpoint: restore it or save it again")
    return DamagedFile(f"{path} is damaged or no PyTorch checkpoint ({type(error).__name__}): save it again")


@dataclasses.dataclass(frozen=True)
class _Contents:
    """What following it shows: globals in their order, the protocol, the class of a whole module, who wrote it, and why
    it cannot be meant well.
    """

    names: tuple[str, ...] = ()
    protocol: int = 0
    module: str = ""
    lightning: bool = False
    script: bool = False
    foreign: bool = False
    harm: str = ""

    @property
    def wanted(self) -> list[str]:
        """Globals that are not known to be harmless, each once, those of torch last."""
        known = {
            item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}" for item in _harmless()
        }
        names = [name for name in dict.fromkeys(self.names) if name not in known and not _KNOWN.fullmatch(name)]
        return sorted(names, key=lambda name: name.startswith("torch."))


def _contents(path: Path) -> _Contents:
    """Follow the pickles in a file; nothing of what cannot be followed."""
    try:
        with opened(path) as file:
            if file.read(len(_ZIP)) != _ZIP:  # as torch tells them apart, not by what stands at the end
                file.seek(0)
                return _disassembled(file, int(_OPCODES * most_bytes()))
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                require_room(path, path.stat().st_size, sum(member.file_size for member in members))
                pickled = [each for each in members if each.filename.rpartition("/")[2] == "data.pkl"]
                script = any(each.filename.rpartition("/")[2] == "constants.pkl" for each in members)
                if not pickled or script:
                    return _Contents(script=script)
                with archive.open(pickled[0]) as inner:
                    contents = _disassembled(inner, int(_OPCODES * most_bytes()) + _OPCODES_A_TENSOR * len(members))
                return dataclasses.replace(contents, foreign=contents.foreign and contents.protocol > 2)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return _Contents()


def _disassembled(file: Any, most: int) -> _Contents:
    """The whole pickles at the start of a stream of bytes; `foreign` if they are not those of `torch.save`."""
    contents = _Contents()
    try:
        for number in range(_LEGACY_PICKLES):
            found, constant = _followed(pickletools.genops(file), most)
            legacy = not contents.foreign if number else constant == torch.serialization.MAGIC_NUMBER
            contents = _Contents(
                names=contents.names + found.names,
                protocol=max(contents.protocol, found.protocol),
                module=contents.module or found.module,
                lightning=contents.lightning or found.lightning,
                foreign=not legacy,
            )
    except _Harm as harm:
        return dataclasses.replace(contents, harm=str(harm))
    except Exception:  # damaged from here on, or the tensors' bytes
        return contents
    return contents


class _Harm(Exception):
    """Why a pickle cannot be meant well."""


@dataclasses.dataclass(slots=True)
class _Value:
    """What would stand on a pickle's stack: a constant, items of a tuple or list, or what a call or global is `of`."""

    constant: Any = None
    items: list["_Value"] | None = None
    of: str = ""
    called: bool = False
    depth: int = 0


def _followed(opcodes: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]], most: int) -> tuple[_Contents, Any]:
    """Globals that a pickle names, and the last constant in it.

    Raises `_Harm` if it has more than `most` opcodes, nests tuples deeply or calls with what is no data, `ValueError`
    and its kind if it does not end.
    """
    names: list[str] = []
    texts: set[str] = set()
    memo: dict[Any, _Value] = {}
    stack: list[_Value] = []
    marks: list[int] = []
    protocol, module = 0, ""

    def above_mark() -> list[_Value]:
        place = marks.pop()
        found = stack[place:]
        del stack[place:]
        return found

    def deepen(value: _Value, inside: list[_Value]) -> None:
        value.depth = max([value.depth, *(1 + each.depth for each in inside)])
        if value.depth > DEPTH:
            raise _Harm(f"its pickle is nested more than {DEPTH} deep")

    def named(name: str) -> None:
        names.append(name)
        stack.append(_Value(of=name))

    top: Any = None
    for number, (opcode, argument, _) in enumerate(opcodes):
        if number > most:
            raise _Harm(f"its pickle has more than {most} opcodes")
        name = opcode.name
        if name == "PROTO":
            protocol = argument
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif "PUT" in name:
            memo[argument] = stack[-1]
        elif "GET" in name:
            stack.append(memo[argument])
        elif name == "GLOBAL":
            named(argument.replace(" ", "."))
        elif name == "STACK_GLOBAL":
            parts = [each.constant for each in stack[-2:]]
            del stack[-2:]
            known = all(isinstance(each, str) for each in parts)
            named(".".join(parts) if known else "a global whose name is computed")
        elif name in ("EXT1", "EXT2", "EXT4"):
            named(f"copyreg extension {argument}")
        elif name == "INST":
            above_mark()
            named(argument.replace(" ", "."))
        elif name.startswith("TUPLE") or name in ("LIST", "DICT", "FROZENSET"):
            count = int(name[5:]) if name[5:].isdigit() else None
            items = above_mark() if count is None else stack[len(stack) - count :]
            if count is not None:
                del stack[len(stack) - count :]
            stack.append(_Value(items=items))
            deepen(stack[-1], items)
        elif name in ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append(_Value(items=[], depth=1))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            added = above_mark() if name != "APPEND" else [stack.pop()]
            if (items_of := stack[-1].items) is not None:
                items_of += added
            deepen(stack[-1], added)
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            if wrong := _misused(function, arguments):
                raise _Harm(f"its pickle {wrong}")
            stack.append(_Value(of=function.of, called=True, depth=1 + arguments.depth))
        elif name in ("BUILD", "POP"):
            stack.pop()
        elif name in ("SETITEM", "SETITEMS"):
            added = above_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()]
            deepen(stack[-1], added)
        elif name == "POP_MARK":
            above_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name != "STOP":
            for before in reversed(opcode.stack_before):
                if before is pickletools.stackslice:
                    above_mark()
                elif before is not pickletools.markobject:
                    stack.pop()
            stack += [_Value(constant=argument) for _ in opcode.stack_after]
        top = stack[-1].constant if stack else None
        if isinstance(top, str) and top not in texts:
            if top == "_parameters":
                classes = [name for name in names if not name.startswith(("copy_reg.", "copyreg.", "__builtin__."))]
                module = classes[-1] if classes else ""
            texts.add(top)
    whole = module if {"_parameters", "_buffers", "_modules"} <= texts else ""
    return _Contents(tuple(names), protocol, whole, "pytorch-lightning_version" in texts), top


def _misused(function: _Value, arguments: _Value) -> str:
    """Why what holds data is not called as `torch.save` writes it, so that it could work long or take any memory; empty
    if it is.
    """
    name, given = function.of.rpartition(".")[2], arguments.items
    if name not in _CALLS:
        return ""
    fits = given is not None and not arguments.called and _CALLS[name](given)
    return "" if fits else f"calls {function.of} with no data"


def _literal(value: _Value) -> bool:
    """Whether it is written out: a tuple, a list, a dictionary."""
    return value.items is not None and not value.called


#: What arguments may be given to harmless globals, by their last name.
_CALLS: Mapping[str, Callable[[list[_Value]], bool]] = {
    "encode": lambda given: [type(each.constant) for each in given] == [str, str] and given[1].constant == "latin1",
    "bytearray": lambda given: all(isinstance(x.constant, str | bytes) or x.of.endswith(".encode") for x in given),
    "set": lambda given: all(map(_literal, given)),
    "Size": lambda given: all(map(_literal, given)),
    "Counter": lambda given: all(_literal(each) and not each.items for each in given),
    "OrderedDict": lambda given: all(_literal(each) and all(map(_literal, each.items or ())) for each in given),
    "scalar": lambda given: len(given) == 2 and (given[1].constant is not None or given[1].of.endswith(".encode")),
    "_reconstruct": lambda given: len(given) == 3 and [each.constant for each in given[1].items or ()] == [0],
    "ndarray": lambda given: False,
    "_rebuild_from_type_v2": lambda given: given[0].of.startswith(("torch._utils._rebuild_", "torch._tensor.")),
}
