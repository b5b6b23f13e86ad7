"""Is a place a minimum? Gradient and Hessian of the loss, because a flat place need not be a minimum.

Small networks have their Hessian computed whole; of a larger one there are its products with vectors, from which
`landscape.engine.spectrum` finds eigenvalues and `landscape.analysis.trace` their sum. Where an activation has a
kink, as ReLU's, it is all the Hessian of the smooth piece that the member lies on: what the kinks themselves bend is
not in it. In the Hessian's place there may be the generalised Gauss-Newton matrix.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core.errors import LandscapeError
from landscape.core.unfinished import Progress
from landscape.engine.live import naming_sparse
from landscape.engine.memory import Chunk
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.engine.stack import Stack

__all__ = [
    "MOST_PARAMETERS",
    "MOST_PRODUCTS",
    "NEAR_ZERO",
    "Extremes",
    "Hessian",
    "Matrix",
    "NAMES",
    "alone",
    "each_member",
    "each_whole",
    "extremes",
    "hessians",
    "hvp",
]

#: The Hessian itself; or the generalised Gauss-Newton matrix (GGN) J^T H J of the Jacobian J of the outputs in the
#: parameters and the Hessian H of the loss in the outputs, which leaves out how the network itself is bent: N. N.
#: Schraudolph, Neural Computation 14, 2002. Of cross-entropy it is the Fisher information of the network's own answers:
#: J. Martens, JMLR 21, 2020, section 9.
Matrix = Literal["hessian", "ggn"]

#: What they are called.
NAMES = {"hessian": "Hessian", "ggn": "generalised Gauss-Newton matrix"}

#: Up to this many parameters the whole Hessian is computed.
MOST_PARAMETERS = 400

#: Products with vectors that a quantity of a larger network's member may take, unless more are allowed.
MOST_PRODUCTS = 1000

#: An eigenvalue counts as zero below this share of the largest magnitude.
NEAR_ZERO = 1e-6

#: Matrices whose eigenvalues are found at once.
_DECOMPOSED = 4096


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
    matrices = each_whole(objective, stack)
    few = iter(lambda: list(itertools.islice(matrices, _DECOMPOSED)), [])  # a million do not fit in memory
    eigenvalues = np.concatenate([np.linalg.eigvalsh(np.stack(each)) for each in few])
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
    objective: AnyObjective,
    stack: Stack,
    *,
    matrix: Matrix = "hessian",
    on_progress: Progress = lambda done, total: None,
) -> Iterator[Float[np.ndarray, "parameter parameter"]]:
    """`hessians`, or another matrix, one after another; `on_progress` hears of members."""
    _require_finite(stack)
    every, done = torch.eye(stack.parameters)[None], 0
    objective = _chunked(objective, stack)
    for _, part in objective.chunks(stack):
        matrices = _chunk_products(objective, part, every, matrix).cpu()[: len(stack) - done]
        _require_finite_products(matrices, matrix, first=done)
        done += len(matrices)
        on_progress(done, len(stack))
        yield from ((matrices + matrices.mT) / 2).numpy()


def hvp(
    objective: AnyObjective,
    stack: Stack,
    vectors: Float[Tensor, "member *vector parameter"],
    *,
    matrix: Matrix = "hessian",
) -> Float[Tensor, "member *vector parameter"]:
    """Products of the Hessian of the loss at each member with the member's own vectors, one or several.

    Vectors are in the order of `Stack.flatten`; products are float64, on the objective's device. Computed by reverse
    mode over reverse mode (B. A. Pearlmutter, *Fast exact multiplication by the Hessian*, Neural Computation 6, 1994)
    in the objective's precision, and added up over chunks of samples in float64. The other `matrix` is that of
    `Matrix`. Raises `LandscapeError` for a member whose parameters or products are not finite, `Unsupported` for a loss
    that is no function of outputs and has no GGN.
    """
    _require_finite(stack)
    objective = _chunked(objective, stack)
    several = vectors.reshape(len(stack), -1, stack.parameters)
    parts = [
        _chunk_products(objective, part, several[index.to(several.device)], matrix)
        for index, part in objective.chunks(stack)
    ]
    products = torch.cat(parts)[: len(stack)]
    _require_finite_products(products, matrix)
    return products.view(vectors.shape)


class Hessian:
    """The Hessian of the loss at one member, or the other `matrix`, as a linear map.

    Where all samples are one chunk, the graphs of derivatives are kept between calls. `count` says how many products
    were computed, `on_product` is called with it after each call.
    """

    def __init__(
        self,
        objective: AnyObjective,
        part: Stack,
        *,
        name: str,
        matrix: Matrix = "hessian",
        on_product: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.count, self.parameters = 0, part.parameters
        self._name, self._on_product = name, on_product
        self._where = objective, part, matrix
        self._kept = list(_maps(*self._where)) if objective.one_chunk else None

    def products(self, vectors: Float[Tensor, "vector parameter"]) -> Float[Tensor, "vector parameter"]:
        """Products with several vectors, float64; raises `LandscapeError` if they are not finite."""
        objective, _, matrix = self._where
        result = _sum_products(self._kept or _maps(*self._where), vectors[None].to(objective.device), objective)[0]
        if not result.isfinite().all():
            raise LandscapeError(_NOT_FINITE.format(matrix=NAMES[matrix], member=self._name))
        self.count += len(vectors)
        self._on_product(self.count)
        return result


def each_member(
    objective: AnyObjective,
    stack: Stack,
    of_matrix: Callable[[Float[np.ndarray, "parameter parameter"]], tuple[Any, ...]],
    of_products: Callable[[Hessian], tuple[Any, ...]],
    *,
    matrix: Matrix = "hessian",
    whole: int,
    most: int,
    on_progress: Progress,
) -> tuple[list[np.ndarray], bool]:
    """What there is to say of the Hessian at each member, one array over members each, and whether it is exact.

    Networks of up to `whole` parameters are asked by the matrix, larger ones by its products with vectors, one member
    after another; `on_progress` hears of members, or of products, at `most` so many a member.
    """
    if exact := stack.parameters <= whole:
        rows = [of_matrix(each) for each in each_whole(objective, stack, matrix=matrix, on_progress=on_progress)]
    else:
        rows = [of_products(each) for each in _each_hessian(objective, stack, matrix, most, on_progress)]
    return [np.stack(column) for column in zip(*rows, strict=True)], exact


def _each_hessian(
    objective: AnyObjective, stack: Stack, matrix: Matrix, most: int, on_progress: Progress
) -> Iterator[Hessian]:
    _require_finite(stack)
    single = alone(objective)
    for member, (_, part) in enumerate(single.chunks(stack)):

        def tell(count: int, before: int = member * most) -> None:
            on_progress(before + min(count, most), len(stack) * most)

        yield Hessian(single, part, name=f"member {member}", matrix=matrix, on_product=tell)


def alone(objective: AnyObjective) -> AnyObjective:
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
    return objective if stack.parameters <= MOST_PARAMETERS else alone(objective)


def _chunk_products(
    objective: AnyObjective, part: Stack, vectors: Float[Tensor, "members vector parameter"], matrix: Matrix
) -> Float[Tensor, "member vector parameter"]:
    vectors = vectors.to(objective.device).expand(len(part), -1, -1)
    return _sum_products(_maps(objective, part, matrix), vectors, objective)


#: From a vector for each member to its product with what some samples add to the matrix.
_Map = Callable[[Tensor], Tensor]


def _maps(objective: AnyObjective, part: Stack, matrix: Matrix) -> Iterator[_Map]:
    """The linear map of each chunk of samples, which holds the graph of its derivatives."""
    for batch in objective.batches():
        flat = part.flatten().detach().requires_grad_()
        leaves = dataclasses.replace(part.unflatten(flat), buffers=part.buffers)
        with naming_sparse():
            map_of = (_second if matrix == "hessian" else _gauss_newton)(objective, leaves, flat, batch)
        yield map_of


def _second(objective: AnyObjective, leaves: Stack, flat: Tensor, batch: Any) -> _Map:
    with torch.enable_grad():
        loss = objective.loss(leaves, batch).sum()
    (gradient,) = torch.autograd.grad(loss, flat, create_graph=True, materialize_grads=True)
    return lambda vector: _along([gradient], [flat], [vector])[0]


def _gauss_newton(objective: AnyObjective, leaves: Stack, flat: Tensor, batch: Any) -> _Map:
    """J v is the derivative of J^T u in u: reverse mode twice, where a forward mode may lack rules."""
    with torch.enable_grad():
        outputs, held, loss = objective.parted_loss(leaves, batch)
        dual = [torch.zeros_like(each, requires_grad=True) for each in outputs]
        pulled = _along(outputs, [flat], dual, create_graph=True)
        # What depends on the parameters beside the outputs is a penalty, whose second derivatives are its own.
        *slopes, direct = torch.autograd.grad(loss.sum(), [*held, flat], create_graph=True, materialize_grads=True)

    def product(vector: Tensor) -> Tensor:
        moved = _along(pulled, dual, [vector])
        return _along(outputs, [flat], _along(slopes, held, moved))[0] + _along([direct], [flat], [vector])[0]

    return product


def _along(
    of: Sequence[Tensor], at: Sequence[Tensor], vectors: Sequence[Tensor], *, create_graph: bool = False
) -> Sequence[Tensor]:
    """Products of vectors with the derivative of some tensors in others, which are zero where nothing depends."""
    pairs = [(each, vector) for each, vector in zip(of, vectors, strict=True) if each.requires_grad]
    if not pairs:
        return [torch.zeros_like(each) for each in at]
    tensors, along = zip(*pairs, strict=True)
    return torch.autograd.grad(tensors, at, along, retain_graph=True, create_graph=create_graph, materialize_grads=True)


def _sum_products(
    maps: Iterable[_Map], vectors: Float[Tensor, "member vector parameter"], objective: AnyObjective
) -> Float[Tensor, "member vector parameter"]:
    """Products added up over the chunks of samples; one after another, so that memory does not grow with them."""
    total = torch.zeros(vectors.shape, dtype=torch.float64, device=vectors.device)
    for product in maps:
        for i in range(vectors.shape[1]):
            total[:, i] += product(vectors[:, i].to(objective.dtype))
    return total


_NOT_FINITE = (
    "the {matrix} at {member} is not finite: its loss overflows or has no second derivative there; leave it out, or "
    "compute in float64"
)


def _require_finite(stack: Stack) -> None:
    bad = torch.nonzero(~stack.flatten().isfinite().all(1)).flatten().tolist()
    if bad:
        raise LandscapeError(f"member {bad[0]} has parameters that are NaN or infinite: leave it out")


def _require_finite_products(
    products: Float[Tensor, "member vector parameter"], matrix: Matrix, first: int = 0
) -> None:
    bad = torch.nonzero(~products.flatten(1).isfinite().all(1)).flatten().tolist()
    if bad:
        raise LandscapeError(_NOT_FINITE.format(matrix=NAMES[matrix], member=f"member {first + bad[0]}"))
