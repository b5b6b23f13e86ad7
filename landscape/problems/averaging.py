"""`landscape.average`: weighted means of networks, such as soups and sums of task vectors, as one network."""

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike

import torch
from torch import Tensor

from landscape.core.errors import LandscapeError, few
from landscape.core.fields import as_path, require
from landscape.core.files import refuse_existing
from landscape.engine.stack import Stack, require_same_shapes
from landscape.problems.places import Place, checkpoint_at, held, label_of
from landscape.store.formats import write_safetensors

__all__ = ["average"]

#: How far the sum of weights may be from 1.
_NEAR_ONE = 1e-6

_log = logging.getLogger("landscape")


def average(
    places: Place,
    *,
    weights: Sequence[float] | None = None,
    save: str | PathLike[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Tensor]:
    """The weighted mean of networks, as a state dict: a model soup, or what task arithmetic makes of them.

    Sums are in float64, one network after another, and rounded once; what all networks share stays as it is. Whole
    numbers are those of the heaviest network, the last of several. Statistics of BatchNorm are means of theirs, not
    those of the mean: walks estimate them anew, elsewhere `torch.optim.swa_utils.update_bn` does.

    Args:
        places: A list of networks (`nn.Module`), state dicts, checkpoint files or runs, or a pattern or folder of
            files; of a place with many members each is a network. All have the same tensors.
        weights: One a network, with the sum 1; None: all alike. Of a base and k networks tuned from it,
            (1 - k, 1, ..., 1) adds all task vectors to the base, and (2, -1) subtracts that of the second.
        save: A safetensors file to write.
        overwrite: Replace what is at `save`.

    Returns:
        The state dict: a place to walk to, and what `load_state_dict` takes.

    Raises:
        LandscapeError: In one line, what is wrong and what to write instead; nothing was written then.

    Source: M. Wortsman et al., *Model soups: averaging weights of multiple fine-tuned models improves accuracy without
    increasing inference time*, ICML 2022; G. Ilharco et al., *Editing models with task arithmetic*, ICLR 2023.

    >>> import landscape, torch
    >>> base, one, other = ({"w": torch.tensor(w)} for w in ([1.0, 1.0], [3.0, 1.0], [1.0, 4.0]))
    >>> landscape.average([one, other])["w"].tolist()
    [2.0, 2.5]
    >>> landscape.average([base, one, other], weights=[-1, 1, 1])["w"].tolist()
    [3.0, 4.0]
    """
    require(average, locals())
    path = None if save is None else as_path(save, "save")
    if path is not None:
        if path.suffix != ".safetensors":
            raise LandscapeError(f"{path} is to hold tensors: end `save` in .safetensors")
        refuse_existing(path, force=overwrite)
    listed = list(places) if isinstance(places, Sequence) and not isinstance(places, str) else [places]
    shares = None if weights is None else _weights(weights)
    found, names = _Sum(), list[str]()
    for name, tensors in _networks(listed):
        if shares is not None and len(names) == len(shares):
            raise LandscapeError(f"there are more networks than the {len(shares)} `weights`: give one a network")
        found.add(name, tensors, 1.0 if shares is None else shares[len(names)])
        names.append(name)
    if not names:
        raise LandscapeError("there is nothing to average in `places`: give networks, or files of them")
    if shares is not None and len(names) < len(shares):
        raise LandscapeError(f"there are {len(shares)} `weights` for {len(names)} networks: give one a network")
    mean = found.over(len(names) if shares is None else 1)
    if statistics := [name for name in mean if name.endswith(("running_mean", "running_var"))]:
        _log.info(
            "%d statistics of BatchNorm are means of the networks' own, not those of their mean: walks estimate them "
            "anew (`batchnorm`), elsewhere torch.optim.swa_utils.update_bn does: %s",
            len(statistics),
            few(statistics),
        )
    if path is not None:
        shares = shares or [1 / len(names)] * len(names)
        made_of = [{"network": name, "weight": share} for name, share in zip(names, shares, strict=True)]
        write_safetensors(path, mean, {"format": "pt", "average": json.dumps(made_of)})
    return mean


def _weights(weights: Sequence[float]) -> list[float]:
    if odd := [each for each in weights if not math.isfinite(each)]:
        raise LandscapeError(f"{odd[0]} is no weight: give finite `weights`")
    total = math.fsum(weights)
    if not math.isfinite(total) or abs(total - 1) > _NEAR_ONE:
        scaled = f", such as {[round(each / total, 6) for each in weights]}" if total and math.isfinite(total) else ""
        raise LandscapeError(f"the `weights` have the sum {total:g}: a mean needs weights with the sum 1{scaled}")
    return list(weights)


def _networks(places: Sequence[Place]) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Each network with what it is called; files are read one after another."""
    for number, place in enumerate(places):
        checkpoint = checkpoint_at(held(place, f"places[{number}]"))
        if checkpoint is None:
            raise LandscapeError(
                f"{label_of(place)} does not exist: averages are of networks, their state dicts and files"
            )
        if checkpoint.adapter:
            raise LandscapeError(f"{label_of(place)} is an adapter, a part of a network: merge it into its model first")
        for member, source in enumerate(checkpoint.sources):
            name = source.label if source.path == "memory" or len(checkpoint.sources) > 1 else source.path
            tensors = checkpoint.stack.state_dict(member)
            if odd := [key for key, tensor in tensors.items() if bool(tensor.isnan().any())]:
                raise LandscapeError(f"{name} has NaN in {few(odd)}: leave it out")
            yield name, tensors


class _Sum:
    """A weighted sum of networks of which one at a time is there."""

    def __init__(self) -> None:
        self.name, self.heaviest = "", -math.inf
        self.first: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}
        self.same: dict[str, Tensor] = {}
        self.kinds: dict[str, torch.dtype] = {}

    def add(self, name: str, tensors: Mapping[str, Tensor], weight: float) -> None:
        """Add one more."""
        if not self.first:
            self.name, self.first = name, {key: tensor.clone() for key, tensor in tensors.items()}
            mixed = {key: each for key, each in tensors.items() if each.is_floating_point() or each.is_complex()}
            wide = {key: torch.complex128 if each.is_complex() else torch.float64 for key, each in mixed.items()}
            self.totals = {key: torch.zeros_like(each, dtype=wide[key]) for key, each in mixed.items()}
            self.same = {key: torch.ones_like(each, dtype=torch.bool) for key, each in mixed.items()}
            self.kinds = {key: each.dtype for key, each in mixed.items()}
        one, other = (Stack({key: each[None] for key, each in part.items()}) for part in (self.first, tensors))
        require_same_shapes(one, other, names=(self.name, name))
        for key, tensor in tensors.items():
            if key in self.totals:
                self.same[key] &= tensor == self.first[key]
                self.kinds[key] = torch.promote_types(self.kinds[key], tensor.dtype)
                if weight:  # of a mask that is infinite nothing is no number
                    self.totals[key] += tensor.to(self.totals[key].dtype) * weight
            elif weight >= self.heaviest:
                self.first[key] = tensor.clone()
        self.heaviest = max(self.heaviest, weight)

    def over(self, count: float) -> dict[str, Tensor]:
        """The sum divided by a count, in the widest of the networks' types."""
        means = {key: (total / count).to(self.kinds[key]) for key, total in self.totals.items()}
        return {
            key: torch.where(self.same[key], first, means[key]) if key in means else first
            for key, first in self.first.items()
        }
