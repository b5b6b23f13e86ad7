"""One writer at a time: an output is locked by who writes it, and says who that is."""

import contextlib
import datetime
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from landscape.core.errors import Busy, DamagedFile, LandscapeError
from landscape.core.reading import DOCUMENT, parsed, read_bytes

__all__ = ["LOCK", "lock_of", "writing"]

#: Lock of a directory, in it; that of a file is beside it, `.NAME.lock`.
LOCK = ".lock"

#: What this process writes, and in which thread: what is inside of it needs no lock of its own.
_held: dict[Path, int] = {}


@contextlib.contextmanager
def writing(output: Path | None, *, directory: bool = False, wait: float = 0.0) -> Iterator[bool]:
    """Within the block nobody else writes `output`, a file, or with `directory` one that is made if it is not there.
    Gives whether the last writer died: then what it had begun lies there. Its temporary files are removed.

    The operating system holds the lock (`flock`), and frees it when its holder dies, however that happens. Over NFS it
    holds between hosts too. Where a file system has no such locks, the lock is a file with the holder's process and
    host: on the same host it is taken over when that process is gone; of another host it cannot be seen, and the file
    must be deleted by hand.

    Args:
        output: What is written; None locks nothing.
        directory: Whether it is a directory, which is removed again if it was made here and is left empty.
        wait: Seconds to wait for another writer.

    Raises:
        Busy: Somebody else writes it; the message says who.
        LandscapeError: It cannot be made.
    """
    if output is None or _is_ours(output.absolute(), inside=not directory):
        yield False
        return
    folder = (output if directory else output.parent).absolute()
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with _said(output):
            folder.mkdir(parents=True, exist_ok=True)
        lock = lock_of(output, directory=directory)
        died = lock.exists()
        with _locked(output, lock, wait):
            # Nobody writes them any more. In a directory of ours those of the library of safetensors, too.
            for pattern in (".*.tmp", ".tmp??????") if directory else (f".{output.name}.*.tmp",):
                for left_over in folder.glob(pattern):
                    left_over.unlink(missing_ok=True)
            yield died
    finally:
        with contextlib.suppress(OSError):  # which is what a directory with something in it is
            for place in made:
                place.rmdir()


def lock_of(output: Path, *, directory: bool = False) -> Path:
    """The file that says who writes an output, and stays if that dies."""
    if not directory and not output.name:
        raise LandscapeError(f"cannot write {output}: it is a directory")
    return output / LOCK if directory else output.with_name(f".{output.name}{LOCK}")


@contextlib.contextmanager
def _locked(output: Path, place: Path, wait: float) -> Iterator[None]:
    import filelock  # takes as long as a short walk

    lock: filelock.BaseFileLock = filelock.FileLock(place, timeout=wait, on_acquired=_sign)
    try:
        with _said(output):
            try:
                lock.acquire()
            except NotImplementedError:  # no locks in this file system
                lock = filelock.SoftFileLock(place, timeout=wait)
                lock.acquire()
    except filelock.Timeout:
        if not place.exists():  # it is not held: the folder takes no file, as /proc, or it was let go just now
            probe = output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp")
            with _said(output):
                probe.touch()
                probe.unlink(missing_ok=True)  # another writer may have cleared it away
        raise Busy(f"{output} is being written by {_holder(place)}: wait for it, or choose another output") from None
    _held[output.absolute()] = threading.get_ident()
    try:
        yield
    finally:
        del _held[output.absolute()]
        if not isinstance(lock, filelock.SoftFileLock):
            with contextlib.suppress(OSError):
                place.unlink()  # while it is held: who opened it meanwhile sees that it is gone, and opens it anew
        lock.release()


def _is_ours(output: Path, *, inside: bool) -> bool:
    """Whether this thread writes it already, or, if that serves, a directory that it is inside of."""
    places = (output, *output.parents) if inside else (output,)
    return any(_held.get(place) == threading.get_ident() for place in places)


@contextlib.contextmanager
def _said(output: Path) -> Iterator[None]:
    """What the file system refuses is a line about the output."""
    try:
        yield
    except TimeoutError:  # it is held
        raise
    except OSError as error:
        raise LandscapeError(f"cannot write {output}: {error.strerror or error}: choose another output") from error


def _sign(descriptor: int) -> None:
    """Write into the lock who holds it."""
    holder = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200],
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    os.fsync(descriptor)  # it says, after a crash of the machine too, that something was begun


def _holder(place: Path) -> str:
    """Who holds a lock, in words."""
    try:
        text = read_bytes(place, share=DOCUMENT).decode(errors="replace")
    except LandscapeError:
        return "another process"
    try:
        holder = parsed(text, place)
        return f"process {holder['pid']} on {holder['host']} since {holder['since']} ({holder['command']})"
    except (DamagedFile, TypeError, KeyError):
        lines = text.split()[:2]  # as `SoftFileLock` writes it
        return f"process {' on '.join(lines)} (if it is gone, delete {place})" if lines else "another process"
