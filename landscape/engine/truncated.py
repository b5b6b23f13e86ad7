"""To where a large network can go no further: L-BFGS, then Newton's method by products with the Hessian alone.

Newton's equation is solved by conjugate gradients within a radius that is trusted (T. Steihaug, SIAM J. Numer. Anal.
20, 1983); a negative curvature that they meet is followed to the radius. Where there is none that they meet, Lanczos'
iterations look for one (`landscape.engine.spectrum`). One network after another.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.engine.descent import STALL, WHILE, ZERO

__all__ = ["GRADIENT", "Came", "Slope", "lbfgs", "newton"]

#: Where the loss can hardly fall, steps go on until the gradient has this L2 norm.
GRADIENT = 1e-8

#: Products with vectors that a step takes at most.
_PRODUCTS = 300

#: From a place to the loss and its gradient.
Slope = Callable[[Float[Tensor, " parameter"]], tuple[float, Float[Tensor, " parameter"]]]


def lbfgs(
    slope: Slope,
    start: Float[Tensor, " parameter"],
    *,
    steps: int,
    memory: int = 20,
    enough: float = 1.0,
    over: Callable[[Tensor, float], bool] = lambda flat, loss: False,
) -> tuple[Float[Tensor, " parameter"], list[float]]:
    """One network by L-BFGS with a line search for the weak Wolfe conditions, which serves losses with kinks too: where
    it went, and the loss after each step. It ends where the loss has fallen by `enough` of it, where `over` says so,
    which is asked now and then, and where it has gained next to nothing for a while.

    D. C. Liu, J. Nocedal, Math. Program. 45, 1989; A. S. Lewis, M. L. Overton, *Nonsmooth optimization via quasi-Newton
    methods*, Math. Program. 141, 2013.
    """
    here, (loss, gradient) = start, slope(start)
    losses, pairs = [loss], list[tuple[Tensor, Tensor, float]]()
    for _ in range(steps):
        direction, kept = -gradient, []
        for moved, turned, rho in reversed(pairs):
            kept.append(rho * float(moved @ direction))
            direction = direction - kept[-1] * turned
        if pairs:
            moved, turned, _ = pairs[-1]
            direction = direction * float(moved @ turned) / float(turned @ turned)
        for (moved, turned, rho), share in zip(pairs, reversed(kept), strict=True):
            direction = direction + (share - rho * float(turned @ direction)) * moved
        downhill = float(gradient @ direction)
        if not downhill < 0:
            break
        low, high, way = 0.0, float("inf"), 1.0 if pairs else min(1.0, 1 / float(gradient.norm()))
        there, found = here, (loss, gradient)
        for _ in range(50):
            there = here + way * direction
            found = slope(there)
            if not found[0] <= loss + 1e-4 * way * downhill:
                high = way
            elif float(found[1] @ direction) < 0.9 * downhill:
                low = way
            else:
                break
            way = 2 * low if high == float("inf") else (low + high) / 2
        if not found[0] < loss:
            break
        moved, turned = there - here, found[1] - gradient
        if (product := float(moved @ turned)) > 1e-300:
            pairs = [*pairs[1 - memory :], (moved, turned, 1 / product)]
        here, (loss, gradient) = there, found
        losses.append(loss)
        if loss <= max(ZERO, (1 - enough) * losses[0]):
            break
        if len(losses) % WHILE == 0 and (over(here, loss) or losses[-WHILE] - loss <= 1e-6 * loss):
            break
    return here, losses


@dataclasses.dataclass(eq=False)
class Came:
    """Where one network came to: `flat`, its `loss` and `gradient` there, the `step` that Newton's equation asks for,
    and the `fall` which that promises; `ended` if that is nothing, `stalled` if it had gained next to nothing for a
    while, after so many `steps`.
    """

    flat: Float[Tensor, " parameter"]
    loss: float
    gradient: Float[Tensor, " parameter"]
    step: Float[Tensor, " parameter"]
    fall: float
    steps: int
    ended: bool = False
    stalled: bool = False


#: From a place to the map of a vector to its product with the Hessian there.
Curved = Callable[[Float[Tensor, " parameter"]], Callable[[Float[Tensor, " parameter"]], Float[Tensor, " parameter"]]]


def newton(
    slope: Slope,
    curved: Curved,
    start: Float[Tensor, " parameter"],
    *,
    steps: int,
    at_end: float,
    least: float = GRADIENT,
    enough: float = 1.0,
    over: Callable[[Tensor, float], bool] = lambda flat, loss: False,
) -> Came:
    """One network by truncated Newton steps: to where they see no fall beyond `at_end` of the loss, and a gradient of
    at most `least` if rounding lets it; to where it has fallen by `enough` of the loss; or to where `over` says so.

    J. Nocedal, S. J. Wright, *Numerical Optimization*, 2006, chapters 4 and 7.
    """
    loss, gradient = slope(start)
    came = Came(start, loss, gradient, torch.zeros_like(start), 0.0, 0)
    first = mark = loss
    radius, product = 0.1 * (1 + float(start.norm())), curved(start)
    for number in range(1, steps + 1):
        size = float(came.gradient.norm())
        if came.loss <= ZERO or size == 0:
            came.fall, came.ended = 0.0, True
            break
        step, fall, inside = _within(came.gradient, product, radius, min(0.1, math.sqrt(size)))
        came.step, came.fall, came.steps = step, fall, number
        nothing = inside and fall <= at_end * came.loss
        if nothing and size <= least:
            came.ended = True
            break
        there = came.flat + step
        loss, gradient = slope(there)
        # Where the loss is flat to rounding the gradient says whether a step was one forwards.
        flat = fall <= 1e-11 * came.loss and abs(loss - came.loss) <= 1e-11 * came.loss
        if flat:
            share = 1.0 if float(gradient.norm()) < 0.9 * size else 0.0
        else:
            share = (came.loss - loss) / fall if math.isfinite(loss) else -1.0
        length, ahead = float(step.norm()), None
        if share <= 0.75 and not nothing and loss < math.inf:
            # Valleys curve: the way back to their ground, of a few products, belongs to the step.
            ahead = curved(there)
            back, _, _ = _within(gradient, ahead, length, 0.1)
            after = slope(there + back)
            if (better := (came.loss - after[0]) / fall) > share:
                there, (loss, gradient), share, ahead = there + back, after, better, None
        if share > 0.75:
            radius = max(radius, 3 * length)
        elif not share > 0.25:
            radius = 0.25 * length
        if share > 0.05:
            came.flat, came.loss, came.gradient, product = there, loss, gradient, ahead or curved(there)
            if came.loss < (1 - enough) * first or over(came.flat, came.loss):
                break
        elif nothing:  # as far as rounding lets it
            came.ended = True
            break
        if number % WHILE == 0:
            if mark - came.loss <= STALL * came.loss and not nothing:
                came.fall, came.stalled = min(came.fall, WHILE * (mark - came.loss)), True
                break
            mark = came.loss
    return came


def _within(
    gradient: Tensor, product: Callable[[Tensor], Tensor], radius: float, tolerance: float
) -> tuple[Tensor, float, bool]:
    """The lowest place of the model that conjugate gradients find in a radius, how much lower it is, and whether it is
    a solution of Newton's equation.
    """
    step, bent = torch.zeros_like(gradient), torch.zeros_like(gradient)
    rest = -gradient
    way, left, solved = rest, float(rest @ rest), False
    enough = tolerance**2 * left
    for _ in range(min(_PRODUCTS, 2 * len(gradient))):
        turned = product(way)
        curvature = float(way @ turned)
        share = left / curvature if curvature > 0 else math.inf
        if not float((step + min(share, 1e300) * way).norm()) < radius:
            a, b, c = float(way @ way), float(step @ way), float(step @ step) - radius**2
            share = (-b + math.sqrt(max(b * b - a * c, 0.0))) / a
            step, bent = step + share * way, bent + share * turned
            break
        step, bent, rest = step + share * way, bent + share * turned, rest - share * turned
        before, left = left, float(rest @ rest)
        if left <= enough:
            solved = True
            break
        way = rest + left / before * way
    return step, -float(gradient @ step) - float(step @ bent) / 2, solved
