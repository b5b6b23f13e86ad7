"""What the HDF5 files of the project share: a seal in front of the data, variables with axes, tables of sources."""

import contextlib
import dataclasses
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from landscape.core.errors import DamagedFile, LandscapeError, Mismatch, Unsupported
from landscape.core.files import replacing
from landscape.core.provenance import Source

__all__ = ["Kind", "create", "kind_of", "reading", "sources_of", "table", "writing"]

#: Bytes in front of the HDF5 data (its user block), which hold the digest of the rest.
_SEAL_BYTES = 512
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Kinds of files that there are.
_KINDS = ("curves", "surface")

#: Step or seed of a source that has none. Real ones are never negative.
_NONE = -1


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file: its name, what it holds (`a surface`), what writes it (`a walk`), how to make one anew."""

    name: str
    content: str
    writer: str
    remedy: str


@contextlib.contextmanager
def writing(path: Path, kind: Kind, *, schema: int, attributes: Mapping[str, Any]) -> Iterator[h5py.File]:
    """An empty HDF5 file to be filled, which is sealed and takes its place at `path` when the block ends well.

    It is made in memory: on a full disk the HDF5 library crashes the program.
    """
    made = io.BytesIO()
    with h5py.File(made, "w", userblock_size=_SEAL_BYTES) as file:
        yield file
        file.attrs["schema"] = schema
        file.attrs["kind"] = kind.name
        file.attrs["attributes"] = json.dumps(dict(attributes), sort_keys=True)
    content = made.getbuffer()
    content[:_SEAL_BYTES] = _seal(hashlib.sha256(content[_SEAL_BYTES:]).hexdigest(), kind.name)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def reading(path: Path, kind: Kind, *, schema: int) -> Iterator[tuple[h5py.File, dict[str, Any]]]:
    """Such a file and its attributes.

    Raises `DamagedFile` unless its digest fits and the block finds in it what it looks for, `Unsupported` for a file of
    another kind or schema.
    """
    _check_seal(path, kind)
    try:
        with h5py.File(path, "r") as file:
            if file.attrs["schema"] != schema:
                raise Unsupported(
                    f"{path} has schema {file.attrs['schema']}, this version reads {schema}: update landscape"
                )
            yield file, json.loads(str(file.attrs["attributes"]))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, Mismatch) as error:
        raise DamagedFile(f"{path} is damaged ({error}): restore it or {kind.remedy}") from error


def kind_of(path: Path) -> str | None:
    """What a sealed file says that it holds, such as `curves`; None for any other file."""
    try:
        with path.open("rb") as file:
            first, _, _ = file.read(_SEAL_BYTES).partition(b"\n")
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from error
    return next((kind for kind in _KINDS if first == f"landscape {kind}".encode()), None)


def create(file: h5py.File, name: str, array: np.ndarray, axes: tuple[str, ...]) -> None:
    """One variable with its dimension scales, compressed and with checksums where it has elements."""
    packing = (
        {"compression": "gzip", "shuffle": True, "fletcher32": True} if array.size and array.dtype != object else {}
    )
    text = array.dtype == object
    data = file.create_dataset(name, data=array, dtype=h5py.string_dtype() if text else array.dtype, **packing)
    for place, axis in enumerate(axes):
        data.dims[place].attach_scale(file[axis])


def table(sources: Sequence[Source]) -> dict[str, np.ndarray]:
    """Sources as columns, called `source_path` and so on."""
    columns: dict[str, np.ndarray] = {}
    for field in dataclasses.fields(Source):
        column = [getattr(source, field.name) for source in sources]
        if field.name in ("step", "seed"):
            array = np.array([_NONE if value is None else value for value in column], dtype=np.int64)
        else:
            array = np.array(column, dtype=object)
        columns[f"source_{field.name}"] = array
    return columns


def sources_of(file: h5py.File) -> list[Source]:
    """The table of sources of a file."""
    columns = [file[f"source_{field.name}"][()].tolist() for field in dataclasses.fields(Source)]
    return [Source(*_row(row)) for row in zip(*columns, strict=True)]


def _row(row: Sequence[Any]) -> list[Any]:
    """A row of the table as the fields of a `Source`."""
    decoded = [value.decode() if isinstance(value, bytes) else value for value in row]
    return [None if value == _NONE else value for value in decoded]


def _seal(sha: str, kind: str) -> bytes:
    """The block in front of the HDF5 data: what this is, and the SHA-256 of all that follows."""
    return f"landscape {kind}\nsha256 {sha}\n".encode().ljust(_SEAL_BYTES, b"\0")


def _check_seal(path: Path, kind: Kind) -> None:
    """Raise an error unless the file's bytes are those that were written: damaged files can crash the HDF5 library."""
    try:
        with path.open("rb") as file:
            found = file.read(_SEAL_BYTES)
            sha = hashlib.file_digest(file, "sha256").hexdigest()  # of what follows
            if found == _seal(sha, kind.name):
                return
            other = kind_of(path)
            whole = other is not None and found == _seal(sha, other)
    except FileNotFoundError as error:
        raise LandscapeError(f"{path} does not exist") from error
    except OSError as error:
        raise LandscapeError(f"cannot read {path}: {error.strerror or error}") from error
    if whole:
        raise Unsupported(f"{path} is of the kind '{other}', not '{kind.name}': give a file written by {kind.writer}")
    if found.startswith(_HDF5_SIGNATURE):
        raise Unsupported(f"{path} is an HDF5 file, but none of {kind.content}: it was not written by {kind.writer}")
    if not found.startswith(f"landscape {kind.name}\n".encode()):
        raise DamagedFile(f"{path} is damaged or no file of {kind.content}: restore it or {kind.remedy}")
    raise DamagedFile(f"{path} is damaged: its bytes do not match their SHA-256; restore it or {kind.remedy}")
