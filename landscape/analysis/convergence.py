"""`landscape.convergence`: has training come to an end, and of which kind is it?"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from landscape.core.errors import LandscapeError, Unsupported, loss_in, plural
from landscape.core.fields import Field, require
from landscape.core.intervals import Proportion
from landscape.core.notebook import Listener, listening_to
from landscape.core.unfinished import Progress
from landscape.engine.descent import AT_END, WHILE, Ends, Whole, descend, outputs_of
from landscape.engine.hessian import MOST_PARAMETERS, NEAR_ZERO, Hessian, alone
from landscape.engine.objective import Objective
from landscape.engine.pieces import Pieces
from landscape.engine.plain import AnyObjective
from landscape.engine.spectrum import eigenpairs
from landscape.engine.stack import Stack, template_of
from landscape.engine.truncated import GRADIENT, Came, Slope, lbfgs, newton
from landscape.evaluation.routes import networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place
from landscape.space.groups import learning
from landscape.store.checkpoints import Run

__all__ = ["KINDS", "Convergence", "Descent", "constant", "convergence", "prepared"]

#: What a member may be, and what that means.
KINDS = {
    "converged": "nothing is left to gain, along the gradient or a negative curvature",
    "falling": "a continued descent makes the loss fall by more than the tolerance",
    "towards infinity": "the loss falls to its limit as the outputs grow without end",
    "at a kink": "held where the input of a rectifier is zero, with gradients that point there from both sides",
    "saddle": "nothing is left to gain along the gradient, but along a negative curvature",
    "dead": "the same output for every sample, though samples differ, which no descent changes",
    "diverged": "parameters or a loss that are NaN or infinite",
}

#: A step that is worth little but changes an output by more than this leads to infinity: where the loss has an
#: exponential tail, Newton's steps change outputs by 1 each, and near a minimum by ever less.
GROWS = 0.1

#: What it is worth must be more than rounding, as a share of the loss.
ROUNDING = 1e-13

#: Of members with less than this share of their loss left it can be said where they are.
NEARLY = 1e-6

#: So often a member of a large network is pushed off saddles.
_PUSHES = 5

#: L-BFGS takes so many steps for one of Newton's.
_CHEAPER = 10

#: Members that go towards infinity with the limit 0 are taken to this loss.
STOP = 1e-9

#: Networks with random parameters, of which one at least tells samples apart that are not alike.
_RANDOM = 16

#: The last layer is multiplied by these to see whether the loss goes to zero.
_FACTORS = (1e2, 1e4, 1e6, 1e8)

#: Members whose loss falls by more than this share of it are falling, unless a polished run says otherwise; and so many
#: of Newton's steps are taken to see it.
TOLERANCE, STEPS = 1e-3, 30

_FIELDS = (
    Field("tolerance", float | None, None, above=0, below=1),
    Field("steps", int, STEPS, at_least=1),
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Convergence:
    """Of each of the `members` of a place: its `kind` (an index into `KINDS`), `loss`, and the `limit` that a continued
    descent leads to, with how far that may be off (NaN of those that fall on); `fall` is the way there as a share of
    the loss, or that which is known to be left.

    A kind is `sure` if the descent came to its end within its steps, or fell far enough. It has `stalled` where it
    stopped before: ten steps gained less than 1e-7 of the loss, of which the `fall` that is left is then ten times what
    they gained at most; or a lower place was found only by steps too short to be worth it. `negative` (curvatures),
    `kinks` (that it is held at), `gradient_norm` and `pull` are found there: L2 norms of the gradient on the member's
    side of the kinks, and of the shortest one over their sides, both of the balanced representative and across
    rescalings of units. `radial` is the derivative of the logarithm of the loss in that of the scale of the last
    layer, at the member itself: 0 at a minimum. Counts are -1 where they are not known; of a large network's negative
    curvatures 1 says that there are some.
    """

    members: tuple[str, ...]
    kind: Int[np.ndarray, " member"]
    loss: Float[np.ndarray, " member"]
    limit: Float[np.ndarray, " member"]
    limit_error: Float[np.ndarray, " member"]
    fall: Float[np.ndarray, " member"]
    radial: Float[np.ndarray, " member"]
    sure: Bool[np.ndarray, " member"]
    stalled: Bool[np.ndarray, " member"]
    gradient_norm: Float[np.ndarray, " member"]
    pull: Float[np.ndarray, " member"]
    kinks: Int[np.ndarray, " member"]
    negative: Int[np.ndarray, " member"]
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"Convergence({plural(len(self), 'member')}: {', '.join(f'{n} {k}' for k, n in self.counts.items())})"

    @property
    def kinds(self) -> list[str]:
        """Each member's kind in words."""
        return [list(KINDS)[number] for number in self.kind]

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each kind that there is."""
        found = [(kind, int((self.kind == number).sum())) for number, kind in enumerate(KINDS)]
        return {kind: count for kind, count in found if count}

    def share(self, kind: str) -> Proportion:
        """The share of a kind, with Wilson's interval."""
        return Proportion(self.counts.get(kind, 0), len(self))

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and a row a kind; medians over its members."""
        rows: list[list[Any]] = []
        for number, kind in enumerate(KINDS):
            if (of := self.kind == number).any():
                medians = (_median(each[of]) for each in (self.loss, self.limit, self.fall, self.gradient_norm))
                low, high = self.share(kind).interval
                unsure = int((~self.sure[of]).sum()), int(self.stalled[of].sum())
                rows.append([kind, int(of.sum()), f"{low:.3f} to {high:.3f}", *medians, *unsure])
        header = [
            "kind",
            "members",
            "95 % interval of share",
            "loss",
            "limit",
            "fall",
            "|gradient|",
            "unsure",
            "stalled",
        ]
        return header, rows

    def caption(self) -> str:
        """What was judged, and how."""
        return (
            f"{self.about['title']}: {plural(len(self), 'member')} of {self.about['parameters']} parameters, "
            f"{loss_in(self.about['loss_unit'])}; a fall of more than {self.about['tolerance']:g} of the loss in "
            f"{self.about['steps']} steps of {self.about['method']} is falling"
        )

    def document(self) -> dict[str, Any]:
        """All of it, a row a member, as a file keeps it."""
        columns = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        columns.pop("about")
        columns |= {"member": columns.pop("members"), "kind": self.kinds}
        names = list(columns)
        rows = zip(
            *(columns[name].tolist() if hasattr(columns[name], "tolist") else columns[name] for name in names),
            strict=True,
        )
        return {
            **self.about,
            "kinds": KINDS,
            "counts": {kind: self.share(kind) for kind in self.counts},
            "members": [dict(zip(names, row, strict=True)) for row in rows],
        }


def convergence(
    a: Place,
    *,
    problem: Problem | str | None = None,
    tolerance: float | None = None,
    steps: int = STEPS,
    engine: Engine = "auto",
    progress: Listener = None,
) -> Convergence:
    """Judge of each member whether training has come to an end, and to which: the gradient alone does not say.

    From each member a descent is continued, in float64 and on all data. What it gains and where it comes to say the
    kind. Networks of up to 400 parameters go by Newton's method; chains of fully connected layers (or convolutions that
    see their whole input) with ReLU or LeakyReLU have their kinks known, are balanced, and have rescalings of units
    taken out of gradients, steps and curvatures (those below 1e-8 of the largest magnitude count as zero). Larger ones
    go by L-BFGS, ten steps for one, and from there by truncated Newton steps, which know the Hessian by its products
    with vectors: negative curvatures (those below -1e-6 of the largest magnitude) are found by Lanczos' iterations.

    Args:
        a: A place, as in `landscape.walk`, of one or several members.
        problem: Model, data and loss. None: that of the run or checkpoint. The loss must be exact.
        tolerance: Members whose loss falls by more than this share of it are `falling`. None: 0.001, and of a polished
            run what it was judged by, 1e-6, so that its kinds are those that it says.
        steps: Newton's steps at most.
        engine: As in `landscape.walk`.
        progress: A function, called with (members done, members in all), or True for a bar (extra `progress`, tqdm).

    Returns:
        A `Convergence`: `kinds`, `loss`, `limit`, `fall`, ..., a value a member, `table()` and `counts`. A network that
        has every target right by a margin goes towards infinity, with the limit 0, whatever its gradient. Statistics of
        BatchNorm are those of the checkpoint.

    Raises:
        LandscapeError: In one line, what is wrong and what to write instead; for sampled and random losses.

    Source: K. Lyu, J. Li, *Gradient descent maximizes the margin of homogeneous neural networks*, ICLR 2020 (limits at
    infinity); A. S. Lewis, M. L. Overton, Math. Program. 141, 2013, R. Mifflin, C. Sagastizábal, Math. Program. 104,
    2005 (kinks); S. Du, W. Hu, J. D. Lee, NeurIPS 2018 (rescaling); T. Steihaug, SIAM J. Numer. Anal. 20, 1983
    (truncated steps).

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 3)[:, None]
    >>> model = torch.nn.Linear(1, 1)
    >>> problem = landscape.Problem.from_model(model, (x, 2 * x + 1), "mse")
    >>> landscape.convergence({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.5])}, problem=problem).kinds
    ['falling']
    """
    require(convergence, locals(), *_FIELDS)
    descent = prepared(a, problem, engine)
    tolerance = descent.polished.tolerance if tolerance is None else tolerance
    finite = descent.finite(descent.stack)
    index = finite.nonzero()[:, 0]
    told = listening_to(progress)
    found = (
        descent.judged(descent.stack.select(index), tolerance=tolerance, steps=steps, on_progress=told)[0]
        if len(index)
        else {}
    )
    whole = {name: np.full(len(finite), _ABSENT.get(name, np.nan)) for name in _NAMES}
    for name, values in found.items():
        whole[name] = whole[name].astype(values.dtype)
        whole[name][index.numpy()] = values
    for name in ("sure", "stalled"):
        whole[name] = whole[name].astype(bool)
    infinite = torch.tensor([seed in descent.polished.infinite for seed in descent.seeds])
    whole["kind"] = _infinite(torch.from_numpy(whole["kind"]), infinite).numpy()
    return Convergence(members=descent.labels, about={**descent.about, "tolerance": tolerance, "steps": steps}, **whole)


_NAMES = tuple(field.name for field in dataclasses.fields(Convergence) if field.name not in ("members", "about"))
_ABSENT: dict[str, Any] = {
    "kind": list(KINDS).index("diverged"),
    "sure": True,
    "stalled": False,
    "kinks": -1,
    "negative": -1,
}


@dataclasses.dataclass(frozen=True)
class Polished:
    """What a polished run says: by which tolerance it was judged, and the seeds of members that went towards infinity,
    which those that have come far no longer show.
    """

    tolerance: float = TOLERANCE
    infinite: frozenset[int] = frozenset()

    @classmethod
    def of(cls, files: set[str]) -> "Polished":
        """That of the run that a file is in, if it is one alone and the run is polished."""
        file = Path(files.pop())
        if files or not (file.is_file() and (file.parent / "run.json").is_file()):
            return cls()
        run = Run.open(file.parent)
        told = run.document.get("polished", {})
        kinds = zip(run.seeds, told.get("members", ()), strict=False)
        infinite = frozenset(seed for seed, member in kinds if member["kind"] == "towards infinity")
        return cls(told.get("tolerance", TOLERANCE), infinite)


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """What a place's members go down: their objective, the members, and what is known of it all."""

    problem: Problem
    objective: AnyObjective
    stack: Stack
    labels: tuple[str, ...]
    last: frozenset[str]
    about: Mapping[str, Any]
    polished: Polished = Polished()
    seeds: tuple[int | None, ...] = ()

    def finite(self, stack: Stack) -> Bool[Tensor, " member"]:
        """Which members have parameters and a loss that are numbers."""
        return stack.flatten().isfinite().all(1).cpu() & self.objective(stack)["loss"].cpu().isfinite()

    def judged(
        self, stack: Stack, *, tolerance: float, steps: int, whole: bool = False, on_progress: Progress
    ) -> tuple[dict[str, np.ndarray], Stack]:
        """The columns of a `Convergence` of finite members, and where they came to, no further than is needed to know
        their kind. With `whole` they go to their end, and the columns are of what they are there: their kind is what
        this says of them when they begin there, with a tolerance of `NEARLY`, and that they went towards infinity.
        """
        at_end = AT_END if whole else min(tolerance / 1000, NEARLY)
        loss = self.objective(stack)["loss"].double().cpu()
        flat = stack.flatten().double().cpu()
        right = self._at_infinity(stack, loss)
        going = (~right).nonzero()[:, 0]
        ends, before = _unmoved(flat, loss), int(right.sum())
        on_progress(before, len(loss))
        if len(going):
            part = self._descended(
                stack.select(going),
                steps,
                at_end,
                1.0 if whole else tolerance,
                lambda done, total: on_progress(before + done, before + total),
            )
            for field in dataclasses.fields(Ends):
                getattr(ends, field.name)[going] = getattr(part, field.name)
        went = self._with(stack, ends.flat)
        late = self._at_infinity(went, ends.loss)  # those that have come to get all right on their way
        silent = self._silent(stack) & constant(self.objective, went)
        ended = ends.fall <= at_end * ends.loss
        left = torch.where(ended, ends.fall, 0.0)  # of others it was seen before the last step
        fall = torch.where(right | late, 1.0, ((loss - ends.loss + left) / loss.clamp(min=1e-300)).clamp(0, 1))
        grows = (ends.outputs >= GROWS) & (ends.fall >= ROUNDING * ends.loss)
        kind = torch.zeros(len(loss), dtype=torch.int64)
        for name, of in (
            ("at a kink", ends.kinks != 0),
            ("towards infinity", grows),
            ("falling", fall > tolerance),
            ("saddle", ends.saddle <= tolerance),
            ("towards infinity", right),
            ("dead", silent & ~right & (fall <= tolerance)),
        ):
            kind = torch.where(of, list(KINDS).index(name), kind)
        surface = self.surface()
        if isinstance(surface, Pieces):
            slope = surface.at(surface.balanced(flat)).gradient.norm(dim=1)
        else:
            slope = self.objective.gradient(stack)[1].flatten().norm(dim=1).double().cpu()
        # Along an exponential tail as much is left as the first order says, twice what a quadratic has.
        left = torch.where(grows, 2.0, 1.0) * ends.fall
        zero = right | late
        known = zero | whole | (fall <= tolerance)
        columns = {
            "kind": kind,
            "loss": loss,
            "limit": torch.where(zero, 0.0, torch.where(known, (ends.loss - left).clamp(min=0), torch.nan)),
            "limit_error": torch.where(zero, 0.0, torch.where(known, left, torch.nan)),
            "fall": fall,
            "radial": self._radial(went if whole else stack),
            "sure": zero | (ended & ~ends.stalled) | ((fall > tolerance) & (not whole)),
            "stalled": ends.stalled & ~zero & (whole | (fall <= tolerance)),
            "gradient_norm": torch.where(right, slope, ends.gradient),
            "pull": torch.where(right, slope, ends.pull),
            "kinks": ends.kinks,
            "negative": ends.negative,
        }
        if whole:
            went = self._grown(went, zero)
            grown = self.objective(went)["loss"].double().cpu()
            columns |= {"loss": grown, "fall": torch.where(zero, 1.0, ends.fall / ends.loss.clamp(min=1e-300))}
            there = self.judged(went, tolerance=NEARLY, steps=STEPS, on_progress=lambda done, total: None)[0]
            columns["kind"] = _infinite(torch.from_numpy(there["kind"]), grows | zero)
        return {name: values.numpy() for name, values in columns.items()}, went

    def surface(self) -> Pieces | Whole | None:
        """What Newton's method descends; None for networks of many parameters."""
        if self.stack.parameters > MOST_PARAMETERS:
            return None
        whole = self.stack.parameters == self.problem_parameters
        pieces = Pieces.of(self.objective) if isinstance(self.objective, Objective) and whole else None
        return pieces or Whole(self.objective, self.stack.select([0]))

    @property
    def problem_parameters(self) -> int:
        """Of the whole network."""
        return template_of(self.problem.prototype).parameters

    def _descended(self, stack: Stack, steps: int, at_end: float, enough: float, on_progress: Progress) -> Ends:
        flat, surface = stack.flatten().double().cpu(), self.surface()
        if surface is None:
            ends = _unmoved(flat, torch.zeros(len(flat), dtype=torch.float64))
            for number in range(len(flat)):
                self._large(stack, number, ends, steps, at_end, enough)
                on_progress(number + 1, len(flat))
            return ends
        ends = descend(surface, flat, steps=steps, at_end=at_end, enough=enough, on_progress=on_progress)
        if isinstance(surface, Whole):  # whose kinks are not known: they are looked for
            short = ends.stalled | (ends.fall > at_end * ends.loss)
            for number in range(len(flat)):
                slope = self._slope(stack, number)
                if short[number] and _bends(slope, ends.flat[number]):
                    self._kinked(slope, ends, number, steps, enough)
                elif not short[number] and _held(slope, ends.flat[number]):
                    ends.kinks[number] = -1
        return ends

    def _kinked(self, slope: Slope, ends: Ends, number: int, steps: int, enough: float) -> None:
        """One member that is held at a kink which is not known, further by L-BFGS; writes its row."""
        flat, losses = lbfgs(slope, ends.flat[number], steps=_CHEAPER * steps, enough=enough)
        ends.flat[number], ends.loss[number], ends.kinks[number] = flat, losses[-1], -1
        ends.fall[number], ends.stalled[number] = losses[-min(WHILE, len(losses))] - losses[-1], True
        ends.gradient[number] = ends.pull[number] = slope(flat)[1].norm()

    def _large(self, stack: Stack, number: int, ends: Ends, steps: int, at_end: float, enough: float) -> None:
        """One member of a large network, by products with vectors; writes its row."""
        like = stack.select([number])
        whole, slope, objective = Whole(self.objective, like), self._slope(stack, number), alone(self.objective)

        def curved(flat: Tensor) -> Callable[[Tensor], Tensor]:
            hessian = Hessian(objective, whole.stack(flat[None]), name=self.labels[0])
            return lambda vector: hessian.products(vector[None])[0].cpu()

        def right(flat: Tensor, loss: float) -> bool:
            return bool(self._at_infinity(whole.stack(flat[None]), torch.tensor([loss], dtype=torch.float64))[0])

        def descended(flat: Tensor, steps: int, enough: float) -> Came:
            least = GRADIENT if enough == 1 else math.inf
            return newton(slope, curved, flat, steps=steps, at_end=at_end, least=least, enough=enough, over=right)

        flat, losses = lbfgs(slope, ends.flat[number], steps=_CHEAPER * steps, enough=enough, over=right)
        began = losses[0]
        came, taken = descended(flat, steps, _rest(began, losses[-1], enough)), len(losses) - 1
        negative, kinks = -1, 0
        for push in range(_PUSHES + 1):
            taken += came.steps
            fallen = came.loss < (1 - enough) * began
            if fallen or right(came.flat, came.loss):
                break
            if _bends(slope, came.flat) if came.stalled or came.steps == steps else _held(slope, came.flat):
                kinks = -1
                break
            here = whole.stack(came.flat[None])
            pairs = eigenpairs(objective, here, k=2, which="both")
            low, high = (float(value) for value in pairs.values[0])
            if not low < -NEAR_ZERO * max(abs(low), abs(high)):
                negative = 0 if pairs.converged[0, 0] else -1
                break
            negative = 1
            pushed = _lower(slope, came, torch.from_numpy(pairs.vectors[0, 0]))
            if pushed is None or push == _PUSHES:
                break
            if push == 0:
                ends.saddle[number] = 1 - came.loss / max(began, 1e-300)
            came = descended(pushed, steps, _rest(began, came.loss, enough))
        little = 1e-4 / (1 + float(came.step.norm()))
        near = outputs_of(self.objective, whole.stack(torch.stack([came.flat, came.flat + little * came.step])))
        ends.flat[number], ends.loss[number], ends.fall[number] = came.flat, came.loss, came.fall
        ends.outputs[number] = (near[1] - near[0]).abs().max() / little
        ends.gradient[number] = ends.pull[number] = came.gradient.norm()
        ends.steps[number], ends.negative[number], ends.kinks[number] = taken, negative, kinks
        ends.stalled[number] = came.stalled

    def _slope(self, stack: Stack, number: int) -> Slope:
        whole = Whole(self.objective, stack.select([number]))

        def slope(flat: Tensor) -> tuple[float, Tensor]:
            loss, gradient = self.objective.gradient(whole.stack(flat[None]))
            return float(loss[0]), gradient.flatten()[0].double().cpu()

        return slope

    def _silent(self, stack: Stack) -> Tensor:
        """Which members give the same output to every sample, where others do not: not where the samples are alike."""
        silent = constant(self.objective, stack)
        if silent.any():
            flat = torch.randn(
                _RANDOM, stack.parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64
            )
            drawn = Whole(self.objective, stack.select([0])).stack(flat)
            silent &= not bool(constant(self.objective, drawn).all())
        return silent

    def _with(self, stack: Stack, flat: Tensor) -> Stack:
        return dataclasses.replace(stack.unflatten(flat), buffers=stack.buffers)

    def _radial(self, stack: Stack) -> Tensor:
        """Derivative of the logarithm of the loss in that of the scale of the last layer."""
        loss, gradient = self.objective.gradient(stack)
        total = torch.zeros_like(loss)
        for name in self.last & stack.tensors.keys():
            total = total + (stack[name] * gradient[name]).reshape(len(stack), -1).sum(1)
        return (total / loss.clamp(min=1e-300)).double().cpu()

    def _at_infinity(self, stack: Stack, loss: Tensor) -> Tensor:
        """Whether the loss goes to zero as the last layer grows: every target is right by a margin."""
        before, right = loss, torch.ones(len(stack), dtype=torch.bool)
        for factor in _FACTORS:
            now = self._times(stack, torch.full_like(loss, factor))
            right &= now <= before
            before = now
        return right & (before <= 1e-12) & (loss > 0)

    def _times(self, stack: Stack, factor: Tensor) -> Tensor:
        """The loss of members whose last layer is multiplied by a factor each."""
        return self.objective(self._scaled(stack, factor))["loss"].double().cpu()

    def _scaled(self, stack: Stack, factor: Tensor) -> Stack:
        grown = {
            name: each * factor.view(-1, *[1] * (each.ndim - 1)) if name in self.last else each
            for name, each in stack.tensors.items()
        }
        return Stack(grown, stack.buffers)

    def _grown(self, stack: Stack, these: Tensor) -> Stack:
        """These members with a last layer that has grown until the loss is `STOP`, and no further."""
        low = high = torch.ones(len(stack), dtype=torch.float64)
        growing = these & (self._times(stack, low) > STOP)
        for _ in range(60):
            if not (far := growing & (self._times(stack, high) > STOP)).any():
                break
            low, high = torch.where(far, high, low), torch.where(far, 2 * high, high)
        for _ in range(30):
            middle = (low * high).sqrt()
            far = self._times(stack, middle) > STOP
            low, high = torch.where(far & growing, middle, low), torch.where(~far & growing, middle, high)
        return self._scaled(stack, torch.where(growing, high, 1.0))


def prepared(a: Place, problem: Problem | str | None, engine: Engine = "auto") -> Descent:
    """The members at a place, and the exact loss that they go down, in float64; raises `LandscapeError` for a loss that
    is none.
    """
    compute = Compute.chosen(
        a, device="cpu", dtype=torch.float64, batchnorm=None, engine=engine, autocast=None, samples=None, seed=0
    )
    problem, (place,) = networks([a], compute, problem, finite=False)
    objective = compute.objective(problem)
    if objective.sampled and not _has_all(problem):
        raise LandscapeError(
            f"the loss of {problem.title()} is a mean over samples that are drawn, which has other minima than what "
            "they are drawn from: only exact losses are descended to their end"
        )
    if objective.batchnorm is not None:
        objective = dataclasses.replace(objective, batchnorm="interpolate")
    stack = place.stack.to(torch.float64)
    moving = learning(problem.prototype) & stack.tensors.keys()
    stack = stack.moving(moving)
    objective.check_deterministic(stack.select([0]))
    if stack.parameters <= MOST_PARAMETERS and not isinstance(objective, Objective):
        objective = _stacked(compute, problem, objective)
    newton = stack.parameters <= MOST_PARAMETERS
    return Descent(
        problem,
        objective,
        stack,
        tuple(source.label for source in place.sources),
        _last(problem.prototype),
        {
            **compute.describe(problem, objective),
            "parameters": stack.parameters,
            "method": "Newton's method" if newton else f"{_CHEAPER} times L-BFGS and truncated Newton's method",
        },
        Polished.of({source.path for source in place.sources}),
        tuple(source.seed for source in place.sources),
    )


def _infinite(kind: Int[Tensor, " member"], these: Bool[Tensor, " member"]) -> Int[Tensor, " member"]:
    """Kinds, of which those that seem to be at their end are going towards infinity if they are known to."""
    number = list(KINDS).index
    still = these & ((kind == number("converged")) | (kind == number("at a kink")))
    return torch.where(still, number("towards infinity"), kind)


def _has_all(problem: Problem) -> bool:
    """Whether the samples are all that is meant, as those of a data set are."""
    try:
        return "exact" in problem.training_kinds()
    except Unsupported:  # batches are read as they come
        return True


def _stacked(compute: Compute, problem: Problem, plain: AnyObjective) -> AnyObjective:
    """The stacked engine where it serves: a small network's kinks are known there."""
    if compute.engine != "auto":
        return plain
    try:
        objective = compute.stacks(problem)
    except LandscapeError:
        return plain
    return objective if Pieces.of(objective) else plain


def _last(module: nn.Module) -> frozenset[str]:
    """The parameters of the last module that has some."""
    owners = [name for name, each in module.named_modules() if any(True for _ in each.parameters(recurse=False))]
    prefix = f"{owners[-1]}." if owners and owners[-1] else ""
    return (
        frozenset(prefix + name for name, _ in module.get_submodule(owners[-1]).named_parameters(recurse=False))
        if owners
        else frozenset()
    )


def _unmoved(flat: Tensor, loss: Tensor) -> Ends:
    """Members that have not gone anywhere."""
    zero, none = torch.zeros_like(loss), torch.zeros(len(loss), dtype=torch.int64)
    return Ends(
        flat.clone(),
        loss.clone(),
        zero,
        zero.clone(),
        none,
        zero.clone(),
        zero.clone(),
        none.clone(),
        none.clone(),
        zero + torch.inf,
        none.bool(),
    )


def constant(objective: AnyObjective, stack: Stack) -> Tensor:
    """Which members give the same output to every sample."""
    outputs = outputs_of(objective, stack)
    spread = (outputs.amax(2) - outputs.amin(2)).amax(1)
    return (spread <= 1e-9 * (1 + outputs.abs().amax((1, 2)))) & (outputs.shape[2] > 1)


def _rest(began: float, loss: float, enough: float) -> float:
    """The share of a loss that is there to fall by, for a fall by `enough` of what it began with."""
    return min(1.0, max(0.0, 1 - (1 - enough) * began / max(loss, 1e-300)))


def _lower(slope: Slope, came: Came, along: Tensor) -> Tensor | None:
    """A lower place on either side of a saddle, the lowest of some."""
    size = 1 + float(came.flat.norm())
    tried = [came.flat + part * side * size * along for part in (1e-3, 1e-2, 1e-1) for side in (1, -1)]
    losses = [slope(each)[0] for each in tried]
    best = min(range(len(tried)), key=losses.__getitem__)
    return tried[best] if losses[best] < came.loss * (1 - 1e-12) else None


def _bends(slope: Slope, flat: Tensor) -> bool:
    """Whether gradients on both sides point to a place, and turn there however near: those of a smooth loss turn less
    the nearer they are.
    """
    gradient = slope(flat)[1]
    length = float(gradient.norm())
    if not length:
        return False
    way = -gradient / length
    size = 1 + float(flat.norm())
    far, near = (float(slope(flat + part * size * way)[1] @ way) + length for part in (1e-5, 1e-7))
    return min(far, near) > 1.1 * length and near > 0.3 * far


def _held(slope: Slope, flat: Tensor) -> bool:
    """Whether the gradient jumps at a place where it says that there is nothing to gain, and points there from both
    sides of a random way: at a kink automatic differentiation takes a gradient between, which may be zero.
    """
    way = torch.randn(len(flat), generator=torch.Generator().manual_seed(0), dtype=flat.dtype)
    way /= way.norm()
    size = 1 + float(flat.norm())

    def jump(part: float) -> float:
        ahead, behind = (side * float(slope(flat + side * part * size * way)[1] @ way) for side in (1, -1))
        return ahead + behind if min(ahead, behind) > 0 else 0.0

    far, near = jump(1e-5), jump(1e-7)
    return near > 0.3 * far and near * size > NEARLY * slope(flat)[0]


def _median(values: np.ndarray) -> float | None:
    value = float(np.median(values))
    return value if math.isfinite(value) else None
