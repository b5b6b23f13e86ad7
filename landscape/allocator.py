"""One setting of the C library's allocator that small, short-lived tensors need."""

import contextlib
import ctypes
import functools

__all__ = ["keep_freed_memory"]

#: glibc's names for its settings, and bytes: of freed memory that it may keep, of the largest piece that it keeps.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_KEPT = 2**28, 2**25


@functools.cache
def keep_freed_memory() -> None:
    """Tell glibc to keep up to 256 MiB of freed memory for the next chunk.

    Else it hands the memory back after each chunk, and its pages are faulted in again: on a virtual machine, a good
    part of the time of a training step. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
