"""Philox4x32-10, a counter-based random generator: numbers as a pure function of (seed, stream, step, index).

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011. Nothing is
stored and nothing global is touched; the integers are the same on every device, whatever else is computed beside them.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["bernoulli_words", "normal", "philox4x32", "signs", "uniform", "words"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds on 32-bit words held in int64 tensors that broadcast together.

    Products wrap modulo 2^64 as int64 does; masking after the arithmetic shift recovers their unsigned upper half.
    """
    c0, c1, c2, c3 = counter
    rounds = torch.arange(10, device=key[0].device).view(-1, *[1] * key[0].ndim)
    keys = (((word + rounds * weyl) & _MASK).unbind() for word, weyl in zip(key, _WEYL, strict=True))
    for k0, k1 in zip(*keys, strict=True):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & _MASK) ^ c1 ^ k0, p1 & _MASK, (p0 >> 32 & _MASK) ^ c3 ^ k1, p0 & _MASK
    return c0, c1, c2, c3


def words(seeds: Int[Tensor, " member"], *, stream: int, step: int, count: int) -> Int[Tensor, "member count"]:
    """`count` independent 32-bit words for each 64-bit seed, as int64 from 0 to 2^32 - 1.

    `stream` (below 2^32) keeps uses of one seed apart, `step` (below 2^64) their repetitions. A longer request begins
    with the words of a shorter one.
    """
    blocks = torch.arange(-(-count // 4), device=seeds.device)
    constants = (torch.tensor(value, device=seeds.device) for value in (stream, step & _MASK, step >> 32))
    seeds = seeds[:, None]
    lanes = philox4x32((blocks, *constants), (seeds & _MASK, seeds >> 32 & _MASK))  # type: ignore[arg-type]
    return torch.stack(lanes, dim=-1).flatten(1)[:, :count]


def uniform(seeds: Int[Tensor, " member"], *, stream: int, step: int, count: int) -> Float[Tensor, "member count"]:
    """Float32 uniform on [0, 1): multiples of 2^-24."""
    return (words(seeds, stream=stream, step=step, count=count) >> 8).to(torch.float32) * 2.0**-24


def normal(seeds: Int[Tensor, " member"], *, stream: int, step: int, count: int) -> Float[Tensor, "member count"]:
    """Float64 standard normal, by Box and Muller's transform of pairs of uniforms."""
    u = words(seeds, stream=stream, step=step, count=2 * count).double()
    radius = torch.sqrt(-2 * torch.log((u[:, :count] + 1) * 2.0**-32))
    return radius * torch.cos(2 * math.pi * 2.0**-32 * u[:, count:])


def signs(seed: int, *, stream: int, step: int, count: int) -> Float[Tensor, " count"]:
    """Float64 1 or -1, as likely."""
    return words(torch.tensor([seed]), stream=stream, step=step, count=count)[0].remainder(2).mul(2).sub(1).double()


def bernoulli_words(
    seeds: Int[Tensor, " member"], probability: float, *, stream: int, step: int, count: int
) -> Int[Tensor, "member count"]:
    """Words whose 32 bits are each 1 with `probability`, rounded to a multiple of 2^-16, independently.

    Reads the binary digits of the probability from the last to the first: an AND with fair bits halves the
    probability so far, an OR halves its distance from 1. A half costs one fair word.
    """
    digits = round(probability * 2**16)
    if digits in (0, 2**16):
        return torch.full((len(seeds), count), _MASK if digits else 0, device=seeds.device)
    places = 16 - (digits & -digits).bit_length() + 1
    digits >>= 16 - places
    fair = words(seeds, stream=stream, step=step, count=places * count).view(-1, places, count)
    result = torch.zeros_like(fair[:, 0])
    for place in range(places):
        result = fair[:, place] | result if digits >> place & 1 else fair[:, place] & result
    return result
