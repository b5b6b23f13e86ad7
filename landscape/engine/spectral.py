"""Spectral norm at points between networks: its singular vectors belong to a weight, so that they are found anew there.

`spectral_norm` divides a weight W by u'Wv, with vectors u and v that it keeps as buffers and improves by one power
iteration at each step of training: T. Miyato, T. Kataoka, M. Koyama, Y. Yoshida, *Spectral normalization for generative
adversarial networks*, ICLR 2018. Vectors that are interpolated like parameters are those of no weight: where two
networks' are nearly orthogonal u'Wv comes near zero, and the network explodes.
"""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm

__all__ = ["Spectral", "largest", "spectral_norms"]

#: Rows of a matrix up to which all its singular values are found at once, as fast as one.
_SMALL = 128

#: Relative residual at which a singular vector is found (the error of its value is about the square), steps until then
#: at most, and after how many of them it is looked at.
_CONVERGED, _MOST_STEPS, _LOOK = 1e-6, 400, 5


@dataclasses.dataclass(frozen=True, eq=False)
class Spectral:
    """A weight that is divided by its spectral norm.

    Args:
        u, v: Names of the buffers that hold its singular vectors.
        weights: Names of the parameters that it is made of.
        matrix: Gives it as the matrix whose norm is taken.
    """

    u: str
    v: str
    weights: tuple[str, ...]
    matrix: Callable[[], Float[Tensor, "out in"]]


def spectral_norms(module: nn.Module) -> list[Spectral]:
    """The weights of a module that are divided by their spectral norm, by the parametrization or by the older hook."""
    first = {id(tensor): name for name, tensor in module.named_parameters()}  # of tied ones
    found = []
    for name, layer in module.named_modules():
        before = f"{name}." if name else ""
        for hook in layer._forward_pre_hooks.values():
            if isinstance(hook, SpectralNorm):
                u, v = (f"{before}{hook.name}_{end}" for end in "uv")
                weight = first[id(getattr(layer, f"{hook.name}_orig"))]
                found.append(Spectral(u, v, (weight,), _of_hook(layer, hook)))
        if isinstance(layer, ParametrizationList):
            for number, part in enumerate(layer):
                if isinstance(part, _SpectralNorm) and hasattr(part, "_u"):  # of a vector there are none
                    u, v = (f"{before}{number}.{each}" for each in ("_u", "_v"))
                    weights = tuple(first[id(each)] for each in layer.parameters(recurse=False))
                    found.append(Spectral(u, v, weights, _of_parametrization(layer, number)))
    return found


def _of_hook(layer: nn.Module, hook: SpectralNorm) -> Callable[[], Tensor]:
    return lambda: hook.reshape_weight_to_matrix(getattr(layer, f"{hook.name}_orig"))


def _of_parametrization(parts: ParametrizationList, number: int) -> Callable[[], Tensor]:
    """What enters the part of this number, as it reshapes it."""

    def matrix() -> Tensor:
        originals = (
            [parts.original] if parts.is_tensor else [getattr(parts, f"original{k}") for k in range(parts.ntensors)]
        )
        weight = originals[0]
        for part in list(parts)[:number]:
            weight = part(*originals)
            originals = [weight]
        spectral = parts[number]
        assert isinstance(spectral, _SpectralNorm)
        return spectral._reshape_weight_to_matrix(weight)

    return matrix


def largest(matrix: Float[Tensor, "out in"]) -> tuple[Float[Tensor, " out"], Float[Tensor, " in"]] | None:
    """Singular vectors u and v of a matrix's largest singular value, in float64; None if it is zero or not finite."""
    w = matrix.detach().double()
    if not (bool(w.isfinite().all()) and bool(w.any())):
        return None
    u = torch.linalg.eigh(w @ w.T).eigenvectors[:, -1] if len(w) <= _SMALL else _by_lanczos(w)
    v = u @ w
    return u / u.norm(), v / v.norm()


def _by_lanczos(w: Float[Tensor, "out in"]) -> Float[Tensor, " out"]:
    """The eigenvector of W W' of the largest eigenvalue: Lanczos' method, with all vectors kept orthogonal, from one
    start for all. G. H. Golub, C. F. Van Loan, *Matrix Computations*, 4th edition, 2013, section 10.1.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(1, len(w), dtype=torch.float64, generator=generator).to(w.device)
    basis = basis / basis.norm()
    diagonal, beside = list[Tensor](), list[Tensor]()
    while True:
        there = w @ (basis[-1] @ w)
        diagonal.append(there @ basis[-1])
        for _ in range(2):
            there = there - (basis @ there) @ basis
        beside.append(there.norm())
        last = len(basis) in (len(w), _MOST_STEPS) or beside[-1] <= _CONVERGED * diagonal[0]
        if last or not len(basis) % _LOOK:
            near = torch.diag(torch.stack(beside)[:-1], 1)
            values, vectors = torch.linalg.eigh(torch.diag(torch.stack(diagonal)) + near + near.T)
            if last or beside[-1] * vectors[-1, -1].abs() <= _CONVERGED * values[-1]:
                found: Tensor = vectors[:, -1] @ basis
                return found
        basis = torch.cat([basis, (there / beside[-1])[None]])
