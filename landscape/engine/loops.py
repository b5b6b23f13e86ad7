"""The loops that numba compiles for `landscape.engine.fused`: small networks on patterns of a few bits, and on boards.

All that is compiled stands in this one file, since what numba keeps on the disk it makes anew when the file of a loop
changes, not when that of a helper does (nor for other flags in `landscape.engine.jit`: who changes these clears it).

Arrays are of the type of the parameters, but for weights of losses. A row of parameters holds, block by block, weights
[wide, bits] and biases of the layer that reads patterns, those of [narrow, wide] and those of [1, narrow].
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from landscape.engine.jit import by_type, compiled, helpers

__all__ = ["board_steps", "losses", "steps"]

#: Degrees of exp(r) on |r| <= log(2) / 2 and of 2 atanh(s) / s in s^2 on s <= 1/3, to the rounding of each type.
_DEGREES = {"float32": (7, 7), "float64": (13, 15)}


@functools.cache
def losses() -> Callable[..., None]:
    """`_losses`, compiled when it is first called."""
    _prepared()
    return compiled(_losses)


@functools.cache
def steps() -> Callable[..., None]:
    """`_steps`, the same."""
    _prepared()
    return compiled(_steps)


@functools.cache
def board_steps() -> Callable[..., None]:
    """`_board_steps`, the same."""
    _prepared()
    return compiled(_board_steps)


@functools.cache
def _prepared() -> None:
    helpers(
        _double,
        _rectify,
        _enter,
        _pass,
        _add,
        _mix,
        _mix_two,
        _mix_four,
        _pull,
        _cross_entropy,
        _window,
        _spread,
        _bits,
    )
    helpers(_patterns, _through, _back, _into, _unfold, _update, _codes, _sides, inline=False)
    helpers(_read, _read_back, inline=False)
    helpers(_fold, _total, _dot, _dots, _dots_two, _dots_three, _dots_four, _weighed, _right, sums=True)
    by_type(_decay, _decay_of)
    by_type(_log1p, _log1p_of)


def _losses(flat: Any, slope: Any, wide: Any, narrow: Any, shift: Any, side: Any, weights: Any, out: Any) -> None:
    """`out` [member, 3] gets the sums of cross-entropy and right answers, weighed [1 or member, pattern], in float64,
    and the number of these. `side` is 1 for patterns whose target is 1 and -1 for 0.
    """
    patterns = len(side)
    z, h = np.empty((wide, patterns), flat.dtype), np.empty((narrow, patterns), flat.dtype)
    y, loss = np.empty(patterns, flat.dtype), np.empty(patterns, flat.dtype)
    for member in range(len(flat)):
        own = weights[member % len(weights)]
        second = _patterns(flat[member], narrow, slope, shift, z)
        _through(flat[member], second, slope, z, h, y)
        _cross_entropy(y, side, loss)
        out[member, 0] = _weighed(loss, own)
        out[member, 1], out[member, 2] = _right(y, side, own)


def _steps(
    flat: Any,
    first: Any,
    second: Any,
    begin: Any,
    corrections: Any,
    adam: Any,
    constants: Any,
    learns: Any,
    slope: Any,
    wide: Any,
    narrow: Any,
    shift: Any,
    side: Any,
    weights: Any,
) -> None:
    """A step for each row of `corrections` of each member's parameters and moments, a row a member, in place; `weights`
    are [1 or step, 1 or member, pattern], of members from `begin` on. What `learns` [parameter] says is not learnt
    stays.
    """
    patterns, count = len(side), flat.shape[1]
    z, h = np.empty((wide, patterns), flat.dtype), np.empty((narrow, patterns), flat.dtype)
    y, gradient = np.empty(patterns, flat.dtype), np.empty(count, flat.dtype)
    d = np.empty((2, patterns), flat.dtype)
    for member in range(len(flat)):
        row, m, v = flat[member], first[member], second[member]
        for step in range(len(corrections)):
            to_narrow = _patterns(row, narrow, slope, shift, z)
            _through(row, to_narrow, slope, z, h, y)
            _pull(y, side, weights[step % len(weights), (begin + member) % weights.shape[1]])
            gradient[:] = slope - slope
            _back(row, to_narrow, slope, z, h, y, gradient)
            _unfold(row, to_narrow, slope, shift, z, h, d, gradient)
            _update(row, m, v, gradient, learns, corrections[step], adam, constants)


def _board_steps(
    flat: Any,
    first: Any,
    second: Any,
    begin: Any,
    corrections: Any,
    adam: Any,
    constants: Any,
    learns: Any,
    slope: Any,
    wide: Any,
    narrow: Any,
    blocks: Any,
    shift: Any,
    now: Any,
    later: Any,
    boards: Any,
    losses: Any,
) -> None:
    """The same for networks of several `blocks` on boards, 32 to a word: `now` and `later` are [step, 1 or member,
    height, width, word], of which `boards` are real. `losses`, of all members or empty, get that of the first step.

    The first block answers by the 512 patterns, is computed on these, and looked up. The others go row by row, of 32
    boards at a time, cells of all boards side by side: what a place reads is then nine runs of numbers.
    """
    count, height, width, words = flat.shape[1], now.shape[2], now.shape[3], now.shape[4]
    size, run, patterns, later_blocks = count // blocks, 32 * width, 512, max(blocks - 1, 1)
    zero = slope - slope
    z0, h0 = np.empty((wide, patterns), flat.dtype), np.empty((narrow, patterns), flat.dtype)
    table, d0 = np.empty(patterns, flat.dtype), np.empty((2, patterns), flat.dtype)
    # Of a pattern, derivatives at all its cells add up, thousands of them.
    back, pulled = np.empty(patterns, np.float64), np.empty(patterns, flat.dtype)
    gradient = np.empty(count, flat.dtype)
    # What blocks after the first read, within a border of dead cells, what they make of it, and derivatives.
    x = np.zeros((later_blocks, height + 2, run + 64), flat.dtype)
    z = np.empty((later_blocks, height, wide, run), flat.dtype)
    h = np.empty((later_blocks, height, narrow, run), flat.dtype)
    y, pull = np.empty((height, run), flat.dtype), np.empty((height + 2, run), flat.dtype)
    d = np.zeros((2, run + 64), flat.dtype)
    codes = np.empty((height, run), np.int32)
    side, weights, loss = np.empty(run, flat.dtype), np.empty(run, flat.dtype), np.empty(run, flat.dtype)
    cell = 1 / np.float64(boards * height * width)
    for member in range(len(flat)):
        row, m, v = flat[member], first[member], second[member]
        for step in range(len(corrections)):
            own = (begin + member) % now.shape[1]
            gradient[:] = zero
            back[:] = 0.0
            total = 0.0
            to_narrow = _patterns(row[:size], narrow, slope, shift, z0)
            _through(row[:size], to_narrow, slope, z0, h0, table)
            if blocks > 1:
                _rectify(table, slope)
            for word in range(words):
                for i in range(run):
                    weights[i] = cell if 32 * word + i % 32 < boards else zero
                _codes(now[step, own], word, codes)
                for i in range(height):
                    to = y[i] if blocks == 1 else x[0, i + 1, 32 : 32 + run]
                    for k in range(run):
                        to[k] = table[codes[i, k]]
                for b in range(1, blocks):
                    part = row[b * size : (b + 1) * size]
                    for i in range(height):
                        to = y[i] if b == blocks - 1 else x[b, i + 1, 32 : 32 + run]
                        _read(part, slope, x[b - 1], i, z[b - 1, i])
                        _through(part, to_narrow, slope, z[b - 1, i], h[b - 1, i], to)
                        if b < blocks - 1:
                            _rectify(to, slope)
                for i in range(height):
                    _sides(later[step, own, i], word, side)
                    if step == 0 and len(losses):
                        _cross_entropy(y[i], side, loss)
                        total += _weighed(loss, weights)
                    _pull(y[i], side, weights)
                for b in range(blocks - 1, 0, -1):
                    part, slant = row[b * size : (b + 1) * size], gradient[b * size : (b + 1) * size]
                    pull[:] = zero
                    for i in range(height):
                        if b < blocks - 1:
                            _pass(y[i], x[b, i + 1, 32 : 32 + run], slope)
                        _back(part, to_narrow, slope, z[b - 1, i], h[b - 1, i], y[i], slant)
                        _read_back(part, to_narrow, slope, x[b - 1], i, z[b - 1, i], h[b - 1, i], d, pull, slant)
                    y[:] = pull[1 : height + 1]
                for i in range(height):
                    for k in range(run):
                        back[codes[i, k]] += y[i, k]
            if step == 0 and len(losses):
                losses[begin + member] = total
            pulled[:] = back
            if blocks > 1:
                _pass(pulled, table, slope)
            _back(row[:size], to_narrow, slope, z0, h0, pulled, gradient[:size])
            _unfold(row[:size], to_narrow, slope, shift, z0, h0, d0, gradient[:size])
            _update(row, m, v, gradient, learns, corrections[step], adam, constants)


def _update(row: Any, m: Any, v: Any, gradient: Any, learns: Any, correction: Any, adam: Any, constants: Any) -> None:
    """The optimizer's step of the numbers that are learnt, as `training/optimizers.py` has it."""
    beta1, beta2, rest1, rest2, epsilon, lr, momentum, decay = constants
    c1, c2 = correction[0], correction[1]
    for k in range(len(row)):
        slant, on = gradient[k] + row[k] * decay, learns[k]
        if adam:
            mean, square = m[k] * beta1 + slant * rest1, v[k] * beta2 + slant * slant * rest2
            v[k] = square if on else v[k]
            after = row[k] - mean / c1 * lr / (np.sqrt(square / c2) + epsilon)
        else:
            mean = m[k] * momentum + slant
            after = row[k] - mean * lr
        m[k] = mean if on else m[k]
        row[k] = after if on else row[k]


def _patterns(row: Any, narrow: Any, slope: Any, shift: Any, z: Any) -> Any:
    """What the first layer makes of all patterns, `z` [wide, pattern], rectified; where the next layer begins."""
    wide = len(z)
    bits = (len(row) - 1 - narrow * (wide + 2)) // wide - 1
    for f in range(wide):
        start = row[wide * bits + f]
        for j in range(bits):
            start -= shift * row[f * bits + j]
        z[f, 0] = start
        for j in range(bits):
            size = 1 << j
            _double(z[f, :size], z[f, size : 2 * size], row[f * bits + j])
        _rectify(z[f], slope)
    return wide * (bits + 1)


def _through(row: Any, second: Any, slope: Any, z: Any, h: Any, y: Any) -> None:
    """What the layers from `second` on make of `z` [wide, place]: `h` [narrow, place], rectified, and `y` [place]."""
    wide, narrow = len(z), len(h)
    third = second + narrow * (wide + 1)
    for g in range(narrow):
        h[g, :] = row[second + narrow * wide + g]
    for g in range(0, narrow - 1, 2):
        p, q = second + g * wide, second + (g + 1) * wide
        for f in range(0, wide - 3, 4):
            _mix_four(
                h[g], h[g + 1], z[f], z[f + 1], z[f + 2], z[f + 3], row[p + f : p + f + 4], row[q + f : q + f + 4]
            )
        if wide % 4:
            f = wide - 2
            _mix_two(h[g], h[g + 1], z[f], z[f + 1], row[p + f : p + f + 2], row[q + f : q + f + 2])
    if narrow % 2:
        p = second + (narrow - 1) * wide
        for f in range(0, wide, 2):
            _mix(h[narrow - 1], z[f], z[f + 1], row[p + f], row[p + f + 1])
    for g in range(narrow):
        _rectify(h[g], slope)
    y[:] = row[third + narrow]
    for g in range(0, narrow - 1, 2):
        _mix(y, h[g], h[g + 1], row[third + g], row[third + g + 1])
    if narrow % 2:
        _add(y, h[narrow - 1], row[third + narrow - 1])


def _back(row: Any, second: Any, slope: Any, z: Any, h: Any, y: Any, gradient: Any) -> None:
    """Adds to the gradient in the layers from `second` on, from derivatives of the loss in the outputs, `y`; `h`
    becomes the derivative in what was rectified to it.
    """
    wide, narrow = len(z), len(h)
    third = second + narrow * (wide + 1)
    gradient[third + narrow] += _total(y)
    for g in range(narrow):
        gradient[third + g] += _dot(y, h[g])
        _enter(h[g], y, row[third + g], slope)
        gradient[second + narrow * wide + g] += _total(h[g])
    for g in range(0, narrow - 1, 2):
        p, q = second + g * wide, second + (g + 1) * wide
        for f in range(0, wide - 3, 4):
            _dots_four(
                h[g],
                h[g + 1],
                z[f],
                z[f + 1],
                z[f + 2],
                z[f + 3],
                gradient[p + f : p + f + 4],
                gradient[q + f : q + f + 4],
            )
        if wide % 4:
            f = wide - 2
            _dots_two(h[g], h[g + 1], z[f], z[f + 1], gradient[p + f : p + f + 2], gradient[q + f : q + f + 2])
    if narrow % 2:
        p = second + (narrow - 1) * wide
        for f in range(0, wide, 2):
            _dots(h[narrow - 1], z[f], z[f + 1], gradient[p + f : p + f + 2])


def _into(row: Any, second: Any, slope: Any, z: Any, h: Any, f: Any, a: Any, b: Any) -> None:
    """`a` and `b` become derivatives in what was rectified to `z[f]` and `z[f + 1]`, from those in the next layer,
    `h`.
    """
    wide, narrow = len(z), len(h)
    a[:] = slope - slope
    b[:] = slope - slope
    w = row[second : second + narrow * wide]
    for g in range(0, narrow - 3, 4):
        p = g * wide + f
        _mix_four(a, b, h[g], h[g + 1], h[g + 2], h[g + 3], w[p::wide], w[p + 1 :: wide])
    for g in range(narrow - narrow % 4, narrow):
        _add(a, h[g], w[g * wide + f])
        _add(b, h[g], w[g * wide + f + 1])
    _pass(a, z[f], slope)
    _pass(b, z[f + 1], slope)


def _unfold(row: Any, second: Any, slope: Any, shift: Any, z: Any, h: Any, d: Any, gradient: Any) -> None:
    """Adds the gradient in the first layer, which reads patterns."""
    wide = len(z)
    bits = second // wide - 1
    for first in range(0, wide, 2):
        _into(row, second, slope, z, h, first, d[0], d[1])
        for k in range(2):
            f, size = first + k, d.shape[1]
            for j in range(bits - 1, -1, -1):
                size >>= 1
                gradient[f * bits + j] += _fold(d[k, :size], d[k, size : 2 * size])
            for j in range(bits):
                gradient[f * bits + j] -= shift * d[k, 0]
            gradient[wide * bits + f] += d[k, 0]


def _read(row: Any, slope: Any, x: Any, i: Any, z: Any) -> None:
    """What the first layer makes of row `i` of boards within their border, `x` [height + 2, 32 (width + 2)]."""
    wide = len(z)
    for f in range(0, wide, 2):
        _window(z[f], z[f + 1], x[i], x[i + 1], x[i + 2], row[9 * f : 9 * f + 18], row[9 * wide + f : 9 * wide + f + 2])
        _rectify(z[f], slope)
        _rectify(z[f + 1], slope)


def _read_back(
    row: Any, second: Any, slope: Any, x: Any, i: Any, z: Any, h: Any, d: Any, pull: Any, gradient: Any
) -> None:
    """Adds to the gradient in that layer, and to the derivatives in what it read, `pull` [height + 2, 32
    width]; `d` [2, 32 (width + 2)] has a border of zeros.
    """
    wide, run = len(z), z.shape[1]
    for f in range(0, wide, 2):
        a, b = d[0, 32 : 32 + run], d[1, 32 : 32 + run]
        _into(row, second, slope, z, h, f, a, b)
        gradient[9 * wide + f] += _total(a)
        gradient[9 * wide + f + 1] += _total(b)
        p, q = 9 * f, 9 * f + 9
        for j in range(3):
            _dots_three(a, b, x[i + j], gradient[p + 3 * j : p + 3 * j + 3], gradient[q + 3 * j : q + 3 * j + 3])
        _spread(pull[i], pull[i + 1], pull[i + 2], d[0], d[1], row[p : p + 9], row[q : q + 9])


def _codes(now: Any, word: Any, codes: Any) -> None:
    """Numbers of the patterns around the cells of 32 boards, cells beyond the edge dead, [height, 32 width]."""
    height, width = now.shape[:2]
    for i in range(height):
        for j in range(width):
            to = codes[i, 32 * j : 32 * j + 32]
            to[:] = 0
            for k in range(9):
                y, x = i + k // 3 - 1, j + k % 3 - 1
                if 0 <= y < height and 0 <= x < width:
                    _bits(now[y, x, word], k, to)


def _bits(word: Any, place: Any, to: Any) -> None:
    for s in range(32):
        to[s] |= ((word >> s) & 1) << place


def _sides(later: Any, word: Any, side: Any) -> None:
    """1 for live cells of a row of 32 boards and -1 for dead ones."""
    for j in range(len(later)):
        for s in range(32):
            side[32 * j + s] = 2 * ((later[j, word] >> s) & 1) - 1


def _window(a: Any, b: Any, above: Any, here: Any, below: Any, w: Any, bias: Any) -> None:
    """Two filters of 3 x 3 on a row; cells of one column are 32 numbers apart from those of the next."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
    v0, v1, v2, v3, v4, v5, v6, v7, v8 = w[9], w[10], w[11], w[12], w[13], w[14], w[15], w[16], w[17]
    one, two = bias[0], bias[1]
    for i in range(len(a)):
        p, q, r = above[i], above[i + 32], above[i + 64]
        s, t, u = here[i], here[i + 32], here[i + 64]
        x, y, z = below[i], below[i + 32], below[i + 64]
        a[i] = one + w0 * p + w1 * q + w2 * r + w3 * s + w4 * t + w5 * u + w6 * x + w7 * y + w8 * z
        b[i] = two + v0 * p + v1 * q + v2 * r + v3 * s + v4 * t + v5 * u + v6 * x + v7 * y + v8 * z


def _spread(above: Any, here: Any, below: Any, a: Any, b: Any, w: Any, v: Any) -> None:
    """The way back of a row of two filters to the rows that they read, from derivatives within a border of zeros."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7], w[8]
    v0, v1, v2, v3, v4, v5, v6, v7, v8 = v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8]
    for i in range(len(here)):
        p, q, r = a[i], a[i + 32], a[i + 64]
        s, t, u = b[i], b[i + 32], b[i + 64]
        above[i] += w0 * r + w1 * q + w2 * p + v0 * u + v1 * t + v2 * s
        here[i] += w3 * r + w4 * q + w5 * p + v3 * u + v4 * t + v5 * s
        below[i] += w6 * r + w7 * q + w8 * p + v6 * u + v7 * t + v8 * s


def _double(low: Any, high: Any, weight: Any) -> None:
    for i in range(len(low)):
        high[i] = low[i] + weight


def _fold(low: Any, high: Any) -> Any:
    """The sum of `high`, which is added to `low`."""
    total = low.dtype.type(0)
    for i in range(len(low)):
        total += high[i]
        low[i] += high[i]
    return total


def _rectify(a: Any, slope: Any) -> None:
    zero = a.dtype.type(0)
    for i in range(len(a)):
        a[i] = a[i] if a[i] > zero else a[i] * slope


def _enter(a: Any, pull: Any, weight: Any, slope: Any) -> None:
    """Put the derivative in what was rectified to `a` in its place."""
    zero = a.dtype.type(0)
    for i in range(len(a)):
        x = weight * pull[i]
        a[i] = x if a[i] > zero else x * slope


def _pass(pull: Any, a: Any, slope: Any) -> None:
    zero = a.dtype.type(0)
    for i in range(len(a)):
        pull[i] = pull[i] if a[i] > zero else pull[i] * slope


def _add(to: Any, a: Any, weight: Any) -> None:
    for i in range(len(to)):
        to[i] += weight * a[i]


def _mix(to: Any, a: Any, b: Any, in_a: Any, in_b: Any) -> None:
    for i in range(len(to)):
        to[i] += in_a * a[i] + in_b * b[i]


def _mix_two(p: Any, q: Any, a: Any, b: Any, w: Any, v: Any) -> None:
    w0, w1, v0, v1 = w[0], w[1], v[0], v[1]
    for i in range(len(p)):
        p[i] += w0 * a[i] + w1 * b[i]
        q[i] += v0 * a[i] + v1 * b[i]


def _mix_four(p: Any, q: Any, a: Any, b: Any, c: Any, d: Any, w: Any, v: Any) -> None:
    w0, w1, w2, w3, v0, v1, v2, v3 = w[0], w[1], w[2], w[3], v[0], v[1], v[2], v[3]
    for i in range(len(p)):
        p[i] += w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]
        q[i] += v0 * a[i] + v1 * b[i] + v2 * c[i] + v3 * d[i]


def _total(a: Any) -> Any:
    total = a.dtype.type(0)
    for i in range(len(a)):
        total += a[i]
    return total


def _dot(p: Any, a: Any) -> Any:
    total = p.dtype.type(0)
    for i in range(len(p)):
        total += p[i] * a[i]
    return total


def _dots(p: Any, a: Any, b: Any, to: Any) -> None:
    first = second = p.dtype.type(0)
    for i in range(len(p)):
        first += p[i] * a[i]
        second += p[i] * b[i]
    to[0] += first
    to[1] += second


def _dots_two(p: Any, q: Any, a: Any, b: Any, to_p: Any, to_q: Any) -> None:
    first = second = third = fourth = p.dtype.type(0)
    for i in range(len(p)):
        first += p[i] * a[i]
        second += p[i] * b[i]
        third += q[i] * a[i]
        fourth += q[i] * b[i]
    to_p[0] += first
    to_p[1] += second
    to_q[0] += third
    to_q[1] += fourth


def _dots_three(p: Any, q: Any, x: Any, to_p: Any, to_q: Any) -> None:
    """With a row within its border, and with this one and two columns further."""
    p0 = p1 = p2 = q0 = q1 = q2 = p.dtype.type(0)
    for i in range(len(p)):
        p0 += p[i] * x[i]
        p1 += p[i] * x[i + 32]
        p2 += p[i] * x[i + 64]
        q0 += q[i] * x[i]
        q1 += q[i] * x[i + 32]
        q2 += q[i] * x[i + 64]
    to_p[0] += p0
    to_p[1] += p1
    to_p[2] += p2
    to_q[0] += q0
    to_q[1] += q1
    to_q[2] += q2


def _dots_four(p: Any, q: Any, a: Any, b: Any, c: Any, d: Any, to_p: Any, to_q: Any) -> None:
    p0 = p1 = p2 = p3 = q0 = q1 = q2 = q3 = p.dtype.type(0)
    for i in range(len(p)):
        p0 += p[i] * a[i]
        p1 += p[i] * b[i]
        p2 += p[i] * c[i]
        p3 += p[i] * d[i]
        q0 += q[i] * a[i]
        q1 += q[i] * b[i]
        q2 += q[i] * c[i]
        q3 += q[i] * d[i]
    to_p[0] += p0
    to_p[1] += p1
    to_p[2] += p2
    to_p[3] += p3
    to_q[0] += q0
    to_q[1] += q1
    to_q[2] += q2
    to_q[3] += q3


def _weighed(values: Any, weights: Any) -> Any:
    total = 0.0
    for i in range(len(values)):
        total += weights[i] * np.float64(values[i])
    return total


def _right(y: Any, side: Any, weights: Any) -> Any:
    zero, total, count = y.dtype.type(0), 0.0, 0
    for i in range(len(y)):
        right = (y[i] > zero) == (side[i] > zero)
        total += weights[i] if right else 0.0
        count += 1 if right else 0
    return total, count


def _cross_entropy(y: Any, side: Any, loss: Any) -> None:
    """log(1 + exp(-ahead)) = max(-ahead, 0) + log1p(exp(-|ahead|))"""
    zero = y.dtype.type(0)
    for i in range(len(y)):
        ahead = y[i] * side[i]
        loss[i] = _log1p(_decay(ahead)) + (-ahead if ahead < zero else zero)


def _pull(y: Any, side: Any, weights: Any) -> None:
    """Put the derivative of the weighed loss in its place: 1 / (1 + exp(ahead)), with all digits at both ends."""
    zero, one = y.dtype.type(0), y.dtype.type(1)
    for i in range(len(y)):
        ahead = y[i] * side[i]
        e = _decay(ahead)
        y[i] = -side[i] * weights[i] * ((one if ahead < zero else e) / (one + e))


def _decay(x: Any) -> Any:
    """exp(-|x|); `_decay_of` makes it."""
    raise NotImplementedError


def _log1p(e: Any) -> Any:
    """log(1 + e) for e from 0 to 1; `_log1p_of` makes it."""
    raise NotImplementedError


def _decay_of(type_name: str) -> Callable[[Any], Any]:
    real: Any = np.dtype(type_name).type
    single, exponents = real is np.float32, _DEGREES[type_name][0]
    whole = np.int32 if single else np.int64
    mantissa, bias = (23, 127) if single else (52, 1023)
    # Added and taken off again it rounds to a whole number, which then stands in the last bits.
    magic = real(1.5 * 2.0**mantissa)
    unit, place = whole(bias << mantissa), whole(mantissa)
    least, half = real(-55.0 if single else -375.0), real(0.5)
    to_binary = real(1 / math.log(2))
    # log(2) in two parts, of which whole multiples of the first are exact.
    high = real(0.693359375) if single else real(float.fromhex("0x1.62e42fee00000p-1"))
    low = real(-2.12194440e-4) if single else real(1.90821492927058770002e-10)
    c = tuple(real(1 / math.factorial(k)) for k in range(exponents, -1, -1))

    def decay(x: Any) -> Any:
        x = -abs(x) * half  # exp(x) = exp(x / 2)^2, which may underflow
        x = least if x < least else x
        rounded = x * to_binary + magic
        n = rounded - magic
        r = (x - n * high) - n * low
        p = c[0]
        if single:
            p = (((p * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]
            p = ((p * r + c[5]) * r + c[6]) * r + c[7]
        else:
            p = (((p * r + c[1]) * r + c[2]) * r + c[3]) * r + c[4]
            p = (((p * r + c[5]) * r + c[6]) * r + c[7]) * r + c[8]
            p = (((p * r + c[9]) * r + c[10]) * r + c[11]) * r + c[12]
            p = p * r + c[13]
        p *= whole((real(rounded).view(whole) << place) + unit).view(real)
        return p * p

    return decay


def _log1p_of(type_name: str) -> Callable[[Any], Any]:
    real: Any = np.dtype(type_name).type
    single, two = real is np.float32, real(2)
    d = tuple(real(2 / (2 * k + 1)) for k in range(_DEGREES[type_name][1], -1, -1))

    def log1p(e: Any) -> Any:
        s = e / (two + e)
        q = s * s
        t = d[0]
        if single:
            t = (((t * q + d[1]) * q + d[2]) * q + d[3]) * q + d[4]
            t = ((t * q + d[5]) * q + d[6]) * q + d[7]
        else:
            t = (((t * q + d[1]) * q + d[2]) * q + d[3]) * q + d[4]
            t = (((t * q + d[5]) * q + d[6]) * q + d[7]) * q + d[8]
            t = (((t * q + d[9]) * q + d[10]) * q + d[11]) * q + d[12]
            t = ((t * q + d[13]) * q + d[14]) * q + d[15]
        return s * t

    return log1p
