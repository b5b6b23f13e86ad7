"""Files that appear whole or not at all, and digests of what they hold."""

import contextlib
import dataclasses
import errno
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from landscape.core.errors import LandscapeError
from landscape.core.locks import writing
from landscape.core.reading import document_digest

__all__ = [
    "differences",
    "Stamp",
    "digest",
    "is_there",
    "json_text",
    "refuse_existing",
    "replacing",
    "require_vacant",
    "write_document",
    "write_json",
]


#: What stands in an empty directory: what a writer that is killed leaves, and locks.
_LEFT_OVER = re.compile(r"\..*\.tmp|\.lock")

#: Seconds to wait for another writer of one file.
_PATIENCE = 10.0


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, which takes its place when the block ends well and vanishes otherwise.

    Written through to the disk before the rename: after a crash `target` is the old file or the new one. One writer at
    a time: another waits.
    """
    with writing(target, wait=_PATIENCE):
        yield from _replacing(target)


def _replacing(target: Path) -> Iterator[Path]:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # with the user's usual permissions, which not every library grants
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise LandscapeError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Let a rename outlast a crash; systems that sync no folders, such as Windows, go without."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EIO:
            raise


@dataclasses.dataclass(frozen=True)
class Stamp:
    """Size and time of change of a file that is mapped, not read: what is written to it would change the numbers."""

    path: Path
    size: int
    time: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Of the file as it is now."""
        found = path.stat()
        return cls(path, found.st_size, found.st_mtime_ns)

    def require_unchanged(self) -> None:
        """Raise `LandscapeError` if the file is another than it was."""
        if not self.path.exists() or Stamp.of(self.path) != self:
            raise LandscapeError(
                f"{self.path} has changed while it was evaluated: begin again, with a copy that nothing writes to"
            )


def is_there(path: Path) -> bool:
    """Whether something is at a path, also a link to nothing; raises `LandscapeError` where that cannot be seen."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        if getattr(error, "errno", 0) == errno.ELOOP:  # a folder above it is a link that leads back to itself
            return False
        raise LandscapeError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from error
    return True


def refuse_existing(path: Path, *, force: bool, argument: str = "save") -> None:
    """Raise `LandscapeError` if there is something at `path` already, unless `force`, or if nothing can be written
    there; `argument` chose the path.
    """
    if path.exists() and not force:
        raise LandscapeError(
            f"{path} exists: choose another output with `{argument}`, or replace it with `overwrite=True`"
        )
    above = next(folder for folder in path.absolute().parents if folder.exists())
    wrong = {
        "it is a directory": path.is_dir(),
        f"{above} is no directory": not above.is_dir(),
        f"Permission denied in {above}": not os.access(above, os.W_OK),
    }
    if reason := next((text for text, holds in wrong.items() if holds), None):
        raise LandscapeError(f"cannot write {path}: {reason}: choose another output with `{argument}`")


def require_vacant(path: Path, what: str, remedy: str = "choose another directory with `output`") -> None:
    """Raise `LandscapeError` if a path, which is no run or what else belongs there, is taken: by more than an empty
    directory, or by what a killed writer left there.
    """
    if is_there(path) and not (path.is_dir() and all(_LEFT_OVER.fullmatch(file.name) for file in path.iterdir())):
        raise LandscapeError(f"{path} exists and is no {what}: {remedy}")


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, types, shapes and bytes of arrays, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        sha.update(array.data)  # without a copy
    return sha.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any], *, most: int = 4) -> str:
    """What differs between two JSON documents, in words; empty if nothing does.

    >>> differences({"training": {"lr": 0.1}}, {"training": {"lr": 0.2}})
    'training.lr is 0.1 there and 0.2 here'
    """

    def leaves(document: Any, prefix: str = "") -> dict[str, str]:
        if isinstance(document, Mapping):
            return {k: v for key, value in document.items() for k, v in leaves(value, f"{prefix}.{key}").items()}
        text = json.dumps(document)
        short = text if len(text) <= 40 else f"{text[:30]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
        return {prefix.lstrip("."): short}

    a, b = leaves(there), leaves(here)
    keys = [key for key in a | b if a.get(key) != b.get(key)]
    parts = [f"{key} is {a.get(key, 'absent')} there and {b.get(key, 'absent')} here" for key in keys[:most]]
    return "; ".join(parts) + (f"; and {len(keys) - most} more" if len(keys) > most else "")


def json_text(document: Any) -> str:
    """A result as sorted, indented JSON: dataclasses and arrays are written out, NaN and infinity become null."""
    return json.dumps(_plain(document), indent=2, sort_keys=True)


def write_json(path: Path, document: Any) -> None:
    """Write a result as JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json_text(document) + "\n")


def write_document(path: Path, document: Mapping[str, Any]) -> dict[str, Any]:
    """Write a JSON object with the `sha256` of its other fields, atomically; returns it as it is read again."""
    plain: dict[str, Any] = json.loads(json_text(document))
    plain["sha256"] = document_digest(plain)
    write_json(path, plain)
    return plain


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        derived = {key: getattr(value, key) for key in ("interval", "value") if hasattr(type(value), key)}
        return _plain(fields | derived)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
