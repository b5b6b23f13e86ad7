"""Is a place a minimum? Gradient and Hessian of the loss, because a flat place need not be a minimum.

Small networks have their Hessian computed whole; of a larger one there are its products with vectors, from which
`landscape.engine.spectrum` finds eigenvalues and `landscape.analysis.trace` their sum. Where an activation has a
kink, as ReLU's, it is all the Hessian of the smooth piece that the member lies on: what the kinks themselves bend is
not in it.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core.errors import LandscapeError
from landscape.core.unfinished import Progress
from landscape.engine.memory import Chunk
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import Stack

__all__ = [
    "MOST_PARAMETERS",
    "MOST_PRODUCTS",
    "NEAR_ZERO",
    "Extremes",
    "Hessian",
    "each_member",
    "each_whole",
    "extremes",
    "hessians",
    "hvp",
]

#: Up to this many parameters the whole Hessian is computed.
MOST_PARAMETERS = 400

#: Products with vectors that a quantity of a larger network's member may take, unless more are allowed.
MOST_PRODUCTS = 1000

#: An eigenvalue counts as zero below this share of the largest magnitude.
NEAR_ZERO = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Extremes:
    """Of each member: L2 norm of the gradient, extreme eigenvalues of the Hessian, how many of its eigenvalues are
    negative and how many near zero (below 1e-6 of the largest magnitude). Eigenvalues are NaN, and counts -1, where the
    network has more than `MOST_PARAMETERS` parameters: see `landscape.curvature` for these.
    """

    gradient_norm: Float[np.ndarray, " member"]
    smallest: Float[np.ndarray, " member"]
    largest: Float[np.ndarray, " member"]
    negative: np.ndarray
    near_zero: np.ndarray


def extremes(objective: AnyObjective, stack: Stack) -> Extremes:
    """Extremes at each member; give an objective of dtype float64 for eigenvalues that can be told from zero.

    Raises `LandscapeError` for a member whose parameters or Hessian are not finite.
    """
    _require_finite(stack)
    gradient_norm = objective.gradient(stack)[1].norms()[1].cpu().numpy()
    if stack.parameters > MOST_PARAMETERS:
        nothing = np.full(len(stack), np.nan)
        return Extremes(gradient_norm, nothing, nothing, np.full(len(stack), -1), np.full(len(stack), -1))
    eigenvalues = np.linalg.eigvalsh(hessians(objective, stack))
    magnitude = np.abs(eigenvalues).max(axis=1, keepdims=True)
    zero = np.abs(eigenvalues) <= NEAR_ZERO * magnitude
    return Extremes(
        gradient_norm,
        eigenvalues[:, 0],
        eigenvalues[:, -1],
        ((eigenvalues < 0) & ~zero).sum(axis=1),
        zero.sum(axis=1),
    )


def hessians(objective: AnyObjective, stack: Stack) -> Float[np.ndarray, "member parameter parameter"]:
    """Hessian of the loss at each member, in the order of `Stack.flatten`, by differentiating each gradient entry.

    Raises `LandscapeError` for a member whose parameters or Hessian are not finite.
    """
    return np.stack(list(each_whole(objective, stack)))


def each_whole(
    objective: AnyObjective, stack: Stack, *, on_progress: Progress = lambda done, total: None
) -> Iterator[Float[np.ndarray, "parameter parameter"]]:
    """`hessians`, one after another; `on_progress` hears of members."""
    _require_finite(stack)
    every, done = torch.eye(stack.parameters)[None], 0
    objective = _chunked(objective, stack)
    for index, part in objective.chunks(stack):
        matrices = _chunk_products(objective, index, part, every).cpu()[: len(stack) - done]
        _require_finite_products(matrices, first=done)
        done += len(matrices)
        on_progress(done, len(stack))
        yield from ((matrices + matrices.mT) / 2).numpy()


def hvp(
    objective: AnyObjective, stack: Stack, vectors: Float[Tensor, "member *vector parameter"]
) -> Float[Tensor, "member *vector parameter"]:
    """Products of the Hessian of the loss at each member with the member's own vectors, one or several.

    Vectors are in the order of `Stack.flatten`; products are float64, on the objective's device. Computed by reverse
    mode over reverse mode (B. A. Pearlmutter, *Fast exact multiplication by the Hessian*, Neural Computation 6, 1994)
    in the objective's precision, and added up over chunks of samples in float64. Raises `LandscapeError` for a member
    whose parameters or products are not finite.
    """
    _require_finite(stack)
    objective = _chunked(objective, stack)
    several = vectors.reshape(len(stack), -1, stack.parameters)
    parts = [
        _chunk_products(objective, index, part, several[index.to(several.device)])
        for index, part in objective.chunks(stack)
    ]
    products = torch.cat(parts)[: len(stack)]
    _require_finite_products(products)
    return products.view(vectors.shape)


class Hessian:
    """The Hessian of the loss at one member, as a linear map.

    Where all samples are one chunk, the graph of the gradient is kept between calls. `count` says how many products
    were computed, `on_product` is called with it after each call.
    """

    def __init__(
        self,
        objective: AnyObjective,
        index: Tensor,
        part: Stack,
        *,
        name: str,
        on_product: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.count, self.parameters = 0, part.parameters
        self._name, self._on_product = name, on_product
        self._where = objective, index, part
        self._kept = list(_gradients(*self._where)) if objective.one_chunk else None

    def products(self, vectors: Float[Tensor, "vector parameter"]) -> Float[Tensor, "vector parameter"]:
        """Products with several vectors, float64; raises `LandscapeError` if they are not finite."""
        objective, *_ = self._where
        result = _sum_products(self._kept or _gradients(*self._where), vectors[None].to(objective.device), objective)[0]
        if not result.isfinite().all():
            raise LandscapeError(_NOT_FINITE.format(member=self._name))
        self.count += len(vectors)
        self._on_product(self.count)
        return result


def each_member(
    objective: AnyObjective,
    stack: Stack,
    of_matrix: Callable[[Float[np.ndarray, "parameter parameter"]], tuple[Any, ...]],
    of_products: Callable[[Hessian], tuple[Any, ...]],
    *,
    whole: int,
    most: int,
    on_progress: Progress,
) -> tuple[list[np.ndarray], bool]:
    """What there is to say of the Hessian at each member, one array over members each, and whether it is exact.

    Networks of up to `whole` parameters are asked by the matrix, larger ones by its products with vectors, one member
    after another; `on_progress` hears of members, or of products, at `most` so many a member.
    """
    if exact := stack.parameters <= whole:
        rows = [of_matrix(matrix) for matrix in each_whole(objective, stack, on_progress=on_progress)]
    else:
        rows = [of_products(hessian) for hessian in _each_hessian(objective, stack, most, on_progress)]
    return [np.stack(column) for column in zip(*rows, strict=True)], exact


def _each_hessian(objective: AnyObjective, stack: Stack, most: int, on_progress: Progress) -> Iterator[Hessian]:
    _require_finite(stack)
    alone = _alone(objective)
    for member, (index, part) in enumerate(alone.chunks(stack)):

        def tell(count: int, before: int = member * most) -> None:
            on_progress(before + min(count, most), len(stack) * most)

        yield Hessian(alone, index, part, name=f"member {member}", on_product=tell)


def _alone(objective: AnyObjective) -> AnyObjective:
    """The objective with each member a chunk of its own, of as many samples as a chunk of several would take."""
    if isinstance(objective, PlainObjective):
        return objective
    samples = objective.chunk.samples * objective.chunk.members
    if not objective.streamed:
        samples = min(samples, len(objective.memory))
    return dataclasses.replace(objective, chunk=Chunk(1, samples))


def _chunked(objective: AnyObjective, stack: Stack) -> AnyObjective:
    """The objective as it is for small networks, of which several at once cost little more than one.

    Decided by the network alone: a member's numbers then do not depend on its companions.
    """
    return objective if stack.parameters <= MOST_PARAMETERS else _alone(objective)


def _chunk_products(
    objective: AnyObjective, index: Tensor, part: Stack, vectors: Float[Tensor, "members vector parameter"]
) -> Float[Tensor, "member vector parameter"]:
    vectors = vectors.to(objective.device).expand(len(part), -1, -1)
    return _sum_products(_gradients(objective, index, part), vectors, objective)


def _gradients(objective: AnyObjective, index: Tensor, part: Stack) -> Iterator[tuple[Tensor, Tensor]]:
    """Parameters and gradient, [member, parameter], as a graph for each chunk of samples."""
    for batch in objective.batches():
        flat = part.flatten().detach().requires_grad_()
        leaves = dataclasses.replace(part.unflatten(flat), buffers=part.buffers)
        with torch.enable_grad():
            loss = objective.loss(leaves, batch).sum()  # type: ignore[arg-type]
        yield flat, torch.autograd.grad(loss, flat, create_graph=True, materialize_grads=True)[0]


def _sum_products(
    graphs: Iterator[tuple[Tensor, Tensor]] | list[tuple[Tensor, Tensor]],
    vectors: Float[Tensor, "member vector parameter"],
    objective: AnyObjective,
) -> Float[Tensor, "member vector parameter"]:
    """Products added up over the chunks of samples; one after another, so that memory does not grow with them."""
    total = torch.zeros(vectors.shape, dtype=torch.float64, device=vectors.device)
    for flat, gradient in graphs:
        if not gradient.requires_grad:  # the loss is linear in the parameters
            continue
        for i in range(vectors.shape[1]):
            total[:, i] += torch.autograd.grad(
                gradient, flat, vectors[:, i].to(objective.dtype), retain_graph=True, materialize_grads=True
            )[0]
    return total


_NOT_FINITE = (
    "the Hessian at {member} is not finite: its loss overflows or has no second derivative there; leave it out, or "
    "compute in float64"
)


def _require_finite(stack: Stack) -> None:
    bad = torch.nonzero(~stack.flatten().isfinite().all(1)).flatten().tolist()
    if bad:
        raise LandscapeError(f"member {bad[0]} has parameters that are NaN or infinite: leave it out")


def _require_finite_products(products: Float[Tensor, "member vector parameter"], first: int = 0) -> None:
    bad = torch.nonzero(~products.flatten(1).isfinite().all(1)).flatten().tolist()
    if bad:
        raise LandscapeError(_NOT_FINITE.format(member=f"member {first + bad[0]}"))
