"""To where a network can go no further: Newton's method in float64 on the pieces of a rectifier network, and L-BFGS.

Each step minimises a model of the loss around a member: a quadratic of the smooth piece, whose curvatures are taken by
their magnitude and damped, plus what each kink nearby adds when it is crossed. Its minimum may lie on kinks, which are
then kept to (R. Mifflin, C. Sagastizábal, *A VU-algorithm for convex minimization*, Math. Program. 104, 2005), and
never along a rescaling of hidden units, which changes nothing. A member's numbers do not depend on its companions.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landscape.core.errors import Unsupported
from landscape.core.unfinished import Progress
from landscape.engine.hessian import hessians
from landscape.engine.pieces import Piece
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import Stack

__all__ = ["AT_END", "Ends", "Whole", "descend", "lbfgs"]

#: A member is at its end when the model of its loss can fall by no more than this share of it.
AT_END = 1e-9

#: Curvatures below this share of the largest count as zero; so do those along rescalings.
NO_CURVATURE = 1e-10

#: Kinks that a step reckons with: the nearest, and for members among more of them.
_KINKS = 64, 512

#: Rounds of the interior-point method.
_ROUNDS = 20

_LEAST_DAMPING, _MOST_DAMPING = 1e-13, 1e12


@dataclasses.dataclass(eq=False)
class Ends:
    """Of each member: where it went (`flat`), its `loss` there; the `fall` that the model without damping still sees;
    by how much that step changes the `outputs` at most; `kinks` that it is held at, its `pull` (L2 norm of the
    gradient that is left there, the smallest over the sides of these kinks, in balanced parameters) and `gradient` (the
    same on the side it lies on); `negative` curvatures, and the `steps` taken.
    """

    flat: Float[Tensor, "member parameter"]
    loss: Float[Tensor, " member"]
    fall: Float[Tensor, " member"]
    outputs: Float[Tensor, " member"]
    kinks: Int[Tensor, " member"]
    pull: Float[Tensor, " member"]
    gradient: Float[Tensor, " member"]
    negative: Int[Tensor, " member"]
    steps: Int[Tensor, " member"]


class Local(Protocol):
    """What a model of the loss around members is made of; `Piece` is one, and has kinks."""

    loss: Tensor
    gradient: Tensor
    hessian: Tensor
    outputs: Tensor
    kinks: Tensor
    sides: Tensor
    jumps: Tensor
    distances: Tensor

    def normals(self, kinks: Tensor) -> Tensor: ...  # noqa: D102


class Surface(Protocol):
    """A loss of flat parameters of some members; `Pieces` is one."""

    def at(self, flat: Tensor, share: Tensor | None = None) -> Local | Piece: ...  # noqa: D102
    def scalings(self, flat: Tensor) -> Tensor: ...  # noqa: D102
    def balanced(self, flat: Tensor) -> Tensor: ...  # noqa: D102
    def members(self) -> int: ...  # noqa: D102
    def at_infinity(self, outputs: Tensor) -> Tensor: ...  # noqa: D102


class Whole:
    """Any network of few parameters, by its whole Hessian; its kinks, if it has some, are not seen.

    `like` is a stack of one member: what is no coordinate of it stays as it is there.
    """

    def __init__(self, objective: AnyObjective, like: Stack) -> None:
        self.objective, self.like = objective, like

    def stack(self, flat: Tensor) -> Stack:
        """Members as a stack."""
        buffers = {name: each.expand(len(flat), *each.shape[1:]) for name, each in self.like.buffers.items()}
        return Stack(self.like.unflatten(flat).tensors, buffers)

    def at(self, flat: Tensor, share: Tensor | None = None) -> "_Smooth":
        """What is known there."""
        return _Smooth(self, flat)

    def scalings(self, flat: Tensor) -> Tensor:
        """None that are known."""
        return flat.new_zeros(len(flat), 0, flat.shape[1])

    def balanced(self, flat: Tensor) -> Tensor:
        """As it is."""
        return flat

    def members(self) -> int:
        """At once."""
        return 16

    def at_infinity(self, outputs: Tensor) -> Tensor:
        """Not known of outputs alone."""
        return torch.zeros(len(outputs), dtype=torch.bool)


class _Smooth:
    """Members of a `Whole`."""

    def __init__(self, whole: Whole, flat: Tensor) -> None:
        self._whole, self._stack = whole, whole.stack(flat)
        self.kinks = self.sides = self.jumps = self.distances = flat.new_zeros(len(flat), 0)

    @functools.cached_property
    def loss(self) -> Tensor:
        """Of each member."""
        return self._whole.objective(self._stack)["loss"].cpu()

    @functools.cached_property
    def gradient(self) -> Tensor:
        """Of the loss."""
        return self._whole.objective.gradient(self._stack)[1].flatten().double().cpu()

    @functools.cached_property
    def hessian(self) -> Tensor:
        """Of the loss."""
        return torch.from_numpy(hessians(self._whole.objective, self._stack))

    @functools.cached_property
    def outputs(self) -> Tensor:
        """[member, what the network answers to all samples]; the loss where it is read otherwise."""
        return outputs_of(self._whole.objective, self._stack)

    def normals(self, kinks: Tensor) -> Tensor:
        """There are none."""
        return kinks.new_zeros(*kinks.shape, self._stack.parameters, dtype=torch.float64)


def outputs_of(objective: AnyObjective, stack: Stack) -> Float[Tensor, "member out sample"]:
    """What each network answers to each sample (others' padding included); its loss, [member, 1, 1], where its loss
    reads more than outputs.
    """
    found = []
    try:
        with torch.no_grad():
            for _, part in objective.chunks(stack):
                rows = [objective.parted_loss(part, batch)[0][0].detach() for batch in objective.batches()]
                if isinstance(objective, PlainObjective):  # samples first
                    rows = [row.reshape(len(row), -1).T[None] if row.ndim else row.view(1, 1, 1) for row in rows]
                found.append(torch.cat([row.reshape(len(part), -1, row.shape[-1]) for row in rows], 2))
    except Unsupported:
        return objective(stack)["loss"][:, None, None].cpu()
    return torch.cat(found)[: len(stack)].double().cpu()


def descend(
    surface: Surface,
    flat: Float[Tensor, "member parameter"],
    *,
    steps: int,
    at_end: float = AT_END,
    enough: float = 1.0,
    on_progress: Progress = lambda done, total: None,
) -> Ends:
    """Take each member to where its model sees no fall beyond `at_end` of the loss, in at most so many `steps`; or to
    where it has fallen by `enough` of it.

    At a saddle it is pushed off along its most negative curvature. `on_progress` hears of members that are there.
    """
    flat = surface.balanced(flat.double())
    states = _State(surface, flat)
    going = torch.arange(len(flat))
    for _ in range(steps):
        for wide in (False, True):
            mine = going[states.wide[going] == wide]
            for index in _chunks(mine, min(surface.members(), 16 if wide else 64)):
                states.put(index, _step(surface, states.of(index), _KINKS[wide], at_end))
        going = going[~(states.done | (states.loss < (1 - enough) * states.began))[going]]
        on_progress(len(flat) - len(going), len(flat))
        if not len(going):
            break
    return Ends(**{field.name: getattr(states, field.name) for field in dataclasses.fields(Ends)})


def _chunks(index: Tensor, size: int) -> Iterator[Tensor]:
    """Of one size, the last filled up with its own last: a member's numbers then depend on no companion."""
    for part in index.split(size) if len(index) else ():
        yield torch.cat([part, part[-1:].expand(size - len(part))])


class _State:
    """What is known of all members, a row each."""

    def __init__(self, surface: Surface, flat: Tensor) -> None:
        m, real = len(flat), {"dtype": flat.dtype}
        here = surface.at(flat[:1])
        self.flat, self.loss, self.began = flat, *torch.full((2, m), torch.inf, **real)
        self.damping, self.moved = torch.full((m,), 1e-3, **real), torch.zeros(m, **real)
        self.share = torch.zeros(m, here.kinks.shape[1], **real)
        self.held = torch.zeros(m, here.kinks.shape[1], dtype=torch.bool)
        self.wide, self.done = torch.zeros(m, dtype=torch.bool), torch.zeros(m, dtype=torch.bool)
        self.fall, self.outputs, self.pull, self.gradient = (torch.full((m,), torch.inf, **real) for _ in range(4))
        self.kinks, self.negative, self.steps, self.pushed = (torch.zeros(m, dtype=torch.int64) for _ in range(4))

    def of(self, index: Tensor) -> "_State":
        part = object.__new__(_State)
        vars(part).update({name: each[index] for name, each in vars(self).items()})
        return part

    def put(self, index: Tensor, part: "_State") -> None:
        for name, each in vars(self).items():
            each[index] = getattr(part, name)


def _step(surface: Surface, s: _State, most: int, at_end: float) -> _State:
    """One step of each member of a chunk; writes into the state."""
    here = surface.at(s.flat)
    loss = s.loss = here.loss.double()
    s.began = torch.where(s.began.isinf(), loss, s.began)
    size = s.flat.norm(dim=1, keepdim=True)
    far = here.distances
    held = s.held & (far < 0.1 * s.moved[:, None] + 1e-9 * size)
    share = torch.where(held, s.share, here.sides)
    at = surface.at(s.flat, share)
    near = far.topk(min(most, far.shape[1]), largest=False)[1]
    normals, inputs, own = at.normals(near), here.kinks.gather(1, near), share.gather(1, near)
    jumps, lengths = at.jumps.gather(1, near), normals.norm(dim=2).clamp(min=1e-300)
    convex = jumps * lengths > 1e-12 * loss[:, None]  # crossing another kink makes the loss fall beyond the model
    rows = normals * torch.where(convex, jumps, 0.0)[..., None]
    base = at.gradient - (own[..., None] * rows).sum(1)
    kept = held.gather(1, near) & convex
    root, span, values, vectors, top = _curvatures(surface, s, at.hessian, normals, kept)
    offsets = torch.where(convex, jumps, 0.0) * inputs
    with_root = rows @ root
    shares = _box(with_root, offsets - (with_root @ (root @ base[..., None]))[..., 0])
    force = base + (shares[..., None] * rows).sum(1)
    step = -(root @ (root @ force[..., None]))[..., 0]
    reached = inputs + (normals @ step[..., None])[..., 0]
    gained = (torch.where(convex, jumps, 0.0) * (reached.clamp(min=0) - inputs.clamp(min=0))).sum(1)
    fall = -((base * step).sum(1) + (root @ force[..., None])[..., 0].square().sum(1) / 2 + gained)
    negative = span & (values < -1e-8 * top[:, None])
    fall = torch.where(fall.isfinite(), fall.abs(), torch.inf)  # below zero: the shares are not exact
    step = torch.where(step.isfinite().all(1, keepdim=True), step, 0.0)

    nothing = fall <= at_end * loss
    inside = convex & (shares > 1e-6) & (shares < 1 - 1e-6)
    on = inside & (reached.abs() < lengths * (1e-3 * step.norm(dim=1, keepdim=True) + 1e-9 * size))
    back = _onto(normals * (on / lengths)[..., None])
    best, lowest = s.flat, loss
    factor = torch.zeros_like(loss)
    for part, corrected in ((1.0, True), (1.0, False), (0.3, True), (0.1, False), (0.01, False)):
        tried = s.flat + part * step
        if corrected:  # kinks curve: a straight step leaves those that it keeps to, to second order
            off = surface.at(tried).kinks.gather(1, near) / lengths - (1 - part) * torch.where(on, inputs / lengths, 0.0)
            tried = tried - (back @ torch.where(on, off, 0.0)[..., None])[..., 0]
        there = surface.at(tried).loss.double()
        better = (there < lowest) & ((factor == 0) | (part > 0.05))
        best, lowest = torch.where(better[:, None], tried, best), torch.where(better, there, lowest)
        factor = torch.where(better, part, factor)
    good = (loss - lowest) > 0.3 * fall
    damping = torch.where(nothing, s.damping / 100, torch.where(good & (factor == 1), s.damping / 5, s.damping))
    damping = torch.where(~nothing & ~good, s.damping * torch.where(factor > 0, 2.0, 8.0), damping)
    ended = (nothing & (s.damping <= 1e-8)) | surface.at_infinity(here.outputs)
    push = ended & negative.any(1) & (s.pushed < 5)
    if push.any():
        along = vectors.gather(2, torch.where(span, values, torch.inf).argmin(1)[:, None, None].expand(-1, vectors.shape[1], 1))
        for part in (1e-3, -1e-3, 1e-2, -1e-2, 1e-1, -1e-1):
            tried = s.flat + part * size * along[..., 0]
            there = surface.at(tried).loss.double()
            better = push & (there < lowest - 1e-12 * loss)
            best, lowest = torch.where(better[:, None], tried, best), torch.where(better, there, lowest)
        pushed = push & (lowest < loss - 1e-12 * loss)
        damping = torch.where(pushed, 1e-3, damping)
        s.pushed = s.pushed + pushed
        ended = ended & ~pushed

    little = 1e-4 / (1 + step.norm(dim=1, keepdim=True))
    change = (surface.at(s.flat + little * step).outputs - here.outputs).flatten(1).abs().amax(1) / little[:, 0]
    s.fall, s.outputs, s.negative = fall, change, negative.sum(1)
    s.pull, s.gradient = _across(surface, s.flat, force), _across(surface, s.flat, here.gradient)
    s.kinks = (inside & (inputs.abs() <= 1e-7 * lengths * size)).sum(1)
    s.held = torch.zeros_like(s.held).scatter(1, near, on)
    s.share = s.share.scatter(1, near, shares)
    s.moved = (best - s.flat).norm(dim=1)
    crowded = (far < torch.maximum(10 * s.moved, 1e-6 * size[:, 0])[:, None]).sum(1) > 0.75 * _KINKS[0]
    s.wide = s.wide | crowded | ((factor == 0) & ~nothing)
    s.damping, s.done, s.steps = damping.clamp(_LEAST_DAMPING, _MOST_DAMPING), ended, s.steps + 1
    # What is at its end, and balanced, stays.
    moved = (lowest < loss) & ~ended
    s.flat = torch.where(moved[:, None], surface.balanced(best), s.flat)
    s.loss = torch.where(moved, lowest, loss)
    return s


def _across(surface: Surface, flat: Tensor, vector: Tensor) -> Tensor:
    """Norm of a vector without what lies along rescalings."""
    basis = _orthonormal(surface.scalings(flat))
    return (vector - (basis @ (basis.mT @ vector[..., None]))[..., 0]).norm(dim=1)


def _orthonormal(rows: Float[Tensor, "member some parameter"]) -> Float[Tensor, "member parameter parameter"]:
    """Columns that span what rows span, filled up with zeros."""
    unit = rows / rows.norm(dim=2, keepdim=True).clamp(min=1e-300)
    values, vectors = torch.linalg.eigh(unit.mT @ unit)
    return vectors * (values > 1e-8)[:, None]


def _onto(rows: Float[Tensor, "member some parameter"]) -> Float[Tensor, "member parameter some"]:
    """The pseudo-inverse: from how far rows are off to the shortest way back."""
    values, vectors = torch.linalg.eigh(rows.mT @ rows)
    inverse = torch.where(values > 1e-8 * values[:, -1:].clamp(min=1e-300), 1 / values.clamp(min=1e-300), 0.0)
    return (vectors * inverse[:, None]) @ vectors.mT @ rows.mT


def _curvatures(
    surface: Surface, s: _State, hessian: Tensor, normals: Tensor, kept: Bool[Tensor, "member near"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A root of the inverse of the model's matrix: damped magnitudes of the curvatures along the kinks that are kept to,
    and the largest of them across these and along rescalings; and these curvatures, with what is the largest.
    """
    across = _orthonormal(torch.cat([normals * kept[..., None], surface.scalings(s.flat)], 1))
    along = torch.eye(s.flat.shape[1], dtype=s.flat.dtype) - across @ across.mT
    values, vectors = torch.linalg.eigh(along @ hessian @ along)
    span = (along @ vectors).square().sum(1) > 0.5
    top = values.abs().amax(1).clamp(min=1e-300)
    floor = torch.maximum(s.damping, torch.as_tensor(_LEAST_DAMPING)) * top
    size = torch.where(span, values.abs() + floor[:, None], torch.inf)
    stiff = (top * (1 + s.damping)).sqrt()[:, None, None]
    root = (vectors / size.sqrt()[:, None]) @ vectors.mT + across @ across.mT / stiff
    return root, span, values, vectors, top


def _box(rows: Float[Tensor, "member kink some"], linear: Float[Tensor, "member kink"]) -> Float[Tensor, "member kink"]:
    """The shares in [0, 1] that maximise linear . s - |rows^T s|^2 / 2, by a primal-dual interior-point method (S. J.
    Wright, *Primal-Dual Interior-Point Methods*, 1997).
    """
    m, k, p = rows.shape
    s = torch.full_like(linear, 0.5)
    if not k:
        return s
    low = linear.abs().amax(1, keepdim=True).clamp(min=1e-300).expand(m, k)
    high, eye, rate = low, torch.eye(p, dtype=rows.dtype), torch.full((m, 1), 0.3, dtype=rows.dtype)
    for _ in range(_ROUNDS):
        target = rate * ((low * s + high * (1 - s)).mean(1, keepdim=True) / 2)
        diagonal = low / s + high / (1 - s)
        residual = linear - (rows @ (rows.mT @ s[..., None]))[..., 0] + target / s - target / (1 - s)
        weighed = rows / diagonal[..., None]
        inner = torch.linalg.solve_ex(eye + rows.mT @ weighed, weighed.mT @ residual[..., None])[0]
        ds = residual / diagonal - (weighed @ inner)[..., 0]
        dl, dh = target / s - low - low / s * ds, target / (1 - s) - high + high / (1 - s) * ds
        room = [torch.where(d < 0, -v / d, torch.inf).amin(1) for v, d in ((s, ds), (1 - s, -ds), (low, dl), (high, dh))]
        way = (0.995 * torch.stack(room).amin(0)[:, None]).clamp(max=1)
        s = (s + way * ds).clamp(1e-15, 1 - 1e-15)
        low, high = (low + way * dl).clamp(min=1e-300), (high + way * dh).clamp(min=1e-300)
        rate = torch.where(way > 0.9, 0.02, 0.3)
    return s


#: From a place to the loss and its gradient.
Slope = Callable[[Float[Tensor, " parameter"]], tuple[float, Float[Tensor, " parameter"]]]


def lbfgs(
    slope: Slope, start: Float[Tensor, " parameter"], *, steps: int, memory: int = 20
) -> tuple[Float[Tensor, " parameter"], list[float]]:
    """One network by L-BFGS with a line search for the weak Wolfe conditions, which serves losses with kinks too: where
    it went, and the loss after each step.

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
    return here, losses
