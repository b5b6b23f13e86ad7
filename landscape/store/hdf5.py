"""The HDF5 file of a result: its seal, and what may stand in it, checked before anything of it is read.

In front of the HDF5 data stands a block of 512 bytes: what this is, the SHA-256 of all that follows, and that of the
values alone, by which a file that others have touched is told from a damaged one.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from landscape.core.errors import DamagedFile, LandscapeError, Unsupported, few
from landscape.core.reading import DOCUMENT, ROOM, most_bytes, opened
from landscape.store.kinds import SEALS, refuse_others

__all__ = ["SEAL_BYTES", "content_of", "is_sealed", "opened_file", "seal", "texts"]

#: Bytes in front of the HDF5 data (its user block).
SEAL_BYTES = 512

#: What is to be given where results are read.
_WANTED = "what landscape walk, plane or connect wrote"

_SEAL = re.compile(rb"(landscape \w+)\nsha256 ([0-9a-f]{64})\n(values [0-9a-f]{64}\n)?\0*")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"

#: Filters that we write: gzip, shuffle, fletcher32. For others the library would look for code to load.
_FILTERS = {1, 2, 3}

#: Variables in a file at most, and bytes of values for each byte of the file: ours are compressed only where they are
#: few.
_MOST, _PACKED = 1000, 32

#: Variables that hold texts.
_TEXTS = re.compile(r"moves|method|decision|(source|mark)_(\w+_)?(name|path|label|digest|order)")

#: Attributes of ours.
_OWN = {"schema", "kind", "axes", "about", "attributes"}
_SCALES = {"CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "_Netcdf4Dimid", "_Netcdf4Coordinates"}

#: What is said of a file that another process writes to.
_LOCKED, _OPEN = "locked", "{path} is open elsewhere for writing: close it there, then read it"

_LOG = logging.getLogger(__name__)

#: Seconds, and bytes in each further one, after which a process that looks at a damaged file is taken to hang.
_LOOK_SECONDS, _LOOK_BYTES = 6.0, 2**24


def is_sealed(path: Path) -> bool:
    """Whether a file says that it is a result of ours."""
    with contextlib.suppress(LandscapeError), opened(path) as file:
        return file.read(max(map(len, SEALS))).startswith(SEALS)
    return False


def seal(file: Any, values: str) -> None:
    """Fill the block in front of the HDF5 data; `values` is what `content_of` gave."""
    line = f"values {values}\n".encode()
    file.seek(SEAL_BYTES)
    head = SEALS[0] + f"\nsha256 {_digest(file, line)}\n".encode() + line
    file.seek(0)
    file.write(head.ljust(SEAL_BYTES, b"\0"))


def _digest(file: Any, line: bytes) -> str:
    """SHA-256 of a line of the block, and of what follows in a file."""
    sha = hashlib.sha256(line)
    while block := file.read(2**20):
        sha.update(block)
    return sha.hexdigest()


def content_of(file: h5py.File) -> str:
    """SHA-256 of what a file means: names, types, shapes, axes and values of its variables, and our attributes."""
    said = {name: file.attrs[name] for name in sorted(_OWN & set(file.attrs))}
    sha = hashlib.sha256(json.dumps(said, default=lambda each: np.asarray(each).tolist()).encode())
    for name in sorted(file):
        data = file[name]
        axes = [] if data.is_scale else [dim[0].name if len(dim) else "" for dim in data.dims]
        sha.update(json.dumps([name, data.dtype.str, data.shape, axes]).encode())
        rows = max(1, 2**20 // max(1, int(np.prod(data.shape[1:]))))
        for first in range(0, len(data) if data.ndim else 0, rows):
            block = data[first : first + rows]
            text = block.dtype == object
            sha.update(b"\0".join(block) if text else block.tobytes())
    return sha.hexdigest()


@contextlib.contextmanager
def opened_file(path: Path) -> Iterator[h5py.File]:
    """A result's file, sealed and with nothing in it but what we write.

    Raises `LandscapeError` if it cannot be read now, `Unsupported` for another file, `DamagedFile` for a damaged one.
    """
    _check_seal(path)
    try:
        file = h5py.File(path, "r")
    except BlockingIOError as error:
        raise LandscapeError(_OPEN.format(path=path)) from error
    with file:
        _require_plain(path, file)
        yield file


def _check_seal(path: Path) -> None:
    """Raise an error unless the file's bytes, or at least its values, are those that were written: damaged files can
    crash the HDF5 library.
    """
    if path.is_dir():
        refuse_others(path, _WANTED)
    with opened(path) as file:
        found = file.read(SEAL_BYTES)
        parts = _SEAL.fullmatch(found)
        line = (parts[3] if parts else None) or b""
        sha = _digest(file, line)
    first = found.partition(b"\n")[0]
    if first in SEALS and parts and len(found) == SEAL_BYTES and parts[2].decode() == sha:
        return
    if found.startswith(_HDF5_SIGNATURE):
        raise Unsupported(f"{path} is an HDF5 file, but no result: it was not written by landscape")
    if first not in SEALS:
        if not found.startswith(SEALS):
            refuse_others(path, _WANTED)
        raise DamagedFile(f"{path} is damaged, or no result: restore it, or evaluate again")
    told = _looked_at(path) if line else None
    if told == [_LOCKED]:
        raise LandscapeError(_OPEN.format(path=path))
    if told and told[0] == line.split()[1].decode():
        _LOG.warning("%s was changed after it was written (%s); its values are those that were written", path, told[1])
        return
    raise DamagedFile(f"{path} is damaged: its bytes do not match their SHA-256; restore it, or evaluate again")


def _looked_at(path: Path) -> list[str] | None:
    """What `content_of` a file gives, and what others wrote into it, found in a process of its own, which a damaged
    file can bring down; None if it does, or takes long.
    """
    program = "import sys; sys.path[:] = sys.argv[2:]; from landscape.store.hdf5 import _look; _look(sys.argv[1])"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
        command = [sys.executable, "-P", "-c", program, str(path.absolute()), *sys.path]
        seconds = _LOOK_SECONDS + path.stat().st_size / _LOOK_BYTES
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
        if done.returncode == 0:
            told: list[str] = json.loads(done.stdout)
            return told
    return None


def _look(path: str) -> None:
    """Print `content_of` a file, and what others wrote into it, or end soon: whoever asked may have died meanwhile."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # not on every system

        seconds = int(_LOOK_SECONDS + Path(path).stat().st_size / _LOOK_BYTES) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        file = h5py.File(path, "r")
    except BlockingIOError:
        print(json.dumps([_LOCKED]))
        return
    with file:
        _require_plain(Path(path), file)
        more = [f"attribute {name}" for name in file.attrs if name not in _OWN]
        more += [
            f"attribute {key} of {name}" for name, data in file.items() for key in data.attrs if key not in _SCALES
        ]
        print(json.dumps([content_of(file), few(more, 4) or "the same values, written anew"]))


def _require_plain(path: Path, file: h5py.File) -> None:
    """Raise `DamagedFile` unless all in a file are arrays of numbers or texts in it, of no more room than it has."""

    def refuse(what: str) -> None:
        raise DamagedFile(f"{path} is damaged, or no result: {what}, which landscape never writes")

    if len(file) > _MOST:
        refuse(f"it has {len(file)} variables")
    total = 0
    for name in file:
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            refuse(f"{name} is a link")
        data = file[name]
        if not isinstance(data, h5py.Dataset):
            refuse(f"{name} is no array")
        if data.is_virtual or data.external:
            refuse(f"the values of {name} are in another file")
        if data.dtype.kind not in "fiub" and not (_TEXTS.fullmatch(name) and h5py.check_string_dtype(data.dtype)):
            refuse(f"{name} is of type {data.dtype}")
        packing = data.id.get_create_plist()
        if any(packing.get_filter(number)[0] not in _FILTERS for number in range(packing.get_nfilters())):
            refuse(f"{name} is packed otherwise")
        total += data.size * data.dtype.itemsize
    if total > (most := path.stat().st_size * _PACKED + ROOM):
        refuse(f"its {total:,} bytes of values, {most:,} at most for so small a file")
    for name in _OWN & set(file.attrs):
        space = file.attrs.get_id(name)
        if space.get_storage_size() > most_bytes(DOCUMENT):
            refuse(f"its attribute {name} has {space.get_storage_size():,} bytes")


def texts(data: h5py.Dataset) -> list[str]:
    """The texts of a variable, which many rows may share."""
    found: list[str] = []
    size, most, raw, text = 0, os.path.getsize(data.file.filename) * _PACKED + ROOM, None, ""
    for first in range(0, len(data), 256):
        for each in data[first : first + 256]:
            if each != raw:  # neighbours, such as members of one file, share it
                raw, text = each, each.decode(errors="surrogateescape")
                size += len(text)
            found.append(text)
        if size > most:
            raise ValueError(f"the texts of {data.name} take more room than the file")
    return found
