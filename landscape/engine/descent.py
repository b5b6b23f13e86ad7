"""To where a network can go no further: Newton's method in float64 on the pieces of a rectifier network.

Each step minimises a model of the loss around a member: a quadratic of the smooth piece, whose curvatures are taken by
their magnitude and damped, plus what each kink nearby adds when it is crossed. Its minimum may lie on kinks, which are
then kept to (R. Mifflin, C. Sagastizábal, *A VU-algorithm for convex minimization*, Math. Program. 104, 2005), and
never along a rescaling of hidden units, which changes nothing. A member's numbers do not depend on its companions.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from landscape.core.errors import Unsupported
from landscape.core.unfinished import Progress
from landscape.engine.hessian import hessians
from landscape.engine.pieces import Piece, Pieces
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import Stack

__all__ = ["AT_END", "NEGATIVE", "STALL", "WHILE", "ZERO", "Ends", "Whole", "descend", "outputs_of"]

#: A member is at its end when the model of its loss can fall by no more than this share of it.
AT_END = 1e-9

#: A loss below this is zero but for rounding.
ZERO = 1e-24

#: Curvatures above minus this share of the largest magnitude do not count as negative.
NEGATIVE = 1e-8

#: So often a member is pushed off saddles.
_PUSHES = 5

#: Kinks that a step reckons with: the nearest, and for members among more of them.
_KINKS = 64, 256, 512

#: So many members at once of these: more are no faster a member, and of those that are left few are filled up.
_AT_ONCE = 16, 8, 8

#: A member stalls that gains no more than this share of its loss in so many steps.
STALL, WHILE = 1e-7, 10

#: Rounds of the interior-point method.
_ROUNDS = 20

_LEAST_DAMPING, _MOST_DAMPING = 1e-13, 1e12


@dataclasses.dataclass(eq=False)
class Ends:
    """Of each member: where it went (`flat`), its `loss` there; the `fall` that the model without damping still sees;
    by how much that step changes the `outputs` at most; `kinks` that it is held at, its `pull` (L2 norm of the
    gradient that is left there, the smallest over the sides of these kinks, in balanced parameters) and `gradient` (the
    same on the side it lies on); `negative` curvatures, the `steps` taken, and the share of the loss that it had fallen
    by when it was pushed off a saddle first (`saddle`; infinite if that never was). It has `stalled` if it stopped not
    because the model saw no fall, but because steps gained next to nothing, or were refused.
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
    saddle: Float[Tensor, " member"]
    stalled: Bool[Tensor, " member"]


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
        """At once: where they are computed one after another, none beside it is worth a filled up place."""
        return 1 if isinstance(self.objective, PlainObjective) else 16

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


#: A loss of flat parameters of some members, and what a model of it around them is made of.
Surface = Pieces | Whole
Local = Piece | _Smooth


def outputs_of(objective: AnyObjective, stack: Stack) -> Float[Tensor, "member out sample"]:
    """What each network answers to each sample (others' padding included); its loss, [member, 1, 1], where its loss
    reads more than outputs.
    """
    found = []
    try:
        with torch.no_grad():
            for _, part in objective.chunks(stack):
                batches: Any = objective.batches()
                rows = [objective.parted_loss(part, batch)[0][0].detach() for batch in batches]
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
    every = _State.of_members(surface, flat.double())
    for index in _chunks(torch.arange(len(flat)), min(surface.members(), _AT_ONCE[0])):
        every.flat[index] = surface.balanced(every.flat[index])
    going = torch.arange(len(flat))
    for _ in range(steps):
        before = every.crowd.clone()
        for crowd, most in enumerate(_KINKS):
            for index in _chunks(going[before[going] == crowd], min(surface.members(), _AT_ONCE[crowd])):
                some = every.select(index)
                _step(surface, some, most, at_end)
                every.put(index, some)
        going = going[~(every.done | (every.loss < (1 - enough) * every.began))[going]]
        on_progress(len(flat) - len(going), len(flat))
        if not len(going):
            break
    return Ends(**{field.name: getattr(every, field.name) for field in dataclasses.fields(Ends)})


def _chunks(index: Tensor, size: int) -> Iterator[Tensor]:
    """Of one size, the last filled up with its own last: a member's numbers then depend on no companion."""
    for first in range(0, len(index), size):
        part = index[first : first + size]
        yield torch.cat([part, part[-1:].expand(size - len(part))])


@dataclasses.dataclass(eq=False)
class _State(Ends):
    """What is known of members on their way, a row each: how much the model is damped, how far the last step went, the
    `share` of kinks and those `held`, whether many kinks have to be reckoned with, how often they were pushed off.
    """

    began: Tensor
    damping: Tensor
    refused: Tensor
    moved: Tensor
    share: Tensor
    held: Tensor
    crowd: Tensor
    mark: Tensor
    done: Tensor
    pushed: Tensor

    @classmethod
    def of_members(cls, surface: Surface, flat: Tensor) -> "_State":
        m, kinks = len(flat), surface.at(flat[:1]).kinks.shape[1]
        far = torch.full((m,), torch.inf, dtype=torch.float64)
        zero, none, no = torch.zeros_like(far), torch.zeros(m, dtype=torch.int64), torch.zeros(m, dtype=torch.bool)
        share = torch.zeros(m, kinks, dtype=torch.float64)
        ends = (flat, far, far, far, none, far, far, none, none, far, no)
        way = (far, zero + 1e-3, zero, zero, share, share > 0, none, far, no, none)
        return cls(*(each.clone() for each in ends + way))

    def select(self, index: Tensor) -> "_State":
        return _State(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    def put(self, index: Tensor, part: "_State") -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name)[index] = getattr(part, field.name)


@dataclasses.dataclass(eq=False)
class _Model:
    """What the loss looks like around members: the `step` to the model's minimum and its `fall`, the `force` that is
    left when all kinks have their shares; of the kinks nearby (`near`) their inputs, gradients (`normals`) and their
    lengths, which are strictly between their sides (`inside`) and which the step leads to (`on`); curvatures along the
    kinks that are kept to (`values` of `vectors`, as far as they `span` that).
    """

    step: Tensor
    fall: Tensor
    force: Tensor
    near: Tensor
    inputs: Tensor
    normals: Tensor
    lengths: Tensor
    shares: Tensor
    inside: Tensor
    on: Tensor
    values: Tensor
    vectors: Tensor
    span: Tensor
    negative: Tensor


def _model(surface: Surface, s: _State, here: Local, most: int) -> _Model:
    size, far = s.flat.norm(dim=1, keepdim=True), here.distances
    held = s.held & (far < 0.1 * s.moved[:, None] + 1e-9 * size)
    share = torch.where(held, s.share, here.sides)
    at = surface.at(s.flat, share)
    near = far.topk(min(most, far.shape[1]), largest=False)[1]
    normals, inputs = _padded(at.normals(near)), here.kinks.gather(1, near)
    jumps, lengths = at.jumps.gather(1, near), normals.norm(dim=2).clamp(min=1e-300)
    convex = jumps * lengths > 1e-12 * s.loss[:, None]  # crossing another kink makes the loss fall beyond the model
    jumps = torch.where(convex, jumps, 0.0)
    rows = normals * jumps[..., None]
    base = _padded(at.gradient) - (share.gather(1, near)[..., None] * rows).sum(1)
    kept = normals * (held.gather(1, near) & convex)[..., None]
    hessian = _padded(_padded(at.hessian).mT)
    root, values, vectors, span, negative = _curvatures(surface, s, hessian, kept)
    reach = rows @ root
    linear = jumps * inputs - (reach @ (root @ base[..., None]))[..., 0]
    # Where the step that knows of no kink crosses none it is the answer, without the rounding of the search for shares.
    sides = (inputs > 0).to(rows.dtype)
    same = linear - (reach @ (reach.mT @ sides[..., None]))[..., 0]
    plain = ((same >= 0) == (sides > 0)).logical_or(jumps == 0).all(1, keepdim=True)
    shares = sides if plain.all() else torch.where(plain, sides, _box(reach, linear))
    force = base + (shares[..., None] * rows).sum(1)
    half = (root @ force[..., None])[..., 0]
    step = -(root @ half[..., None])[..., 0]
    reached = inputs + (normals @ step[..., None])[..., 0]
    gained = (jumps * (reached.clamp(min=0) - inputs.clamp(min=0))).sum(1)
    fall = -((base * step).sum(1) + half.square().sum(1) / 2 + gained)
    fall = torch.where(fall.isfinite(), fall.abs(), torch.inf)  # below zero: the shares are not exact
    step = torch.where(step.isfinite().all(1, keepdim=True), step, 0.0)
    inside = convex & (shares > 1e-6) & (shares < 1 - 1e-6)
    on = inside & (reached.abs() < lengths * (1e-3 * step.norm(dim=1, keepdim=True) + 1e-9 * size))
    parameters = s.flat.shape[1]
    return _Model(
        step[:, :parameters],
        fall,
        force[:, :parameters],
        near,
        inputs,
        normals,
        lengths,
        shares,
        inside,
        on,
        values,
        vectors,
        span,
        negative,
    )


def _step(surface: Surface, s: _State, most: int, at_end: float) -> None:
    """One step of each member of a chunk; writes over the state."""
    here = surface.at(s.flat)
    loss = s.loss = here.loss.double()
    s.began = torch.where(s.began.isinf(), loss, s.began)
    model = _model(surface, s, here, most)
    model.fall = torch.where(loss <= ZERO, 0.0, model.fall)
    nothing = model.fall <= at_end * loss
    best, lowest, factor = _along(surface, s, model)
    good = loss - lowest > 0.3 * model.fall
    damping = torch.where(good, torch.where(factor == 1, s.damping / 5, s.damping), s.damping * 8)
    damping = torch.where(~good & (factor > 0), s.damping * 2, damping)
    damping = torch.where(nothing, s.damping / 100, damping)
    ended = (nothing & (s.damping <= 1e-8)) | surface.at_infinity(here.outputs)
    looked = s.steps % WHILE == 0
    gained = torch.where(looked, s.mark - loss, torch.inf)
    slow = ~ended & (gained <= STALL * loss)
    s.mark = torch.where(looked, loss, s.mark)
    s.stalled = slow | (~ended & nothing & (s.damping <= 100 * s.refused))
    ended = ended | s.stalled
    s.refused = torch.where(factor > 0, 0.0, torch.where(nothing, s.refused, torch.maximum(s.refused, s.damping)))
    push = ended & model.negative.any(1) & (s.pushed < _PUSHES)
    if push.any():
        best, lowest, pushed = _pushed(surface, s, model, push, best, lowest)
        damping, ended = torch.where(pushed, 1e-3, damping), ended & ~pushed
        s.saddle = torch.where(pushed & (s.pushed == 0), 1 - loss / s.began.clamp(min=1e-300), s.saddle)
        s.pushed, s.stalled = s.pushed + pushed, s.stalled & ~pushed
        s.mark = torch.where(pushed, torch.inf, s.mark)

    size = s.flat.norm(dim=1)
    little = 1e-4 / (1 + model.step.norm(dim=1, keepdim=True))
    change = surface.at(s.flat + little * model.step).outputs - here.outputs
    s.fall = torch.where(slow & s.stalled, torch.minimum(model.fall, WHILE * gained), model.fall)
    s.outputs = change.flatten(1).abs().amax(1) / little[:, 0]
    s.negative = model.negative.sum(1)
    s.pull, s.gradient = _across(surface, s.flat, model.force), _across(surface, s.flat, here.gradient)
    s.kinks = (model.inside & (model.inputs.abs() <= 1e-7 * model.lengths * size[:, None])).sum(1)
    s.held = torch.zeros_like(s.held).scatter(1, model.near, model.on)
    s.share = s.share.scatter(1, model.near, model.shares)
    s.moved = (best - s.flat).norm(dim=1)
    about = (here.distances < torch.maximum(s.moved, 1e-6 * size)[:, None]).sum(1)
    s.crowd = torch.as_tensor(sum((about > 0.75 * most).long() for most in _KINKS[:-1]))
    s.damping, s.done, s.steps = damping.clamp(_LEAST_DAMPING, _MOST_DAMPING), ended, s.steps + 1
    moved = (lowest < loss) & ~ended  # what is at its end, where all the rest was found, stays
    s.flat = torch.where(moved[:, None], surface.balanced(best), s.flat)
    s.loss = torch.where(moved, lowest, loss)


def _along(surface: Surface, s: _State, model: _Model) -> tuple[Tensor, Tensor, Tensor]:
    """The lowest of some places along the step, its loss, and which part of the step that is; 0 if none is lower."""
    back = _back(model, s)
    best, lowest, factor = s.flat, s.loss, torch.zeros_like(s.loss)
    for part, corrected in ((1.0, True), (1.0, False), (0.3, True), (0.1, False), (0.01, False)):
        tried = s.flat + part * model.step
        if corrected:  # kinks curve: a straight step leaves those that it keeps to, to second order
            tried = _returned(surface, model, back, tried, 1 - part)
        there = surface.at(tried).loss.double()
        better = (there < lowest) & ((factor == 0) | (part > 0.05))
        best, lowest = torch.where(better[:, None], tried, best), torch.where(better, there, lowest)
        factor = torch.where(better, part, factor)
    return best, lowest, factor


def _back(model: _Model, s: _State) -> Tensor:
    """From how far kinks are off that a step keeps to, to the shortest way back."""
    return _onto(model.normals * (model.on / model.lengths)[..., None])[:, : s.flat.shape[1]]


def _returned(surface: Surface, model: _Model, back: Tensor, tried: Tensor, share: float) -> Tensor:
    """Places from which kinks that are kept to are off by no more than a share of what they were off by before."""
    off = surface.at(tried).kinks.gather(1, model.near) - share * model.inputs
    return tried - (back @ torch.where(model.on, off / model.lengths, 0.0)[..., None])[..., 0]


def _pushed(
    surface: Surface, s: _State, model: _Model, push: Tensor, best: Tensor, lowest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Members beside a saddle, on the lower side of it, and which found one."""
    worst = torch.where(model.span, model.values, torch.inf).argmin(1)
    along = model.vectors[torch.arange(len(worst)), : s.flat.shape[1], worst]
    size, least = 1 + s.flat.norm(dim=1, keepdim=True), s.loss * (1 - 1e-12)
    found, back = torch.zeros_like(push), _back(model, s)
    for part in (1e-3, -1e-3, 1e-2, -1e-2, 1e-1, -1e-1):
        tried = _returned(surface, model, back, s.flat + part * size * along, 1.0)
        there = surface.at(tried).loss.double()
        better = push & (there < torch.minimum(lowest, least))
        best, lowest = torch.where(better[:, None], tried, best), torch.where(better, there, lowest)
        found |= better
    return best, lowest, found


def _padded(vectors: Float[Tensor, "*some parameter"]) -> Float[Tensor, "*some padded"]:
    """Vectors filled up with zeros to a multiple of 8: products and decompositions of matrices that begin at other
    places of a cache line may add in another order, and a member's numbers would depend on where it stands.
    """
    return torch.nn.functional.pad(vectors, (0, -vectors.shape[-1] % 8))


def _across(surface: Surface, flat: Tensor, vector: Tensor) -> Tensor:
    """Norm of a vector without what lies along rescalings."""
    basis, vector = _orthonormal(_padded(surface.scalings(flat))), _padded(vector)
    rest = vector - (basis @ (basis.mT @ vector[..., None]))[..., 0]
    length: Tensor = rest.norm(dim=1)
    return length


def _orthonormal(rows: Float[Tensor, "member some parameter"]) -> Float[Tensor, "member parameter parameter"]:
    """Columns that span what rows span, filled up with zeros."""
    unit = rows / rows.norm(dim=2, keepdim=True).clamp(min=1e-300)
    values, vectors = torch.linalg.eigh(unit.mT @ unit)
    columns: Tensor = vectors * (values > 1e-8)[:, None]
    return columns


def _onto(rows: Float[Tensor, "member some parameter"]) -> Float[Tensor, "member parameter some"]:
    """The pseudo-inverse: from how far rows are off to the shortest way back."""
    values, vectors = torch.linalg.eigh(rows.mT @ rows)
    inverse = torch.where(values > 1e-8 * values[:, -1:].clamp(min=1e-300), 1 / values.clamp(min=1e-300), 0.0)
    back: Tensor = (vectors * inverse[:, None]) @ vectors.mT @ rows.mT
    return back


def _curvatures(
    surface: Surface, s: _State, hessian: Tensor, kept: Float[Tensor, "member near parameter"]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A root of the inverse of the model's matrix, which has the damped magnitudes of the curvatures along the kinks
    that are kept to, and the largest of them across these and along rescalings; and these curvatures, their directions,
    which of them are such, and which of these are negative.
    """
    across = _orthonormal(torch.cat([kept, _padded(surface.scalings(s.flat))], 1))
    along = torch.diag(_padded(torch.ones(s.flat.shape[1], dtype=s.flat.dtype))) - across @ across.mT
    values, vectors = torch.linalg.eigh(along @ hessian @ along)
    span = (along @ vectors).square().sum(1) > 0.5
    top = values.abs().amax(1).clamp(min=1e-300)
    size = torch.where(span, values.abs() + (s.damping * top)[:, None], torch.inf)
    stiff = (top * (1 + s.damping)).sqrt()[:, None, None]
    root: Tensor = (vectors / size.sqrt()[:, None]) @ vectors.mT + across @ across.mT / stiff
    return root, values, vectors, span, span & (values < -NEGATIVE * top[:, None])


def _box(rows: Float[Tensor, "member kink some"], linear: Float[Tensor, "member kink"]) -> Float[Tensor, "member kink"]:
    """The shares in [0, 1] that maximise linear . s - |rows^T s|^2 / 2, by Mehrotra's predictor and corrector (S. J.
    Wright, *Primal-Dual Interior-Point Methods*, 1997, chapter 10).
    """
    m, k, p = rows.shape
    s = torch.full_like(linear, 0.5)
    if not k:
        return s
    low = high = linear.abs().amax(1, keepdim=True).clamp(min=1e-300).expand(m, k)
    eye, back, first = torch.eye(p, dtype=rows.dtype), rows.mT, low.new_zeros(m, 1)
    for _ in range(_ROUNDS):
        rest = 1 - s
        gap = (low * s + high * rest).mean(1, keepdim=True) / 2
        first = torch.maximum(first, gap)
        going = gap > 1e-14 * first  # further it would only meet the ends of what numbers can be
        if not going.any():
            break
        diagonal = low / s + high / rest
        weighed = rows / diagonal[..., None]
        factors = torch.linalg.lu_factor_ex(eye + back @ weighed)[:2]
        slope = linear - (rows @ (back @ s[..., None]))[..., 0]
        target_low = target_high = torch.zeros_like(s)
        for corrected in (False, True):  # the second time for a target that is as near as the first step came
            aim = slope + target_low / s - target_high / rest
            inner = torch.linalg.lu_solve(*factors, weighed.mT @ aim[..., None])
            ds = aim / diagonal - (weighed @ inner)[..., 0]
            dl = target_low / s - low - low / s * ds
            dh = target_high / rest - high + high / rest * ds
            pairs = (s, ds), (rest, -ds), (low, dl), (high, dh)
            room = [torch.where(d < 0, -v / d, torch.inf).amin(1) for v, d in pairs]
            way = ((0.995 if corrected else 1.0) * torch.stack(room).amin(0)[:, None]).clamp(max=1)
            if not corrected:
                left = ((low + way * dl) * (s + way * ds) + (high + way * dh) * (rest - way * ds)).mean(1, keepdim=True)
                centre = (left / 2 / gap) ** 3 * gap
                target_low, target_high = centre - ds * dl, centre + ds * dh
        way = torch.where(going, way, 0.0)
        s = torch.where(way > 0, s + way * ds, s).clamp(1e-15, 1 - 1e-15)
        low, high = (torch.where(way > 0, v + way * d, v).clamp(min=1e-300) for v, d in ((low, dl), (high, dh)))
    return s
