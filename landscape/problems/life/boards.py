"""Random boards, 32 to a word: a pure function of (seed, step), advanced by bitwise arithmetic.

A board is a bit: bit b of word k of a cell is that cell of board 32 k + b. One operation on words then advances 32
boards, and a million boards of 10 x 10 take 13 MB. What a network reads is unpacked from them a chunk at a time: the
number of the 3 x 3 pattern around each cell. For a network of one step a batch of boards acts on the loss only through
how often each of the 512 patterns occurs in it, so the counts stand in for the boards.
"""

import dataclasses
import functools

import torch
from jaxtyping import Float, Int, Int16, Int32, UInt8
from torch import Tensor

from landscape.core import philox
from landscape.engine.data import Batch
from landscape.problems.life.rules import Rule

__all__ = [
    "STREAM",
    "PackedBoards",
    "advance",
    "pattern_codes",
    "pattern_counts",
    "random_boards",
    "random_words",
    "unpack",
]

#: Of Philox's streams that of boards.
STREAM = 1

#: Cells drawn at once by `pattern_counts`: bounds the memory, and keeps the intermediate results in a cache.
_CELLS = 2**19

#: The eight bits of each octet, the lowest first, as eight bytes in one word.
_EIGHT = torch.stack([torch.arange(256) >> place & 1 for place in range(8)], dim=1).to(torch.uint8).view(torch.int64)
_EIGHT = _EIGHT.flatten()


def random_words(
    seeds: Int[Tensor, " member"], step: int, count: int, height: int, width: int, density: float
) -> Int32[Tensor, "member height width word"]:
    """At least `count` boards, in words; cells are live with probability `density` (rounded to a multiple of 2^-16)."""
    words = -(-count // 32)
    drawn = philox.bernoulli_words(seeds, density, stream=STREAM, step=step, count=height * width * words)
    return drawn.to(torch.int32).view(-1, height, width, words)


def unpack(words: Int32[Tensor, "*cells word"]) -> UInt8[Tensor, "*cells board"]:
    """Boards of bytes, 32 for each word, boards last: neighbours are long runs in memory, however small a board is."""
    octets = words.contiguous().view(torch.uint8)
    eight = _EIGHT.to(words.device).index_select(0, octets.flatten().int())
    return eight.view(torch.uint8).view(*words.shape[:-1], -1)


def random_boards(
    seeds: Int[Tensor, " member"], step: int, count: int, height: int, width: int, density: float
) -> UInt8[Tensor, "member height width board"]:
    """The first `count` boards of `random_words`, a byte a cell."""
    return unpack(random_words(seeds, step, count, height, width, density))[..., :count]


def advance(
    words: Int32[Tensor, "members height width word"], rule: Rule, steps: int
) -> Int32[Tensor, "members height width word"]:
    """The boards `steps` generations later: neighbours are counted in binary, one bit of the counts at a time."""
    _, height, width, _ = words.shape
    places = [(i, j) for i in range(3) for j in range(3) if rule.kernel[i, j]]
    for _ in range(steps):
        padded = torch.nn.functional.pad(words, (0, 0, 1, 1, 1, 1))
        bits: list[Tensor] = []
        for most, (i, j) in enumerate(places, start=1):
            carry = padded[:, i : i + height, j : j + width]
            for place, bit in enumerate(bits):
                bits[place], carry = bit ^ carry, bit & carry
            if most & (most - 1) == 0:  # 1, 2, 4 and 8 need one digit more than what is less
                bits.append(carry)
        born, survives = (_any_count(bits, counts) for counts in (rule.birth, rule.survival))
        words = (words & survives) | (~words & born)
    return words


def _any_count(bits: list[Tensor], counts: frozenset[int]) -> Tensor:
    """Ones where the number whose binary digits are `bits`, the lowest first, is one of `counts`."""
    result = torch.zeros_like(bits[0])
    for count in counts:
        matches = [bit if count >> place & 1 else ~bit for place, bit in enumerate(bits)]
        result = result | functools.reduce(torch.bitwise_and, matches)
    return result


def pattern_codes(boards: UInt8[Tensor, "*some height width board"]) -> Int16[Tensor, "*some height width board"]:
    """The number of the pattern around each cell, cells beyond the edge dead.

    Three neighbours in a row make an octal digit, three such digits the pattern.
    """
    digits = boards << 1
    digits[..., :-1, :] |= boards[..., 1:, :] << 2
    digits[..., 1:, :] |= boards[..., :-1, :]
    digits = digits.to(torch.int16)
    codes = digits << 3
    codes[..., :-1, :, :] |= digits[..., 1:, :, :] << 6
    codes[..., 1:, :, :] |= digits[..., :-1, :, :]
    return codes


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


def _histogram(codes: Int[Tensor, "member height width board"]) -> Float[Tensor, "member 512"]:
    """Counts of each code, a row a member; whole numbers, so that the order of addition is all the same."""
    codes = codes.flatten(1).long()
    # Up to 2^24 float32 counts exactly.
    dtype = torch.float32 if codes.shape[1] <= 2**24 else torch.float64
    one = torch.ones(1, 1, dtype=dtype, device=codes.device).expand(codes.shape)
    return torch.zeros(len(codes), 512, dtype=dtype, device=codes.device).scatter_add_(1, codes, one)


@dataclasses.dataclass(frozen=True, eq=False)
class PackedBoards:
    """Boards and the boards that follow them, in words; `samples` unpacks a part of them.

    `count` boards are real, those that fill up the last words weigh nothing. Where the network reads whole `codes`, the
    inputs are numbers of patterns, else cells as [members, 1, height, width, board], shifted by `shift`.
    """

    now: Int32[Tensor, "members height width word"]
    later: Int32[Tensor, "members height width word"]
    count: int
    dtype: torch.dtype
    codes: bool
    shift: float = 0.0

    def __len__(self) -> int:
        return 32 * self.now.shape[-1]

    @functools.cached_property
    def weights(self) -> Float[Tensor, "1 board"]:
        """The same for each real board, 0 for the others."""
        weights = torch.zeros(1, len(self), dtype=torch.float64, device=self.now.device)
        weights[:, : self.count] = 1 / self.count
        return weights

    def members(self, index: Tensor) -> "PackedBoards":
        """The boards of the members at `index`; shared ones are those of all."""
        if len(self.now) == 1:
            return self
        return dataclasses.replace(self, now=self.now.index_select(0, index), later=self.later.index_select(0, index))

    def part(self, index: Tensor) -> "PackedBoards":
        """Consecutive boards, from a multiple of 32 on."""
        words = slice(int(index[0]) // 32, -(-(int(index[-1]) + 1) // 32))
        return dataclasses.replace(
            self, now=self.now[..., words].contiguous(), later=self.later[..., words].contiguous(), count=len(index)
        )

    def corner(self, boards: int, side: int) -> "PackedBoards":
        """Of the first `boards` the cells of the upper left corner, as boards of this side at most."""
        some = self.part(torch.arange(min(boards, self.count)))
        now, later = (words[:, :side, :side].contiguous() for words in (some.now, some.later))
        return dataclasses.replace(some, now=now, later=later)

    def samples(self, start: int, stop: int) -> Batch:
        """A range of boards, unpacked; `start` and `stop` are multiples of 32."""
        words = slice(start // 32, -(-stop // 32))
        boards = unpack(self.now[..., words])
        inputs = pattern_codes(boards)[:, None] if self.codes else boards[:, None].to(self.dtype) + self.shift
        return Batch(inputs, unpack(self.later[..., words]).to(self.dtype), self.weights[:, start:stop])
