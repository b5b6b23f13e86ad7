"""`landscape.curvature`: is a place a minimum? Eigenvalues and trace of the Hessian of the loss at its members."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from landscape.analysis.trace import Trace
from landscape.analysis.trace import trace as trace_of
from landscape.core.errors import LandscapeError, plural
from landscape.core.fields import Field, require
from landscape.core.unfinished import Progress
from landscape.engine.hessian import MOST_PRODUCTS
from landscape.engine.objective import BatchNorm
from landscape.engine.spectrum import Eigenpairs, NegativeCount, eigenpairs, negative_count
from landscape.engine.stack import aliases
from landscape.evaluation.routes import networks
from landscape.problems.base import Problem
from landscape.problems.compute import Compute, Engine
from landscape.problems.places import Place, is_landmark
from landscape.space.groups import frozen, matching

__all__ = ["Curvature", "curvature"]

_LIMITS = (
    Field("top", int, 1, at_least=1),
    Field("count_to", int, 10, at_least=1),
    Field("max_products", int, MOST_PRODUCTS, at_least=1),
    Field("rtol", float, 0.05, above=0),
    Field("tolerance", float | None, None, above=0),
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curvature:
    """How the loss is bent at each of the `members` of a place, which are called by their labels.

    `loss` and `gradient_norm` (L2) are of each member, `pairs` the leading `eigenvalues` of its Hessian, [member, top],
    with all that is known of them; `negative` counts those below 0 and `trace` adds them up, where that was asked for.
    `parameters` is the number of them, and `about` says how it all was computed.
    """

    members: tuple[str, ...]
    parameters: int
    loss: Float[np.ndarray, " member"]
    gradient_norm: Float[np.ndarray, " member"]
    pairs: Eigenpairs
    negative: NegativeCount | None
    trace: Trace | None
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

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        found = [f"{self.eigenvalues.shape[1]} eigenvalues", *(["negative"] if self.negative else [])]
        found += ["trace"] if self.trace else []
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
        exact = self.pairs.exact
        return "whole Hessian" if exact else f"Hessian-vector products, residuals to {self.pairs.tolerance:g}"

    def caption(self) -> str:
        """What the numbers are of, in which unit, and how they were found."""
        unit = self.about["loss_unit"]
        on = f" on {self.about['samples']} samples" if self.about["sampled"] else ""
        return f"{self.about['title']}: {self._size}, loss{f' in {unit}' if unit else ''}{on}; {self._how}"

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and a row a member; None stands for what was not found."""
        pairs, negative, trace = self.pairs, self.negative, self.trace
        top = pairs.values.shape[1]
        header = ["member", "loss", "|gradient|", *(f"eigenvalue {i + 1}" for i in range(top))]
        columns = [self.members, self.loss, self.gradient_norm, *pairs.values.T]
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
        return header, [list(map(_cell, row)) for row in zip(*columns, strict=True)]

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
        return said


def curvature(
    a: Place,
    *,
    problem: Problem | str | None = None,
    top: int = 1,
    only: Sequence[str] = (),
    all_parameters: bool = False,
    trace: bool = False,
    negative: bool = False,
    rtol: float = 0.05,
    count_to: int = 10,
    tolerance: float | None = None,
    max_products: int = MOST_PRODUCTS,
    probe_seed: int = 0,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float64,
    batchnorm: BatchNorm | None = None,
    engine: Engine = "auto",
    samples: int | None = None,
    seed: int = 0,
    draws: int | None = None,
    progress: Progress | None = None,
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
        trace: Find the trace too, with a 95 % interval.
        negative: Count negative eigenvalues too.
        rtol: Half width of that interval, relative to the trace.
        count_to: Fewer negative eigenvalues than this are all counted; of more, in larger networks, there is a bound.
        tolerance: Residuals of eigenpairs, relative to the largest magnitude; None: 1e-6, in float32 1e-3.
        max_products: Hessian-vector products at most, for each member and quantity; a trace takes 72 at least.
        probe_seed: Seed of start vectors and probes.
        device, dtype, batchnorm, engine, samples, seed, draws: As in `landscape.walk`.
        progress: Called with (done, at most in all), members of small networks and products of larger ones.

    Returns:
        A `Curvature`: `eigenvalues` [member, top], `loss`, `gradient_norm`, `negative`, `trace`, ...

    Raises:
        LandscapeError: In one line, what is wrong and what to write instead.

    Source: B. A. Pearlmutter, Neural Computation 6, 1994 (products); R. B. Lehoucq, D. C. Sorensen, C. Yang, *ARPACK
    Users' Guide*, 1998 (eigenvalues); R. A. Meyer et al., *Hutch++*, SOSA 2021 (trace).

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
    )
    if problem is None and is_landmark(a):
        raise LandscapeError(f'{a} does not exist; if it is a landmark, name its problem, such as `problem="life"`')
    problem, (place,) = networks([a], compute, problem, only=only)
    objective, stack = compute.objective(problem), place.stack.to(dtype)
    network = problem.prototype
    moving = matching(stack, only, aliases=aliases(network)) if only else frozenset(stack.tensors)
    moving -= frozen(network, taken=all_parameters or bool(only))
    whole, stack = stack.parameters, stack.moving(moving)
    quantities = 1 + negative + trace

    def told(before: int) -> Progress:
        return lambda done, total: progress(before * total + done, quantities * total) if progress else None

    allowed: dict[str, Any] = {"seed": probe_seed, "most_products": max_products}
    loss, gradient = objective.gradient(stack)
    pairs = eigenpairs(objective, stack, k=top, tol=tolerance, on_progress=told(0), **allowed)
    count = total = None
    if negative:
        count = negative_count(objective, stack, k=count_to, tol=tolerance, on_progress=told(1), **allowed)
    if trace:
        total = trace_of(objective, stack, rtol=rtol, on_progress=told(quantities - 1), **allowed)
    where = {"device": str(compute.device), "dtype": str(dtype).removeprefix("torch.")}
    return Curvature(
        members=tuple(source.label for source in place.sources),
        parameters=stack.parameters,
        loss=loss.cpu().numpy(),
        gradient_norm=gradient.norms()[1].cpu().numpy(),
        pairs=pairs,
        negative=count,
        trace=total,
        about={
            **compute.describe(problem, objective),
            "parameters": {"of": whole, "only": list(only)} if stack.parameters < whole else {"of": whole},
            "computation": {**where, "seed": probe_seed, "products": max_products, "rtol": rtol},
        },
    )


def _cell(value: Any) -> Any:
    """A number of Python, None where it is not finite; a text as it is."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
