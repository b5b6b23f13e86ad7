"""How often each pattern occurs on random boards, counted by a compiled loop: the numbers of `boards.pattern_counts`.

Words are drawn by Philox4x32-10, as in `core/philox.py`, each of their octets becomes eight bytes in one word, and rows
of boards become numbers of patterns many at a time. Most of the time goes to counting these, one after another.
"""

import functools
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from landscape.engine.jit import compiled, helpers, in_threads
from landscape.problems.life.boards import STREAM

__all__ = ["pattern_shares"]

_WORD, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_FIRST, _SECOND = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_FIRST, _WEYL_SECOND = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)

#: Each byte 1; bit k of byte k; each bit of a byte but the last.
_ONES, _DIAGONAL = np.uint64(0x0101010101010101), np.uint64(0x8040201008040201)
_BELOW, _LAST = np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(7)


def pattern_shares(
    seeds: Int[Tensor, " member"],
    steps: range,
    size: int,
    height: int,
    width: int,
    density: float,
    dtype: torch.dtype,
) -> Float[Tensor, "step member 512"]:
    """The share of each pattern among the cells of each member's boards of each step, of boards that are neither all
    dead nor all live.
    """
    digits = round(density * 2**16)
    places = 16 - (digits & -digits).bit_length() + 1
    out = torch.empty(len(steps), len(seeds), 512, dtype=dtype)
    numbers, keys, loop = out.numpy(), seeds.numpy(), _compiled()
    total = numbers.dtype.type(size * height * width)

    def part(some: slice) -> None:
        drawn = keys[some], STREAM, steps.start, size, height, width, digits >> (16 - places), places
        loop(*drawn, total, numbers, some.start)

    in_threads(part, len(seeds), len(steps))
    return out


@functools.cache
def _compiled() -> Any:
    helpers(_draw, _unpack, _put, _join, _number, _tally)
    return compiled(_count)


# What follows is compiled.


def _count(
    seeds: Any,
    stream: Any,
    first: Any,
    size: Any,
    height: Any,
    width: Any,
    digits: Any,
    places: Any,
    total: Any,
    out: Any,
    begin: Any,
) -> None:
    words = (size + 31) // 32
    lanes = 32 * words
    count, long = height * width * words, width * lanes
    fair = np.empty(((places * count + 3) // 4, 4), np.uint32)
    flat = fair.reshape(fair.size)
    eights = np.empty(4 * count, np.uint64)
    cells = eights.view(np.uint8).reshape((height, long))
    rows = np.zeros((height + 2, long), np.uint8)  # three neighbours in a row, an octal digit; none beyond the edge
    codes = np.empty(long, np.uint16)
    seen = np.empty((4, 512), np.int64)  # four counts, so that none waits for the one before it
    for step in range(len(out)):
        for member in range(len(seeds)):
            _draw(seeds[member], stream, first + step, fair)
            for i in range(count):
                word = np.uint32(0)
                for place in range(places):
                    drawn = flat[place * count + i]
                    word = drawn | word if digits >> place & 1 else drawn & word
                flat[i] = word
            _unpack(flat[:count].view(np.uint8), eights)
            for i in range(height):
                _put(rows[i + 1], cells[i])
                _join(rows[i + 1, lanes:], cells[i, : long - lanes], 0)
                _join(rows[i + 1, : long - lanes], cells[i, lanes:], 2)
            seen[:] = 0
            for i in range(height):
                _number(rows[i + 1], rows[i], rows[i + 2], codes)
                for j in range(width):
                    _tally(codes[j * lanes : j * lanes + size], seen)
            for code in range(512):
                found = seen[0, code] + seen[1, code] + seen[2, code] + seen[3, code]
                out[step, begin + member, code] = out.dtype.type(found) / total


def _draw(seed: Any, stream: Any, step: Any, fair: Any) -> None:
    """Words, four a block."""
    b, c, d = np.uint64(stream), np.uint64(step) & _WORD, np.uint64(step) >> _HALF
    low, high = np.uint64(seed) & _WORD, np.uint64(seed) >> _HALF
    for block in range(len(fair)):
        c0, c1, c2, c3, k0, k1 = np.uint64(block), b, c, d, low, high
        for _ in range(10):
            p, q = c0 * _FIRST, c2 * _SECOND
            c0, c1, c2, c3 = (q >> _HALF) ^ c1 ^ k0, q & _WORD, (p >> _HALF) ^ c3 ^ k1, p & _WORD
            k0, k1 = (k0 + _WEYL_FIRST) & _WORD, (k1 + _WEYL_SECOND) & _WORD
        fair[block, 0], fair[block, 1], fair[block, 2], fair[block, 3] = c0, c1, c2, c3


def _unpack(octets: Any, eights: Any) -> None:
    for i in range(len(octets)):
        eights[i] = ((((np.uint64(octets[i]) * _ONES) & _DIAGONAL) + _BELOW) >> _LAST) & _ONES


def _put(to: Any, cells: Any) -> None:
    for i in range(len(to)):
        to[i] = cells[i] << 1


def _join(to: Any, cells: Any, places: Any) -> None:
    for i in range(len(to)):
        to[i] |= cells[i] << places


def _number(row: Any, above: Any, below: Any, codes: Any) -> None:
    for i in range(len(codes)):
        codes[i] = (np.uint16(row[i]) << 3) | above[i] | (np.uint16(below[i]) << 6)


def _tally(codes: Any, seen: Any) -> None:
    last = len(codes) - len(codes) % 4
    for i in range(0, last, 4):
        seen[0, codes[i]] += 1
        seen[1, codes[i + 1]] += 1
        seen[2, codes[i + 2]] += 1
        seen[3, codes[i + 3]] += 1
    for i in range(last, len(codes)):
        seen[0, codes[i]] += 1
