"""`landscape.curvature`: is a place a minimum? Eigenvalues and trace of the Hessian of the loss at its members."""

import dataclasses
import html
import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from landscape.analysis.density import PROBES, STEPS, Density
from landscape.analysis.density import density as density_of
from landscape.analysis.trace import Trace
from landscape.analysis.trace import trace as trace_of
from landscape.core.errors import LandscapeError, loss_in, plural
from landscape.core.fields import Field, require
from landscape.core.notebook import Listener, listening_to
from landscape.core.unfinished import Progress
from landscape.engine.hessian import MOST_PRODUCTS, NAMES, Matrix
from landscape.engine.objective import BatchNorm
from landscape.engine.plain import AnyObjective
from landscape.engine.spectrum import Eigenpairs, NegativeCount, eigenpairs, negative_count
from landscape.engine.stack import aliases
from landscape.evaluation.routes import networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place
from landscape.space.groups import Per, frozen, matching, split

__all__ = ["Curvature", "curvature"]

#: Half width of a trace's interval, and up to how many negative eigenvalues are all counted, unless told.
_RTOL, _COUNT_TO = 0.05, 10

_LIMITS = (
    Field("top", int, 1, at_least=1),
    Field("count_to", int, _COUNT_TO, at_least=1),
    Field("max_products", int, MOST_PRODUCTS, at_least=1),
    Field("rtol", float, _RTOL, above=0),
    Field("tolerance", float | None, None, above=0),
    Field("density_probes", int, PROBES, at_least=2),
    Field("density_steps", int, STEPS, at_least=2),
    Field("density_width", float | None, None, above=0),
    Field("repeats", int, 1, at_least=1),
)


@dataclasses.dataclass(frozen=True, eq=False)
class Repeats:
    """What each of several draws of the samples gave, the first included.

    The standard deviation over draws, `se`, is the standard error of what a single one shows. That the largest
    eigenvalue of a sample lies above that of all data on average is not in it.
    """

    seeds: tuple[int, ...]
    loss: Float[np.ndarray, "repeat member"]
    eigenvalues: Float[np.ndarray, "repeat member top"]
    trace: Float[np.ndarray, "repeat member"] | None

    def se(self, values: Float[np.ndarray, "repeat *rest"]) -> Float[np.ndarray, "*rest"]:
        """Of one draw."""
        return np.asarray(values.std(axis=0, ddof=1))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curvature:
    """How the loss is bent at each of the `members` of a place, which are called by their labels.

    `loss` and `gradient_norm` (L2) are of each member, `pairs` the leading `eigenvalues` of its Hessian, [member, top],
    with all that is known of them; `negative` counts those below 0, `trace` adds them up and `density` says where all
    of them lie, where that was asked for. `repeats` are of other draws of the samples. `parameters` is the number of
    them, `shapes` those of each tensor, in the order in which vectors are laid out, and `about` says how it all was
    computed.
    """

    members: tuple[str, ...]
    parameters: int
    loss: Float[np.ndarray, " member"]
    gradient_norm: Float[np.ndarray, " member"]
    pairs: Eigenpairs
    negative: NegativeCount | None
    trace: Trace | None
    density: Density | None
    repeats: Repeats | None
    shapes: Mapping[str, tuple[int, ...]]
    about: Mapping[str, Any]

    @property
    def eigenvalues(self) -> Float[np.ndarray, "member top"]:
        """Those of the largest magnitude, the largest first; NaN where they were not found."""
        return self.pairs.values

    @property
    def vectors(self) -> Float[np.ndarray, "member top parameter"]:
        """Their eigenvectors, of L2 norm 1."""
        return self.pairs.vectors

    @property
    def residuals(self) -> Float[np.ndarray, "member top"]:
        """How far from each value there is an eigenvalue at most."""
        return self.pairs.residuals

    @property
    def converged(self) -> Bool[np.ndarray, "member top"]:
        """Whether that is within the tolerance."""
        return self.pairs.converged

    @property
    def diagonal(self) -> dict[str, Float[np.ndarray, "member *shape"]]:
        """The diagonal of the Hessian as tensors of the network, with `diagonal=True`; else nothing."""
        return self._by_tensor(self.trace.diagonal if self.trace else None)

    @property
    def diagonal_se(self) -> dict[str, Float[np.ndarray, "member *shape"]]:
        """Its standard error; zero where it is exact."""
        return self._by_tensor(self.trace.diagonal_se if self.trace else None)

    def _by_tensor(self, flat: np.ndarray | None) -> dict[str, np.ndarray]:
        if flat is None:
            return {}
        ends = np.cumsum([math.prod(shape) for shape in self.shapes.values()])
        pieces = np.split(flat, ends[:-1], axis=1)
        return {
            name: piece.reshape(-1, *shape) for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        found = [f"{self.eigenvalues.shape[1]} eigenvalues", *(["negative"] if self.negative else [])]
        found += ["trace"] * bool(self.trace) + ["diagonal"] * bool(self.diagonal) + ["density"] * bool(self.density)
        return f"Curvature({self._size}; loss, gradient_norm, {', '.join(found)}; {self._how})"

    def _repr_html_(self) -> str:
        """The table under its caption, and above what was not reached."""
        header, rows = self.table()
        cells = [[f"{cell:.4g}" if isinstance(cell, float) else html.escape(str(cell)) for cell in row] for row in rows]
        lines = ["".join(f"<th>{name}</th>" for name in header)]
        lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in cells]
        table = "".join(f"<tr>{line}</tr>" for line in lines)
        remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in self.remarks())
        return f"<table><caption>{html.escape(self.caption())}</caption>{table}</table>{remarks}"

    @property
    def _size(self) -> str:
        whole = self.about["parameters"]["of"]
        part = "" if self.parameters == whole else f" of {whole} ({', '.join(self._only) or 'those that learn'})"
        return f"{plural(len(self), 'member')} of {self.parameters}{part} parameters"

    @property
    def _only(self) -> list[str]:
        return list(self.about["parameters"].get("only", ()))

    @property
    def _how(self) -> str:
        name = NAMES[self.about["matrix"]]
        return f"whole {name}" if self.pairs.exact else f"{name}-vector products, residuals to {self.pairs.tolerance:g}"

    def caption(self) -> str:
        """What the numbers are of, in which unit, and how they were found."""
        on = f" on {self.about['samples']} samples" if self.about["sampled"] else ""
        on += f" (se: standard deviation over {len(self.repeats.seeds)} draws of them)" if self.repeats else ""
        return f"{self.about['title']}: {self._size}, {loss_in(self.about['loss_unit'])}{on}; {self._how}"

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and a row a member; None stands for what was not found."""
        pairs, negative, trace = self.pairs, self.negative, self.trace
        top = pairs.values.shape[1]
        header = ["member", "loss", "|gradient|", *(f"eigenvalue {i + 1}" for i in range(top))]
        columns = [self.members, self.loss, self.gradient_norm, *pairs.values.T]
        if self.repeats:
            header += [f"se {i + 1}" for i in range(top)]
            columns += [*self.repeats.se(self.repeats.eigenvalues).T]
        if not pairs.exact:
            header += ["residual", "converged"]
            largest = np.where(np.isnan(pairs.residuals), -np.inf, pairs.residuals).max(axis=1)
            columns += [largest, [f"{count} of {top}" for count in pairs.converged.sum(axis=1)]]
        if negative:
            header += ["smallest", "negative"]
            bound = ["" if complete else "at least " for complete in negative.complete]
            told = [f"{words}{count}" for words, count in zip(bound, negative.at_least, strict=True)]
            columns += [negative.smallest, negative.at_least if negative.complete.all() else told]
        if trace:
            header += ["trace", *([] if trace.exact else ["95 % interval"])]
            ends = [f"{low:.4g} to {high:.4g}" for low, high in zip(trace.low, trace.high, strict=True)]
            columns += [trace.values, *([] if trace.exact else [ends])]
            if self.repeats and self.repeats.trace is not None:
                header, columns = [*header, "se of trace"], [*columns, self.repeats.se(self.repeats.trace)]
        return header, [list(map(_cell, row)) for row in zip(*columns, strict=True)]

    def parts_table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and a row a member and part of the network: its share of the trace, with an interval of its own."""
        if self.trace is None or not self.trace.parts:
            raise LandscapeError("there are no parts: ask for them with `trace_per`")
        trace, rows = self.trace, []
        for (i, k), value in np.ndenumerate(trace.part_values):
            row = [self.members[i], trace.parts[k], trace.part_parameters[k], value]
            ends = f"{trace.part_low[i, k]:.4g} to {trace.part_high[i, k]:.4g}"
            rows.append(list(map(_cell, row + ([] if trace.exact else [ends]))))
        return ["member", "part", "parameters", "trace", *([] if trace.exact else ["95 % interval"])], rows

    def document(self) -> dict[str, Any]:
        """All of it but the eigenvectors, as a file keeps it."""
        return {
            "eigenpairs": {key: value for key, value in vars(self.pairs).items() if key != "vectors"},
            **{key: self.about[key] for key in ("title", "loss_unit", "sampled", "samples", "matrix", "computation")},
            **{key: value for key, value in vars(self).items() if key not in ("pairs", "about")},
        }

    def plot(self, ax: Any = None) -> Any:
        """Draw the density of eigenvalues: a figure with its caption, or into the matplotlib axes `ax`.

        Raises `LandscapeError` where none was asked for.
        """
        # Figures lie above this room: what draws is asked for by its name.
        drawn = importlib.import_module("landscape.figures.density")
        return drawn.density_figure(self.document()) if ax is None else drawn.spectral_density(ax, self.document())

    def remarks(self) -> list[str]:
        """What was not reached: a reader of the table alone could miss it."""
        products, rtol = self.about["computation"]["products"], self.about["computation"]["rtol"]
        said = []
        if lost := int((~self.converged.all(axis=1)).sum()):
            members = plural(lost, "member")
            said.append(f"eigenvalues of {members} did not converge in {products} products: allow more `max_products`")
        if self.negative and (more := int((~self.negative.complete).sum())):
            members = plural(more, "member")
            said.append(f"{members} may have more negative eigenvalues: allow more `count_to` and `max_products`")
        if self.trace and (wide := int((~self.trace.reached).sum())):
            members = plural(wide, "member")
            said.append(f"the trace of {members} is less certain than {rtol:g} of it: allow more `max_products`")
        if self.density and not self.density.exact:
            asked, made = self.about["computation"]["density_steps"], int(self.density.steps.min())
            if made < min(asked, self.parameters):
                said.append(
                    f"the density rests on {made} Lanczos steps of {asked}: more vectors do not fit the memory that is "
                    "kept for them, or they add nothing"
                )
        return said


def curvature(
    a: Place,
    *,
    problem: Problem | str | None = None,
    top: int = 1,
    only: Sequence[str] = (),
    all_parameters: bool = False,
    matrix: Matrix = "hessian",
    trace: bool = False,
    trace_per: Per | None = None,
    diagonal: bool = False,
    negative: bool = False,
    density: bool = False,
    density_probes: int = PROBES,
    density_steps: int = STEPS,
    density_width: float | None = None,
    rtol: float = _RTOL,
    count_to: int = _COUNT_TO,
    tolerance: float | None = None,
    max_products: int = MOST_PRODUCTS,
    probe_seed: int = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float64,
    batchnorm: BatchNorm | None = None,
    engine: Engine = "auto",
    samples: int | None = None,
    seed: int = 0,
    repeats: int = 1,
    draws: int | None = None,
    l2: float = 0.0,
    progress: Listener = None,
) -> Curvature:
    """Eigenvalues of the largest magnitude of the Hessian of the loss, because a flat place need not be a minimum.

    Networks of up to 400 parameters have their whole Hessian computed; larger ones are known by its products with
    vectors, and the result says how far it can be trusted. Where activations have kinks, it is the Hessian of the
    smooth piece that a member lies on.

    Args:
        a: A place, as in `landscape.walk`, of one or several members.
        problem: Model, data and loss. None: that of the run or checkpoint.
        top: How many eigenvalues to find.
        only: Glob patterns of names of the parameters of which the Hessian is taken; the rest is held.
        all_parameters: Take frozen parameters (`requires_grad=False`) into it too.
        matrix: The Hessian, or `ggn`, the generalised Gauss-Newton matrix J^T H J of the Jacobian J of the outputs in
            the parameters and the Hessian H of the loss in the outputs; of cross-entropy without weights it is the
            Fisher information.
        trace: Find the trace too, with a 95 % interval.
        trace_per: Find it, and those of the blocks of each layer (a module with parameters of its own) or each module
            at the top, which add up to it; each with an interval of its own.
        diagonal: Find the trace and the diagonal, with its standard error.
        negative: Count negative eigenvalues too.
        density: Find where all eigenvalues lie: their density, with its standard error over probes.
        density_probes, density_steps: Random vectors, and Lanczos steps from each.
        density_width: Standard deviation of the Gaussian that each eigenvalue is broadened to; None: the range of the
            eigenvalues over the steps, which is about what these resolve.
        rtol: Half width of that interval, relative to the trace.
        count_to: Fewer negative eigenvalues than this are all counted; of more, in larger networks, there is a bound.
        repeats: Find eigenvalues and trace on so many draws of `samples`, of the seeds from `seed` on, for their
            standard error; all else is that of the first.
        tolerance: Residuals of eigenpairs, relative to the largest magnitude; None: 1e-6, in float32 1e-3.
        max_products: Hessian-vector products at most, for each member and quantity; a trace takes 72 at least.
        probe_seed: Seed of start vectors and probes.
        device, dtype, batchnorm, engine, samples, seed, draws, l2: As in `landscape.walk`.
        progress: A function, called with (done, at most in all), or True for a bar (extra `progress`, tqdm): members of
            small networks and products of larger ones.

    Returns:
        A `Curvature`: `eigenvalues` [member, top], `loss`, `gradient_norm`, `negative`, `trace`, `diagonal`, `density`,
        ..., and `plot()` draws the density.

    Raises:
        LandscapeError: In one line, what is wrong and what to write instead.

    Source: B. A. Pearlmutter, Neural Computation 6, 1994 (products); R. B. Lehoucq, D. C. Sorensen, C. Yang, *ARPACK
    Users' Guide*, 1998 (eigenvalues); R. A. Meyer et al., *Hutch++*, SOSA 2021 (trace); C. Bekas, E. Kokiopoulou, Y.
    Saad, Appl. Numer. Math. 57, 2007 (diagonal); S. Ubaru, J. Chen, Y. Saad, SIAM J. Matrix Anal. Appl. 38, 2017, and
    B. Ghorbani, S. Krishnan, Y. Xiao, ICML 2019 (density); N. N. Schraudolph, Neural Computation 14, 2002 (GGN).

    >>> import landscape, torch
    >>> x = torch.linspace(-1, 1, 3)[:, None]
    >>> problem = landscape.Problem.from_model(torch.nn.Linear(1, 1), (x, 2 * x + 1), "mse")
    >>> found = landscape.curvature(torch.nn.Linear(1, 1), problem=problem, top=2, trace=True)
    >>> found
    Curvature(1 member of 2 parameters; loss, gradient_norm, 2 eigenvalues, trace; whole Hessian)
    >>> found.eigenvalues.round(3).tolist()
    [[2.0, 1.333]]
    """
    require(curvature, locals(), *_LIMITS)
    if not density and (density_probes, density_steps, density_width) != (PROBES, STEPS, None):
        raise LandscapeError(
            "`density_probes`, `density_steps` and `density_width` are of a density: ask for it with `density`"
        )
    if not (trace or trace_per or diagonal) and rtol != _RTOL:
        raise LandscapeError("`rtol` is of the trace: ask for it with `trace`")
    if not negative and count_to != _COUNT_TO:
        raise LandscapeError("`count_to` is of negative eigenvalues: ask for them with `negative`")
    if repeats > 1 and samples is None:
        raise LandscapeError("`repeats` draw samples anew: say how many with `samples`")
    compute = Compute.chosen(
        a,
        device=device,
        dtype=dtype,
        batchnorm=batchnorm,
        engine=engine,
        autocast=None,
        samples=samples,
        seed=seed,
        draws=draws,
        l2=l2,
    )
    problem, (place,) = networks([a], compute, problem, only=only)
    objective, stack = compute.objective(problem), place.stack.to(dtype)
    network = problem.prototype
    moving = matching(stack, only, aliases=aliases(network)) if only else frozenset(stack.tensors)
    moving -= frozen(network, taken=all_parameters or bool(only))
    whole, stack = stack.parameters, stack.moving(moving)
    if repeats > 1 and not objective.sampled:
        raise LandscapeError(f"the loss of {problem.title()} is exact, not of samples: leave `repeats` out")
    trace = trace or trace_per is not None or diagonal
    quantities = [repeats, negative, repeats * trace, density]
    before, heard = 0, listening_to(progress)

    def told() -> Progress:
        """Of the next quantity."""
        nonlocal before
        before, first = before + 1, before
        return lambda done, total: heard(first * total + done, sum(quantities) * total)

    allowed: dict[str, Any] = {"seed": probe_seed, "matrix": matrix, "most_products": max_products}
    parts = {"parts": split(stack, trace_per) if trace_per else {}, "diagonal": diagonal}

    def leading(objective: AnyObjective, **more: Any) -> tuple[Eigenpairs, Trace | None]:
        pairs = eigenpairs(objective, stack, k=top, tol=tolerance, on_progress=told(), **allowed)
        return pairs, trace_of(objective, stack, rtol=rtol, on_progress=told(), **allowed, **more) if trace else None

    loss, gradient = objective.gradient(stack)
    pairs, total = leading(objective, **parts)
    count = spread = again = None
    if negative:
        count = negative_count(objective, stack, k=count_to, tol=tolerance, on_progress=told(), **allowed)
    if density:
        shape: dict[str, Any] = {"probes": density_probes, "steps": density_steps, "width": density_width}
        spread = density_of(objective, stack, on_progress=told(), **shape, **allowed)
    if repeats > 1:
        seeds = tuple(range(seed, seed + repeats))
        others = [dataclasses.replace(compute, sample_seed=each).objective(problem) for each in seeds[1:]]
        found = [(loss, pairs, total), *((each(stack)["loss"], *leading(each)) for each in others)]
        again = Repeats(
            seeds,
            np.stack([each.cpu().numpy() for each, _, _ in found]),
            np.stack([each.values for _, each, _ in found]),
            np.stack([each.values for _, _, each in found if each]) if trace else None,
        )
    where = {"device": str(compute.device), "dtype": str(dtype).removeprefix("torch.")}
    limits = {"seed": probe_seed, "products": max_products, "rtol": rtol}
    return Curvature(
        members=tuple(source.label for source in place.sources),
        parameters=stack.parameters,
        loss=loss.cpu().numpy(),
        gradient_norm=gradient.norms()[1].cpu().numpy(),
        pairs=pairs,
        negative=count,
        trace=total,
        density=spread,
        repeats=again,
        shapes=stack.shapes,
        about={
            **compute.describe(problem, objective),
            "matrix": matrix,
            "parameters": {"of": whole, "only": list(only)} if stack.parameters < whole else {"of": whole},
            "computation": {**where, **limits, **({"density_steps": density_steps} if density else {})},
        },
    )


def _cell(value: Any) -> Any:
    """A number of Python, None where it is not finite; a text as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
