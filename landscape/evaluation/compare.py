"""What networks along a line have in common with either end: decisions, and representations of layers."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from landscape.core.errors import LandscapeError, Unsupported
from landscape.core.fields import check, option
from landscape.engine.plain import AnyObjective, PlainObjective
from landscape.space.family import Points

__all__ = ["SAMPLES", "Comparing", "Comparison", "centred_gram", "linear_cka"]

#: Samples, evenly spaced, on which representations are compared, at most: of each layer an end keeps so many squared.
SAMPLES = 1000
#: Features that are multiplied at a time.
_FEATURES = 2**13
#: The fewest samples that an unbiased estimate is of.
_FEWEST = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparing:
    """In what the points of a line are compared with its ends."""

    disagreement: bool = option(
        False, "Also the share of decisions, such as predicted classes, that differ from those of either end."
    )
    cka: tuple[str, ...] = option(
        (),
        "Also how alike the outputs of this layer, named as in named_modules(), are to those of either end (linear "
        "CKA, unbiased, on up to 1000 samples). Repeatable.",
        metavar="LAYER",
    )

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "cka", tuple(dict.fromkeys(self.cka)))

    def __bool__(self) -> bool:
        return self.disagreement or bool(self.cka)


def centred_gram(features: Float[Tensor, "sample feature"]) -> Float[Tensor, "sample sample"]:
    """Products of the features of each two samples, in float64, without a diagonal, and centred so that sums over
    products of two such tables are unbiased (G. Székely, M. Rizzo, *Annals of Statistics* 42, 2014: U-centring).
    """
    count = len(features)
    gram = torch.zeros(count, count, dtype=torch.float64, device=features.device)
    for part in torch.split(features, _FEATURES, 1):
        wide = part.double()
        wide = wide - wide.mean(0)
        gram += wide @ wide.T
    gram.fill_diagonal_(0)
    rows = gram.sum(0) / (count - 2)
    gram += gram.sum() / ((count - 1) * (count - 2)) - rows - rows[:, None]
    return gram.fill_diagonal_(0)


def linear_cka(one: Float[Tensor, "sample feature"], other: Float[Tensor, "sample width"]) -> float:
    """How alike two representations of the same samples are, whatever their rotation and scale: 1 if they are the same.

    The similarity of S. Kornblith et al., *Similarity of neural network representations revisited*, ICML 2019
    (https://arxiv.org/abs/1905.00414), of linear kernels, with the unbiased estimator of the Hilbert-Schmidt
    independence criterion (L. Song et al., JMLR 13, 2012), which does not grow with the number of features as the plain
    one does: of representations that have nothing in common it is 0 on average, and may be negative. NaN where one is
    the same for all samples.

    >>> x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    >>> round(linear_cka(x, -2 * x + 1), 6)
    1.0
    """
    return float(_alike(centred_gram(one), centred_gram(other)))


def _alike(one: Float[Tensor, "sample sample"], other: Float[Tensor, "sample sample"]) -> Float[Tensor, ""]:
    return (one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()


class Comparison:
    """Values of points of lines beside those of the objective: `disagreement_start` and `disagreement_end`,
    `cka_start[LAYER]` and `cka_end[LAYER]`. The data is read once more for each point, and for the ends of each line.

    Raises `Unsupported`, naming it, for what cannot be compared, `LandscapeError` for layers that are not there.
    """

    def __init__(self, objective: AnyObjective, comparing: Comparing) -> None:
        names = " and ".join(f"`{name}`" for name in ("disagreement", "cka") if getattr(comparing, name))
        if not isinstance(objective, PlainObjective):
            raise Unsupported(f"{names} are of the plain engine: leave `engine` out")
        if objective.streamed:
            raise Unsupported(f"{names} compare data in memory, and this is a stream: give the problem tensors")
        if objective.draws:
            raise Unsupported(f"{names} compare networks that draw nothing: leave `draws` out")
        self.objective, self.comparing, self.line, self.ends = objective, comparing, -1, list[_Seen]()
        _require_layers(comparing.cka, [name for name, _ in objective.module.named_modules() if name])
        sizes = [objective.size(batch) for batch in objective.data]
        total = sum(sizes)
        if comparing.cka and total < _FEWEST:
            raise Unsupported(f"`cka` is estimated on {_FEWEST} samples at least, and there are {total}")
        chosen = torch.linspace(0, max(total - 1, 0), min(total, SAMPLES), dtype=torch.float64).round().long()
        starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
        self.rows = [
            chosen[(chosen >= start) & (chosen < start + size)] - start
            for start, size in zip(starts, sizes, strict=False)
        ]

    def about(self) -> dict[str, Any]:
        """What the result says of it."""
        said: dict[str, Any] = {"disagreement": self.comparing.disagreement}
        if self.comparing.cka:
            said["cka"] = {
                "layers": list(self.comparing.cka),
                "samples": sum(map(len, self.rows)),
                "estimator": "linear, unbiased (U-centred)",
            }
        return said

    def __call__(self, points: Points) -> dict[str, Float[Tensor, " point"]]:
        """The values at some points."""
        found: dict[str, list[float]] = {}
        for line, alpha in zip(points.first.tolist(), points.second, strict=True):
            number = torch.full((1,), line, dtype=points.first.dtype, device=points.first.device)
            if line != self.line:
                ends = points.family.points(number.expand(2), points.second.new_tensor([0.0, 1.0]))
                self.line, self.ends = line, list(self._seen(ends))
            (here,) = self._seen(points.family.points(number, alpha[None]))
            for name, end in zip(("start", "end"), self.ends, strict=True):
                for what, value in here.against(end, name).items():
                    found.setdefault(what, []).append(value)
        return {name: torch.tensor(values, dtype=torch.float64) for name, values in found.items()}

    def _seen(self, points: Points) -> Iterable["_Seen"]:
        layers, wanted = self.comparing.cka, self.comparing.disagreement
        for decisions, features in self.objective.watched(points, layers, self.rows, decisions=wanted):
            if decisions is not None and decisions.is_floating_point():
                raise Unsupported("`disagreement` is of classes and sides, and these outputs are numbers: leave it out")
            yield _Seen(decisions, {name: centred_gram(each) for name, each in features.items()})


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """What is kept of a network: its decisions, and of each layer the centred products of the samples."""

    decisions: Tensor | None
    grams: Mapping[str, Tensor]

    def against(self, end: "_Seen", name: str) -> dict[str, float]:
        found = {}
        if self.decisions is not None and end.decisions is not None:
            found[f"disagreement_{name}"] = float((self.decisions != end.decisions).double().mean())
        for layer, gram in self.grams.items():
            found[f"cka_{name}[{layer}]"] = float(_alike(gram, end.grams[layer]))
        return found


def _require_layers(asked: Iterable[str], there: list[str]) -> None:
    for name in asked:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=3, cutoff=0.3) or there[:5]
            raise LandscapeError(f"there is no layer '{name}' for `cka`: near it are {', '.join(near) or 'none'}")
        if "/" in name:
            raise LandscapeError(f"the layer '{name}' has a name that no file holds: rename it")
