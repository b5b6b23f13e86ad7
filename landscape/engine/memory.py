"""How many members and samples are evaluated at once."""

import contextlib
import ctypes
import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from landscape.core.resources import require_memory
from landscape.engine.data import SAMPLE_MULTIPLE, Data, Stream
from landscape.engine.program.products import ceil_div
from landscape.engine.stacked import Stacked

__all__ = [
    "AUTOMATIC",
    "Chunk",
    "choose_chunk",
    "fitting_batch",
    "fitting_network",
    "keep_freed_memory",
    "widest_output",
]

M = TypeVar("M", bound=nn.Module)

#: Bytes of the widest activation of a chunk: about a core's cache on a CPU, a small share of the memory on a GPU.
ACTIVATION_BYTES = {"cpu": 2**20, "cuda": 2**28}

#: The same in training on a CPU where each member has data of its own, and how many members then make a chunk at most.
OWN_BYTES, OWN_MEMBERS = 10 * 2**20, 20

#: Members come in multiples of at least this half: vector units then never treat a member's numbers differently for
#: its place.
MEMBER_MULTIPLE = 16

#: glibc's names for its settings, and bytes: of freed memory that it may keep, of the largest piece that it keeps.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_KEPT = 2**28, 2**25


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Members and samples that are evaluated at once; stored with every result, since rounding can depend on it."""

    members: int
    samples: int

    def halved(self) -> "Chunk | None":
        """Half the members, or of a few members half the samples; None where nothing is left to halve."""
        if self.members > 1:
            return Chunk(self.members // 2, self.samples)
        if self.samples > SAMPLE_MULTIPLE:
            return Chunk(1, ceil_div(self.samples, 2 * SAMPLE_MULTIPLE) * SAMPLE_MULTIPLE)
        return None


#: The chunk that an objective chooses for itself.
AUTOMATIC = Chunk(0, 0)


def choose_chunk(network: Stacked, data: Data | Stream, *, training: bool = False, most: int | None = None) -> Chunk:
    """Sizes at which the widest activation of a chunk has about `ACTIVATION_BYTES`, and a bounded number of members on
    a CPU: small chunks waste little on a short last one (a line of 51 points).

    For `training` chunks are larger: a backward pass has more operations to pay for. Where each member has data of its
    own, products are member by member anyway, and chunks have few members, as many in each. There are at `most` so many
    members: no chunk is larger than it takes for them (but of `vmap`, whose products have the shape of the chunk).
    """
    most = None if network.backend == "vmap" else most
    if isinstance(data, Stream):
        data = data.first
    inputs = data.samples(0, SAMPLE_MULTIPLE).inputs
    device = inputs.device.type
    budget = ACTIVATION_BYTES.get(device, ACTIVATION_BYTES["cuda"]) * (2 if training else 1)
    bytes_of_one = inputs.dtype.itemsize if inputs.is_floating_point() else 4
    width = network.widest(inputs) * bytes_of_one
    threads = torch.get_num_threads() if device == "cpu" else 1
    if network.backend == "loop" and not training:
        return Chunk(1, _whole(16 * budget // width, len(data)))
    if device == "cpu" and not training and (least := _least(network, threads)) < MEMBER_MULTIPLE:
        return _few_members(network.widest(inputs, data=False) * bytes_of_one, len(data), least, most)
    if training and inputs.shape[0] > 1:
        return _own_chunk(width, len(data), math.lcm(2, threads), device, most)
    fitting = 4 * budget // (MEMBER_MULTIPLE * width)
    samples = min(len(data), max(SAMPLE_MULTIPLE, fitting // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE))
    # A multiple of the thread count too: elementwise operations split a chunk evenly over threads, and a split inside a
    # vector would make rounding depend on the place.
    multiple = math.lcm(MEMBER_MULTIPLE, threads)
    members = round(budget / (samples * width) / multiple) * multiple
    if device == "cpu":
        members = min(members, (256 if training else 64) // multiple * multiple, _filled(most, multiple))
    return Chunk(max(multiple, members), samples)


def _least(network: Stacked, threads: int) -> int:
    """The fewest members that a chunk can have so that a member's numbers do not depend on its place: the first
    product, one for all members together, must have a multiple of 16 rows, sums over samples one of 4, and threads must
    share the rest evenly.
    """
    rows = next((shape[0] for shape in network.template.shapes.values() if len(shape) > 1), 1)
    return math.lcm(4, MEMBER_MULTIPLE // math.gcd(MEMBER_MULTIPLE, rows), threads)


def _few_members(width: int, samples: int, multiple: int, most: int | None) -> Chunk:
    """As many samples as there are, within bounds, of a few members: a wide network's weights are then read seldom."""
    budget = ACTIVATION_BYTES["cpu"]
    samples = _whole(budget // width, samples)
    members = round(budget / (samples * width) / multiple) * multiple
    return Chunk(max(multiple, min(members, 64 // multiple * multiple, _filled(most, multiple))), samples)


def _whole(fitting: int, samples: int) -> int:
    """As many samples as fit, in whole multiples, of those that there are."""
    return min(samples, max(SAMPLE_MULTIPLE, fitting // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE))


def _filled(most: int | None, multiple: int) -> int:
    """The smallest multiple that holds `most`."""
    return 2**62 // multiple * multiple if most is None else ceil_div(most, multiple) * multiple


def _own_chunk(width: int, samples: int, multiple: int, device: str, all_members: int | None) -> Chunk:
    """Members with data of their own: up to twenty on a CPU, as many in each chunk; on a GPU all that fit."""
    budget, most = (OWN_BYTES, OWN_MEMBERS) if device == "cpu" else (ACTIVATION_BYTES["cuda"] * 4, 2**16)
    members = max(multiple, min(most, 8 * budget // (SAMPLE_MULTIPLE * width)) // multiple * multiple)
    # Samples as for a full chunk: how they are parted decides how a member's gradient is summed, and its noise.
    fitting = budget // (members * width) // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE
    if all_members is not None:
        chunks = ceil_div(all_members, members)
        members = _filled(ceil_div(all_members, chunks), multiple)
    return Chunk(members, min(samples, max(SAMPLE_MULTIPLE, fitting)))


def fitting_network(make: Callable[[], M], instead: str) -> M:
    """What `make` makes, a network, if memory has room for it; else raises `TooMuch`, and says what to do `instead`."""
    with torch.device("meta"):  # shapes without numbers
        numbers = [each.nbytes for each in make().state_dict().values()]
    require_memory(sum(numbers), f"{sum(numbers) // 4:,} parameters", instead)
    return make()


@torch.no_grad()
def widest_output(module: nn.Module, inputs: torch.Tensor) -> int:
    """Numbers for each sample in what the widest layer of a module makes of some inputs, or in these."""
    return max(inputs.numel(), *_outputs(module, inputs)) // len(inputs)


def fitting_batch(module: nn.Module, inputs: torch.Tensor) -> int:
    """Samples of a batch whose widest activation fits a core's cache on a CPU, where more are slower, and takes a small
    share of the memory on a GPU; or as many as have as many activations as there are parameters, which each batch reads
    from memory.
    """
    few = inputs[:2]
    outputs = _outputs(module, few)
    room = 2 * ACTIVATION_BYTES.get(inputs.device.type, ACTIVATION_BYTES["cuda"]) // 4
    parameters = sum(each.numel() for each in module.parameters())
    fitting = max(room // max(few.numel(), *outputs), parameters // max(1, sum(outputs))) * len(few)
    return max(SAMPLE_MULTIPLE, fitting // SAMPLE_MULTIPLE * SAMPLE_MULTIPLE)


def _outputs(module: nn.Module, inputs: torch.Tensor) -> list[int]:
    """Numbers in what each layer without layers of its own makes of some inputs, and in the module's answer."""
    sizes = [0]
    layers = {each for each in module.modules() if not list(each.children())}
    handles = [
        each.register_forward_hook(
            lambda layer, given, made: sizes.append(made.numel() if isinstance(made, torch.Tensor) else 0)
        )
        for each in layers | {module}
    ]
    try:
        module(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return sizes


def keep_freed_memory() -> None:
    """Tell glibc to keep up to 256 MiB of freed memory for the next chunk.

    Else it hands the memory back after each chunk, and its pages are faulted in again: on a virtual machine, a good
    part of the time of a training step. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
