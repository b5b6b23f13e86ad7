"""Where to compute."""

import contextlib
from collections.abc import Iterator

import torch

from landscape.core.errors import LandscapeError

__all__ = ["chosen_device", "using_threads"]


def chosen_device(device: str | torch.device | None) -> torch.device:
    """The device that is asked for, the CPU if none is; `auto` is a GPU where there is one.

    Raises `LandscapeError` for a device that is not there, before anything is computed.
    """
    there = torch.cuda.is_available()
    if device is None or str(device) == "auto":
        return torch.device("cuda" if there and device else "cpu")
    try:
        found = torch.device(device if isinstance(device, torch.device | int) else str(device))
    except RuntimeError as error:
        raise LandscapeError(f"there is no device '{device}': `device` is auto, cpu or cuda") from error
    if found.type == "meta":
        raise LandscapeError('on the `device` meta there are no numbers: use `device="cpu"`, or auto')
    if found.type == "cuda" and not there:
        raise LandscapeError('there is no CUDA device here: use `device="cpu"`, or auto')
    return found


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Within the block torch computes with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
