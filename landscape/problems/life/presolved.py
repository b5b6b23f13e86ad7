"""Known solutions: weights, written down by hand, with which a network plays n steps of a life-like rule exactly.

Let n be the sum over a cell's neighbours and c the cell itself. One block of the smallest network (m_factor 1) computes

    f_i = act(neighbour_i n + centre_i c + bias_i),   g = act(sum_i mix_i f_i + mix_bias),   y = act(out g + out_bias),

so it can tell an interval from the rest: each f_i finds one end of it, g and y join them. The designs below do that for
rules whose birth and survival counts are intervals, or empty; they differ in how the ends are found:

- `post`, the numbers of the original study: f2 lifts g again on crowded cells;
- `bump`, the same in integers, for every interval rule;
- `hat`: f1 and f2 each push g down on one side; with suitable gains for every activation;
- `trapezoid`: two saturating ramps of two filters each, flat on live and on dead cells whatever the negative slope.

Wider networks repeat the filters, deeper ones append blocks that make 0 and 1 of what is nearly 0 and 1. Nothing is
tested against the rule here: whoever takes such weights verifies them.
"""

import dataclasses
import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.philox import normal
from landscape.problems.life.rules import Rule

__all__ = ["DESIGNS", "SPARES", "default_design", "presolved"]

#: Names of the designs.
DESIGNS = ("post", "bump", "hat", "trapezoid")
#: What filters beyond those of a design do: repeat them and share their outgoing weights, or nothing at all; or
#: `split` with normal noise of standard deviation EPS on every weight and bias.
SPARES = ("split", "zero", "noise:EPS")

#: Slope of the piecewise linear activations on negative numbers; of RReLU the mean, with which it is evaluated.
_SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "rrelu": 11 / 48}
#: The activations a design is made for.
_SERVES = {
    "post": ("relu", "leaky_relu"),
    "bump": ("relu",),
    "hat": (*_SLOPES, "elu", "gelu"),
    "trapezoid": tuple(_SLOPES),
}
_POST_RULES = ("B3/S23V", "B3/S23")
_GELU_ONE = 1.1444507183528787  # gelu of it is 1
_LOGIT = 10.0
_STREAM = 0x50524553  # "PRES": apart from the streams of other uses of a seed


@dataclasses.dataclass(frozen=True)
class _Block:
    """One block of a network without spare filters, and the values of its g on live and on dead cells."""

    filters: Float[np.ndarray, "filter 3"]  # neighbour weight, centre weight, bias
    mix: Float[np.ndarray, " filter"]
    mix_bias: float
    out: float
    out_bias: float
    live: float
    dead: float


@dataclasses.dataclass(frozen=True)
class _Band:
    """Alive is where lower(n, c) > 0 > upper(n, c), for two filters that stay `margin` or more away from 0."""

    lower: Float[np.ndarray, "3"]
    upper: Float[np.ndarray, "3"]
    margin: float

    @property
    def parallel(self) -> bool:
        """Does the centre weigh the same at both ends?"""
        return bool(self.lower[1] == self.upper[1])


#: Alive is what was alive: 1/2 < c < 3/2.
_SAME = _Band(np.array([0, 1, -0.5]), np.array([0, 1, -1.5]), 0.5)


def _intervals(rule: Rule) -> list[tuple[int, int]]:
    """First and last count of birth and of survival.

    An empty set stands for counts that no cell has, as many as the other set holds, so that one band can serve both.
    """
    longest = max(len(rule.birth), len(rule.survival), 1)
    intervals = []
    for name, counts in (("birth", sorted(rule.birth)), ("survival", sorted(rule.survival))):
        low, high = (counts[0], counts[-1]) if counts else (rule.neighbours + 1, rule.neighbours + longest)
        if counts and (gap := sorted(set(range(low, high)) - set(counts))):
            has, lacks = (", ".join(map(str, some)) for some in (counts, gap))
            raise Unsupported(
                f"no solution of {rule} is known: its {name} counts {has} are no interval ({lacks} missing), and the "
                "designs tell one interval from the rest; take a rule without gaps, such as B3/S23"
            )
        intervals.append((low, high))
    return intervals


def _band(rule: Rule) -> _Band:
    """The two thresholds of an interval rule, each in the middle of its gap.

    A cell in state c is alive if low_c <= n <= high_c. The lower filter n + a c - t must be positive at low_c and
    negative at low_c - 1 for both c, so that |a - (birth low - survival low)| < 1; the upper one likewise.

    >>> _band(Rule.parse("B3/S23")).lower.tolist(), _band(Rule.parse("B3/S23")).upper.tolist()
    ([1.0, 0.5, -2.25], [1.0, 0.5, -3.75])
    """
    births, survivals = _intervals(rule)
    centres = [float(birth - survival) for birth, survival in zip(births, survivals, strict=True)]
    if abs(centres[0] - centres[1]) < 2:  # then one weight serves both ends
        centres = [sum(centres) / 2] * 2
    filters, widths = [], []
    # Counts just below and just above either threshold: low - 1 and low, high and high + 1.
    for end, (below, above) in enumerate([(-1, 0), (0, 1)]):
        values = births[end], survivals[end] + centres[end]
        start, stop = max(values) + below, min(values) + above
        filters.append(np.array([1, centres[end], -(start + stop) / 2]))
        widths.append(stop - start)
    return _Band(filters[0], filters[1], min(widths) / 2)


def _post(rule: Rule) -> _Block:
    """The study's weights: with s = n + c/2, g = relu(1 - 2 relu(s - 2) + 10 relu(s - 7/2)), y = relu(1 - 2 g)."""
    if str(rule) not in _POST_RULES:
        raise Unsupported(
            f"design 'post' plays {' and '.join(_POST_RULES)} alone, not {rule}: take 'hat' or, for relu, 'bump'"
        )
    filters = np.array([[1, 0.5, -2], [1, 0.5, -3.5]])
    return _Block(filters, np.array([-2.0, 10.0]), 1.0, out=-2.0, out_bias=1.0, live=0.0, dead=1.0)


def _bump(rule: Rule) -> _Block:
    """g = relu(1 - f1 + (1 + D) f2), y = relu(1 - g).

    f1 counts from the lower end of the interval, where it is 1; f2 counts from beyond the upper end. One beyond it
    f2 = 1 and f1 is at most D + 1, D being the size of the larger interval, so that g is 1 again, or more.
    """
    (b1, b2), (s1, s2) = _intervals(rule)
    size = max(b2 - b1, s2 - s1) + 1
    filters = np.array([[1.0, b1 - s1, 1 - b1], [1, b2 - s2, -b2]])
    return _Block(filters, np.array([-1.0, 1 + size]), 1.0, out=-1.0, out_bias=1.0, live=0.0, dead=1.0)


def _hat(band: _Band, activation: str) -> _Block:
    """f1 = act(-k lower), f2 = act(k upper), g = act(w - f1 - f2), y = act of the line through g's two values.

    The gain k lets each f rise at least to 2 (in units of g on live cells) at the margin outside the interval; inside,
    ELU and GELU are saturated there. With slope a below 0, f1 + f2 = a k (upper - lower) on live cells, which w makes
    good: exactly if both ends weigh the centre alike, else up to +-a k (difference of the weights) / 2.
    """
    if activation == "elu":  # elu(-20) = -1, up to 2e-9
        gain, level, live, dead, one = 20 / band.margin, -1.0, 1.0, -1.0, 1.0
    elif activation == "gelu":  # gelu(16) = 16 and gelu(-16) = 0, up to 1e-50
        gain, level, live, dead, one = 32 / band.margin, 16.0, 16.0, 0.0, _GELU_ONE
    else:
        slope = _SLOPES[activation]
        gain = 2 / ((1 - slope) * band.margin)
        width = float((band.lower - band.upper) @ np.array([0, 0.5, 1]))  # halfway between a dead and a live centre
        level, live, dead, one = 1 - slope * gain * width, 1.0, 0.0, 1.0
    out = one / (live - dead)
    filters = np.stack([-gain * band.lower, gain * band.upper])
    return _Block(filters, np.array([-1.0, -1.0]), level, out, -out * dead, live, dead)


def _trapezoid(band: _Band, activation: str) -> _Block:
    """g = [f(lower + e) - f(lower - e) - f(upper + e) + f(upper - e)] / (2 e (1 - a)), y = g; e is half the margin.

    Either difference is 2 e above its ramp and 2 e a below, so that g is 1 between the ramps and 0 outside: it does not
    hand on small errors of its input, for every slope a. Four filters: m_factor 2 or more.
    """
    shift = np.array([0, 0, band.margin / 2])
    filters = np.stack([band.lower + shift, band.lower - shift, band.upper + shift, band.upper - shift])
    mix = np.array([1.0, -1.0, -1.0, 1.0]) / (band.margin * (1 - _SLOPES[activation]))
    return _Block(filters, mix, 0.0, out=1.0, out_bias=0.0, live=1.0, dead=0.0)


def _normalized(block: _Block, neighbours: int) -> _Block:
    """The same block for cells shifted by -1/2: half of each kernel's sum goes into its bias."""
    missing = block.filters @ np.array([neighbours, 1, 0]) / 2
    return dataclasses.replace(block, filters=block.filters + np.outer(missing, [0, 0, 1]))


def _with_logits(block: _Block) -> _Block:
    """A last layer for the sigmoid: +10 at g's value on live cells, -10 at its value on dead ones."""
    out = 2 * _LOGIT / (block.live - block.dead)
    return dataclasses.replace(block, out=out, out_bias=_LOGIT - out * block.live)


def _copies(width: int, base: int, spare: str) -> Float[np.ndarray, "width base"]:
    """Which of the `base` filters each of `width` filters repeats: `split` goes round, `zero` takes each once."""
    return np.eye(base)[np.arange(width) % base] if spare == "split" else np.eye(width, base)


def _layers(block: _Block, rule: Rule, m_factor: int, spare: str, *, read: int = 1) -> dict[str, np.ndarray]:
    """Weights and biases of one block's convolutions; what several copies hand on is shared among them.

    `read` is the number of channels that it reads: 1, or the m copies of a block of the paper's architecture.
    """
    first, hidden = _copies(2 * m_factor, len(block.filters), spare), _copies(m_factor, 1, spare)
    centre = np.zeros((3, 3))
    centre[1, 1] = 1
    filters = first @ block.filters
    kernels = filters[:, 0, None, None] * rule.kernel + filters[:, 1, None, None] * centre
    handed_on = hidden / hidden.sum()
    return {
        "0.weight": kernels[:, None] * (handed_on[:read, :, None] if read > 1 else np.ones((1, 1, 1))),
        "0.bias": filters[:, 2],
        "2.weight": (hidden @ (first / first.sum(axis=0) @ block.mix)[None])[:, :, None, None],
        "2.bias": hidden[:, 0] * block.mix_bias,
        "4.weight": block.out * handed_on.T[:, :, None, None],
        "4.bias": np.array([block.out_bias]),
    }


def _parse_spare(spare: str) -> tuple[str, float]:
    """What spare filters do, and the standard deviation of the noise."""
    name, _, text = spare.partition(":")
    if spare in ("split", "zero"):
        return spare, 0.0
    try:
        noise = float(text)
    except ValueError:
        noise = math.nan
    if name != "noise" or not 0 <= noise < math.inf:
        raise LandscapeError(
            f"'{spare}' is no choice for spare filters: take split, zero or noise:EPS, EPS being 0.01, say"
        )
    return "split", noise


def _chain(rule: Rule, design: str, activation: str, m_factor: int, steps: int, blocks: int) -> list[_Block]:
    """A block for each step, then blocks that repeat what they read."""
    if design not in DESIGNS:
        raise Unsupported(f"no design is called '{design}': take one of {', '.join(DESIGNS)}")
    if activation not in _SERVES[design]:
        others = " or ".join(repr(name) for name in DESIGNS if activation in _SERVES[name])
        raise Unsupported(
            f"design '{design}' is made for {', '.join(_SERVES[design])}, not for {activation}: "
            f"take {others or 'another activation'}"
        )
    if design == "trapezoid" and m_factor < 2:
        raise Unsupported("design 'trapezoid' has four filters in its first layer: take m_factor 2 or more, or 'hat'")
    shape = _trapezoid if design == "trapezoid" else _hat
    if design == "post":
        step = _post(rule)
    elif design == "bump":
        step = _bump(rule)
    else:
        step = shape(_band(rule), activation)
    return [step] * steps + [shape(_SAME, activation)] * (blocks - steps)


def default_design(rule: Rule, *, steps: int, m_factor: int, activation: str, architecture: str = "study") -> str:
    """The design that the plain landmark `presolve` means.

    ReLU: `post` where it applies, else `bump`. ELU and GELU: `hat`. RReLU: `trapezoid`; with m_factor 1 `hat`, for one
    step. LeakyReLU: `hat` if both ends weigh the centre alike, as for B3/S23V and B3/S23. That holds for any number of
    steps: live cells are exactly 1, dead ones at most slope^2 gain (distance from the band) below 0, and what a
    neighbourhood adds up of that stays under 0.45 of the margin for all such rules. Other rules may drift: `trapezoid`
    then, and with m_factor 1 the hat nevertheless, for verification to judge.

    The `paper` architecture: `hat`.

    Raises `Unsupported` for a rule that is no interval rule and where RReLU has no design.

    >>> default_design(Rule.parse("B3/S23V"), steps=20, m_factor=1, activation="leaky_relu")
    'hat'
    """
    band = _band(rule)
    if architecture == "paper":
        return "hat"
    if activation == "relu":
        return "post" if str(rule) in _POST_RULES else "bump"
    if activation == "rrelu":
        if m_factor >= 2:
            return "trapezoid"
        if steps > 1 or not band.parallel:
            raise Unsupported(
                f"no solution of {rule} for rrelu, m_factor 1 and {steps} step{'s' if steps > 1 else ''} is known: "
                "its large negative slope makes errors grow; take m_factor 2 or more, or another activation"
            )
    if activation == "leaky_relu" and m_factor >= 2 and steps > 1 and not band.parallel:
        return "trapezoid"
    return "hat"


def presolved(
    rule: Rule,
    *,
    steps: int,
    blocks: int,
    m_factor: int,
    activation: str,
    sigmoid: bool,
    normalize: bool,
    architecture: str = "study",
    design: str | None = None,
    spare: str = "split",
    noise_seed: int = 0,
) -> dict[str, Tensor]:
    """The state dict (float64) of `network.build` with which it plays `steps` steps of `rule`.

    `design` is one of `DESIGNS`, by default `default_design`; `spare` one of `SPARES`. Blocks beyond `steps` stand at
    the end and repeat what they read. With `sigmoid` the logit is +10 on live cells and -10 on dead ones, or less where
    g is not flat on them (`post`, `bump`, `hat` with a negative slope); `post` under LeakyReLU gets the signs right, no
    more. In the `paper` architecture a block ends with g, which has to be 0 or 1 by itself, as that of the `hat` under
    ReLU is. Such a point solves the problem but is no minimum of the cross-entropy, whose infimum lies at infinite
    scale: its gradient is small, not zero.

    Raises `Unsupported` if no such solution is known and `LandscapeError` if `spare` is malformed.

    >>> weights = presolved(Rule.parse("B3/S23V"), steps=1, blocks=1, m_factor=1, activation="relu", sigmoid=False,
    ...                     normalize=False)
    >>> {name: weight.flatten().tolist() for name, weight in weights.items() if name > "net.0.2"}
    {'net.0.2.weight': [-2.0, 10.0], 'net.0.2.bias': [1.0], 'net.0.4.weight': [-2.0], 'net.0.4.bias': [1.0]}
    """
    if blocks < steps:
        raise Unsupported(
            f"{blocks} blocks cannot play {steps} steps: a block sees one cell further, as a step does; "
            "take a d_factor of 1 or more"
        )
    paper = architecture == "paper"
    design = design or default_design(
        rule, steps=steps, m_factor=m_factor, activation=activation, architecture=architecture
    )
    if paper and (design, activation) != ("hat", "relu"):
        raise Unsupported(
            f"no solution with '{design}' and {activation} is known for the paper's architecture: take relu"
        )
    filling, noise = _parse_spare(spare)
    chain = _chain(rule, design, activation, m_factor, steps, blocks)
    if normalize:
        chain[0] = _normalized(chain[0], rule.neighbours)
    if sigmoid:
        chain[-1] = _with_logits(chain[-1])
    state = {
        f"net.{index}.{name}": torch.tensor(values, dtype=torch.float64)
        for index, block in enumerate(chain)
        for name, values in _layers(block, rule, m_factor, filling, read=m_factor if paper and index else 1).items()
    }
    if paper:
        for index in range(len(chain)):
            last = {name: state.pop(f"net.{index}.4.{name}") for name in ("weight", "bias")}
        state |= {f"out.{name}": tensor for name, tensor in last.items()}
    if noise:
        sizes = [tensor.numel() for tensor in state.values()]
        draw = normal(torch.tensor([noise_seed]), stream=_STREAM, step=0, count=sum(sizes))[0]
        for tensor, part in zip(state.values(), draw.split_with_sizes(sizes), strict=True):
            tensor.add_(noise * part.view_as(tensor))
    return state
