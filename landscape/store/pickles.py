"""Other people's pickles, read without running anything; what one wants to run is found by disassembling it."""

import argparse
import contextlib
import dataclasses
import pathlib
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from landscape.core.errors import DamagedFile, LandscapeError, Unsupported, few

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
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is a link to a file that is not there" if path.is_symlink() else "does not exist"
        raise LandscapeError(f"{path} {what}") from error
    except IsADirectoryError as error:
        raise LandscapeError(f"{path} is a directory: give a checkpoint file in it") from error
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from error
    if not start:
        raise DamagedFile(f"{path} is damaged: it is empty; restore it or save it again")
    if start.startswith(b"version https://git-lfs.github.com/"):
        raise DamagedFile(f"{path} is a pointer of Git LFS, not the file itself: fetch that with `git lfs pull`")


def read_pickle(path: Path) -> Any:
    """What `torch.save` wrote, tensors on the CPU.

    Read with `weights_only=True`. Raises `Unsupported`, naming them, if the file wants to run other globals than those
    that only hold data, `DamagedFile` if it is none of `torch.save`.
    """
    require_file(path)
    try:
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # what a damaged pickle raises may be anything
        raise _refusal(path, error) from error


def _refusal(path: Path, error: Exception) -> LandscapeError:
    """Why a file was not read, in one line."""
    contents = _contents(path)
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
    """What disassembly shows: globals in their order, the protocol, the class of a whole module, and who wrote it."""

    names: tuple[str, ...] = ()
    protocol: int = 0
    module: str = ""
    lightning: bool = False
    script: bool = False
    foreign: bool = False

    @property
    def wanted(self) -> list[str]:
        """Globals that are not known to be harmless, each once, those of torch last."""
        known = {
            item[1] if isinstance(item, tuple) else f"{item.__module__}.{item.__qualname__}" for item in _harmless()
        }
        names = [name for name in dict.fromkeys(self.names) if name not in known and not _KNOWN.fullmatch(name)]
        return sorted(names, key=lambda name: name.startswith("torch."))


def _contents(path: Path) -> _Contents:
    """Disassemble the pickles in a file; nothing of what cannot be followed."""
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) != _ZIP:  # as torch tells them apart, not by what stands at the end
                file.seek(0)
                return _disassembled(file)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickled = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
            script = any(name.rpartition("/")[2] == "constants.pkl" for name in names)
            if not pickled or script:
                return _Contents(script=script)
            with archive.open(pickled[0]) as file:
                contents = _disassembled(file)
            return dataclasses.replace(contents, foreign=contents.foreign and contents.protocol > 2)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return _Contents()


def _disassembled(file: Any) -> _Contents:
    """The whole pickles at the start of a stream of bytes; `foreign` if they are not those of `torch.save`."""
    contents = _Contents()
    with contextlib.suppress(Exception):  # damaged from here on, or the tensors' bytes
        for number in range(_LEGACY_PICKLES):
            found, constant = _followed(pickletools.genops(file))
            legacy = not contents.foreign if number else constant == torch.serialization.MAGIC_NUMBER
            contents = _Contents(
                names=contents.names + found.names,
                protocol=max(contents.protocol, found.protocol),
                module=contents.module or found.module,
                lightning=contents.lightning or found.lightning,
                foreign=not legacy,
            )
    return contents


def _followed(opcodes: Iterable[tuple[pickletools.OpcodeInfo, Any, int | None]]) -> tuple[_Contents, Any]:
    """Globals that a pickle names, and the last constant in it. Raises `ValueError` if it does not end."""
    names: list[str] = []
    texts: set[str] = set()
    memo: dict[Any, Any] = {}
    below: Any = None
    top: Any = None
    protocol, module = 0, ""
    for opcode, argument, _ in opcodes:
        name = opcode.name
        if name == "PROTO":
            protocol = argument
        elif name == "MEMOIZE":
            memo[len(memo)] = top
        elif "PUT" in name:
            memo[argument] = top
        elif name in ("GLOBAL", "INST"):
            names.append(argument.replace(" ", "."))
            below, top = top, None
        elif name == "STACK_GLOBAL":
            known = isinstance(below, str) and isinstance(top, str)
            names.append(f"{below}.{top}" if known else "a global whose name is computed")
            below, top = None, None
        elif name in ("EXT1", "EXT2", "EXT4"):
            names.append(f"copyreg extension {argument}")
            below, top = top, None
        elif opcode.stack_after and name != "STOP":
            below, top = top, memo.get(argument) if "GET" in name else argument
        if isinstance(top, str) and top not in texts:
            if top == "_parameters":
                classes = [name for name in names if not name.startswith(("copy_reg.", "copyreg.", "__builtin__."))]
                module = classes[-1] if classes else ""
            texts.add(top)
    whole = module if {"_parameters", "_buffers", "_modules"} <= texts else ""
    return _Contents(tuple(names), protocol, whole, "pytorch-lightning_version" in texts), top
