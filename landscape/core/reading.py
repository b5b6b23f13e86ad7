"""Files that anybody may have written, opened and parsed within limits: what all that is read goes through.

A file is opened only if it is a regular one, so that no pipe or device is waited for, and only up to a number of bytes;
a document is JSON in UTF-8 of bounded depth whose fields are what they should be; arrays are those that a file has room
for. Whatever is wrong is one `LandscapeError`.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from landscape.core.errors import DamagedFile, LandscapeError, Unsupported

__all__ = [
    "DEPTH",
    "DOCUMENT",
    "ROOM",
    "conforming",
    "document_digest",
    "most_bytes",
    "opened",
    "parsed",
    "read_arrays",
    "read_bytes",
    "read_document",
    "read_json",
    "read_text",
    "require_regular",
    "require_room",
    "require_schema",
]

#: The variable that raises all limits, and the bytes of a file of tensors or values that are read without it.
VARIABLE, _MOST = "LANDSCAPE_MAX_BYTES", 64 * 2**30

#: Of that, what a document may have: 16 MiB, which take ten times as much when they are parsed.
DOCUMENT = 1 / 4096

#: Bytes that what a file holds may take beyond those of the file: more is a bomb.
ROOM = 64 * 2**20

#: Levels of nesting in a document or pickle, and lists and objects in a document.
DEPTH, _CONTAINERS = 64, 10**6

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

#: How a kind of field is called in errors.
_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}


def most_bytes(share: float = 1) -> int:
    """A share of the bytes of a file that are read: 64 GiB, or what the environment variable LANDSCAPE_MAX_BYTES says.

    Raises:
        LandscapeError: It says no number of bytes, such as 200G.
    """
    written = os.environ.get(VARIABLE, "").strip().upper().removesuffix("B").removesuffix("I")
    number, unit = (written[:-1], written[-1]) if written[-1:] in (*"KMGT",) else (written, "")
    if written and not (number.isascii() and number.isdigit() and int(number)):
        raise LandscapeError(f"--max-bytes, or {VARIABLE}, is {os.environ[VARIABLE]!r}: write a number, such as 200G")
    return int((int(number) * _UNITS[unit] if written else _MOST) * share)


@contextlib.contextmanager
def opened(path: Path, *, share: float = 1) -> Iterator[BinaryIO]:
    """A regular file, opened to be read.

    Args:
        path: Where it is.
        share: Its part of the bytes that are read.

    Raises:
        LandscapeError: There is none, it is something else, such as a pipe, or it has more bytes than are read.
    """
    try:
        _require_file(path, path.stat().st_mode)  # before it is opened, which can do something to a device
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            _require_file(path, found.st_mode)
            if found.st_size > (most := most_bytes(share)):
                raise LandscapeError(
                    f"{path} has {found.st_size:,} bytes, and at most {most:,} are read: if that is meant, "
                    f"raise the limit: landscape --max-bytes {math.ceil(found.st_size / share / 2**30)}G, or {VARIABLE}"
                )
            yield file
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "is a link to a file that is not there" if path.is_symlink() else "does not exist"
        raise LandscapeError(f"{path} {what}") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ELOOP:
            raise LandscapeError(f"{path} is a link that leads back to itself") from error
        raise LandscapeError(f"cannot read {path}: {getattr(error, 'strerror', '') or error}") from error


def require_regular(path: Path, *, share: float = 1) -> None:
    """Raise `LandscapeError` as `opened` does, for libraries that open files themselves."""
    with opened(path, share=share):
        pass


def _require_file(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise LandscapeError(f"{path} is a directory: give a file in it")
    if not stat.S_ISREG(mode):
        kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
        kind = next((word for holds, word in kinds.items() if holds(mode)), "a device")
        raise LandscapeError(f"{path} is {kind}, no file: copy what comes from it into a file")


def read_bytes(path: Path, *, share: float = 1) -> bytes:
    """All of a file; raises `LandscapeError` as `opened` does."""
    with opened(path, share=share) as file:
        return file.read()


def read_text(path: Path, *, share: float = DOCUMENT) -> str:
    """A document in UTF-8; raises `LandscapeError` as `opened` does, `DamagedFile` for other bytes."""
    try:
        return read_bytes(path, share=share).decode()
    except UnicodeDecodeError as error:
        where = f"{error.reason} at byte {error.start}"
        raise DamagedFile(f"{path} is damaged: it is no text in UTF-8 ({where})") from error


def parsed(text: str | bytes, where: object) -> Any:
    """A JSON document, `where` it stands; raises `DamagedFile` if it is none, or nested too deeply."""
    brackets = "[{" if isinstance(text, str) else (b"[", b"{")
    if len(text) > most_bytes(DOCUMENT) or sum(map(text.count, brackets)) > _CONTAINERS:  # type: ignore[arg-type]
        raise DamagedFile(f"{where} is damaged: it is no document of ours, which are smaller")
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise DamagedFile(f"{where} is damaged: it is nested more than {DEPTH} deep") from error
    except ValueError as error:
        raise DamagedFile(f"{where} is damaged: it is no JSON ({error})") from error
    level = [found]
    for _ in range(DEPTH):
        level = (
            [
                inner
                for each in level
                for inner in (each.values() if isinstance(each, dict) else each)
                if isinstance(inner, dict | list)
            ]
            if isinstance(found, dict | list)
            else []
        )
        if not level:
            return found
    raise DamagedFile(f"{where} is damaged: it is nested more than {DEPTH} deep")


def read_json(path: Path) -> Any:
    """Read a JSON document; raises `LandscapeError` if it cannot be read, `DamagedFile` if it is no JSON."""
    return parsed(read_text(path), path)


def conforming(document: Any, kinds: Mapping[str, Any], where: object) -> dict[str, Any]:
    """The document, an object whose fields are of these `kinds`; `where` it stands is told of one that is not.

    A kind is a type (`float` holds whole numbers, too, none of them NaN), None, a text as it is, an object with fields
    of certain kinds, of which those with a question mark behind their name may be absent, in brackets that of the items
    of a list, which with dots behind it has at least one, or in parentheses several of which one holds. Raises
    `DamagedFile`, naming the field.
    """
    lacks = sorted(key for key in kinds if key[-1] != "?" and not (isinstance(document, dict) and key in document))
    if lacks:
        raise DamagedFile(f"{where} is damaged: it lacks {', '.join(lacks)}")
    if wrong := _wrong(kinds, document, ""):
        raise DamagedFile(f"{where} is damaged: {wrong}")
    return dict(document)


def read_document(path: Path, schema: int, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Read a JSON object of a schema, whose fields are of these kinds, as `conforming` has them.

    One that has a `sha256` is as it was written; older ones have none. Raises as `read_json`, `DamagedFile` for another
    content, `Unsupported` for another schema.
    """
    document = conforming(read_json(path), {"schema": object, **dict.fromkeys(kinds, object)}, path)
    require_schema(document, schema, path)
    if "sha256" in document and document["sha256"] != document_digest(document):
        raise DamagedFile(f"{path} is damaged: it does not match its SHA-256; restore it")
    return conforming(document, kinds, path)


def require_schema(document: Mapping[str, Any], schema: int, path: Path) -> None:
    """Raise `Unsupported` for a document of another schema, `DamagedFile` where that is no number."""
    found = conforming(document, {"schema": int}, path)["schema"]
    if found != schema:
        raise Unsupported(f"{path} has schema {found}, this version reads {schema}: update landscape")


def document_digest(document: Mapping[str, Any]) -> str:
    """SHA-256 of all fields of a JSON object but its own `sha256`."""
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _wrong(kind: Any, value: Any, where: str) -> str:
    """What is wrong with a field, in words; empty if nothing is."""
    if isinstance(kind, tuple):
        every = [_wrong(each, value, where) for each in kind]
        if not all(every):
            return ""
        shaped = [
            (each, dict if isinstance(of, Mapping) else list)
            for each, of in zip(every, kind, strict=True)
            if isinstance(of, Mapping | list)
        ]
        return next((each for each, of in shaped if isinstance(value, of)), "") or _not(kind, value, where)
    if isinstance(kind, Mapping):
        if not isinstance(value, dict):
            return _not(dict, value, where)
        for key, inner in kind.items():
            name = key.removesuffix("?")
            if name not in value:
                if key == name:
                    return f"{where or 'it'} lacks {name}"
            elif wrong := _wrong(inner, value[name], f"{where}.{name}".lstrip(".")):
                return wrong
        return ""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return _not(list, value, where)
        if not value and kind[1:] == [...]:
            return f"{where} is empty"
        wrongs = (_wrong(kind[0], item, f"{where}[{number}]") for number, item in enumerate(value))
        return next(filter(None, wrongs), "")
    if kind is object or (kind is None and value is None) or (isinstance(kind, str) and kind == value):
        return ""
    if kind is None or isinstance(kind, str) or (isinstance(value, bool) and kind is not bool):
        return _not(kind, value, where)
    if kind is float:
        fits = isinstance(value, int | float) and abs(value) <= np.finfo(np.float64).max
        return "" if fits else _not(kind, value, where)
    return "" if isinstance(value, kind) else _not(kind, value, where)


def _not(kind: Any, value: Any, where: str) -> str:
    written = json.dumps(value)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    plain = [dict if isinstance(each, Mapping) else list if isinstance(each, list) else each for each in kinds]
    words = [str(_WORDS.get(each, each)) for each in plain]
    return f"{where or 'it'} is {written if len(written) <= 40 else written[:30] + '...'}, not {' or '.join(words)}"


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file; raises `LandscapeError` as `opened` does, `DamagedFile` for another content.

    Nothing is unpickled, and no member takes more room than the file and 64 MiB.
    """
    with opened(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                require_room(path, size, sum(member.file_size for member in archive.infolist()))
                for member in archive.infolist():
                    with archive.open(member) as each:
                        require_room(path, size, _declared(each))
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, SyntaxError) as error:
            raise DamagedFile(f"{path} is damaged ({error})") from error


def _declared(member: Any) -> int:
    """Bytes that an array takes, by its header."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(member)
    return math.prod(shape) * dtype.itemsize


def require_room(path: Path, size: int, needed: int) -> None:
    """Raise `DamagedFile` if what is in a file of `size` bytes takes many more: such a file was made to do harm."""
    if needed > size + ROOM:
        raise DamagedFile(f"{path} is damaged: what it says it holds takes {needed:,} bytes, and it has {size:,}")
