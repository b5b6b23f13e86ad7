"""Random boards: a pure function of (seed, step), and what one step of training needs to know of them.

Boards are drawn as random bits, 32 cells a word. For a network of one step, a batch of boards acts on the loss only
through how often each of the 512 patterns occurs in it, so the counts stand in for the boards.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from landscape import philox

__all__ = ["pattern_counts", "random_boards"]

_STREAM = 1

#: Cells drawn at once: bounds the memory, and keeps the intermediate results in a cache.
_CELLS = 2**19


def random_boards(
    seeds: Int[Tensor, " member"], step: int, count: int, height: int, width: int, density: float
) -> UInt8[Tensor, "member board height width"]:
    """Boards of independent cells, live with probability `density` (rounded to a multiple of 2^-16)."""
    cells = count * height * width
    words = philox.bernoulli_words(seeds, density, stream=_STREAM, step=step, count=-(-cells // 32))
    octets = torch.stack([words >> shift for shift in (0, 8, 16, 24)], dim=1).to(torch.uint8)
    bits = torch.stack([octets >> place & 1 for place in range(8)], dim=1).flatten(1)[:, :cells]
    # Boards lie innermost in memory: neighbours are then long runs, however small a board is.
    return bits.view(-1, height, width, count).movedim(-1, 1)


def pattern_counts(
    seeds: Int[Tensor, " member"], step: int, count: int, height: int, width: int, density: float
) -> Float[Tensor, "member 512"]:
    """How often each pattern occurs around the cells of each member's `random_boards`."""
    members = max(1, _CELLS // (count * height * width))
    return torch.cat(
        [
            _histogram(pattern_codes(random_boards(part, step, count, height, width, density)))
            for part in torch.split(seeds, members)
        ]
    )


def pattern_codes(boards: UInt8[Tensor, "*boards height width"]) -> Int[Tensor, "*boards height width"]:
    """The number of the pattern around each cell, cells beyond the edge dead.

    Three neighbours in a row make an octal digit, three such digits the pattern.
    """
    digits = boards << 1
    digits[..., :-1] |= boards[..., 1:] << 2
    digits[..., 1:] |= boards[..., :-1]
    digits = digits.to(torch.int16)
    codes = digits << 3
    codes[..., :-1, :] |= digits[..., 1:, :] << 6
    codes[..., 1:, :] |= digits[..., :-1, :]
    return codes


def _histogram(codes: Int[Tensor, "member board height width"]) -> Float[Tensor, "member 512"]:
    """Counts of each code, a row a member; whole numbers, so that the order of addition is all the same."""
    codes = codes.movedim(1, -1).flatten(1).long()
    one = torch.ones(1, 1, device=codes.device).expand(codes.shape)
    return torch.zeros(len(codes), 512, device=codes.device).scatter_add_(1, codes, one)
