"""What networks decide on samples: at which places that counts, and which decisions are right."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from landscape.core.errors import Unsupported

__all__ = ["Answers", "Hits", "as_numbers", "decided"]

#: From outputs and targets, samples first, to which targets are hit, and which count.
Hits = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What networks decide at all places that count, samples in order.

    Args:
        decisions: Classes, sides (bool) or numbers, a row a network.
        hits: Which of them are right; None where nothing is right or wrong.
        sample: The number of the sample that each decision is on.
        place: And of its place there, such as that of a token.
        samples: Number of samples, those without a place that counts among them.
    """

    decisions: Shaped[Tensor, "member decision"]
    hits: Bool[Tensor, "member decision"] | None
    sample: Int[Tensor, " decision"]
    place: Int[Tensor, " decision"]
    samples: int

    @classmethod
    def of(
        cls,
        decisions: Shaped[Tensor, "sample *place"],
        judged: tuple[Tensor, Tensor] | None = None,
        weights: Shaped[Tensor, " sample"] | None = None,
    ) -> "Answers":
        """Those of one network to a batch, `judged` by which are right and which count. What does not count is left
        out, and so are samples that weigh nothing.
        """
        rows = decisions.flatten(1) if decisions.ndim > 1 else decisions[:, None]
        hits, counted = (None, torch.ones_like(rows, dtype=torch.bool)) if judged is None else judged
        there = counted.reshape(rows.shape)
        there = there if weights is None else there & (weights > 0)[:, None]
        sample, place = there.cpu().nonzero().T
        found = None if hits is None else hits.reshape(rows.shape)[there][None].cpu()
        return cls(rows[there][None].cpu(), found, sample, place, len(rows))

    @classmethod
    def soft(
        cls,
        values: Shaped[Tensor, "sample *place value"],
        counted: Bool[Tensor, "sample *place"] | None = None,
        weights: Shaped[Tensor, " sample"] | None = None,
    ) -> "Answers":
        """Those of one network to a batch as numbers, such as the probability of each class at each place."""
        every = None if counted is None else counted[..., None].expand_as(values)
        return cls.of(values, None if every is None else (every, every), weights)

    @classmethod
    def joined(cls, batches: Sequence["Answers"]) -> "Answers":
        """Those to several batches as one."""
        if len({(each.decisions.dtype, each.hits is None) for each in batches}) > 1:
            raise Unsupported(
                "outputs and targets are of one kind in some batches and of another in others: let all be alike"
            )
        starts = [0]
        for each in batches:
            starts.append(starts[-1] + each.samples)
        hits = [each.hits for each in batches if each.hits is not None]
        return cls(
            torch.cat([each.decisions for each in batches], 1),
            torch.cat(hits, 1) if hits else None,
            torch.cat([each.sample + start for each, start in zip(batches, starts, strict=False)]),
            torch.cat([each.place for each in batches]),
            starts[-1],
        )

    @classmethod
    def stacked(cls, members: Sequence["Answers"]) -> "Answers":
        """Those of several networks to the same samples as one."""
        hits = [each.hits for each in members if each.hits is not None]
        return dataclasses.replace(
            members[0],
            decisions=torch.cat([each.decisions for each in members]),
            hits=torch.cat(hits) if hits else None,
        )

    def of_first(self, members: int) -> "Answers":
        """Those of the first networks."""
        hits = None if self.hits is None else self.hits[:members]
        return dataclasses.replace(self, decisions=self.decisions[:members], hits=hits)

    def of_samples(self) -> tuple[Int[Tensor, "member sample"], Int[Tensor, " sample"]]:
        """Of each sample with a place that counts: how many decisions of each network are right, and how many count."""
        assert self.hits is not None
        counts = self.sample.bincount(minlength=self.samples)
        found = torch.zeros(len(self.hits), self.samples, dtype=torch.int64)
        found.index_add_(1, self.sample, self.hits.long())
        return found[:, counts > 0], counts[counts > 0]


def as_numbers(outputs: Shaped[Tensor, "*any sample"]) -> Shaped[Tensor, "*any 1 sample"]:
    """Outputs that are no probabilities, each a value by itself."""
    return outputs.unsqueeze(-2)


def decided(outputs: Any, targets: Any = None, *, soft: bool = False) -> Answers:
    """What outputs decide whose loss is the user's own affair, samples first.

    Whole numbers and truth values are decisions as they are. Beside targets that are numbers of classes, outputs with
    one axis more are scores of classes, on the axis where PyTorch's losses have them or on the last; the highest
    decides. Targets below 0, such as -100, do not count. All else is numbers, of which none is right or wrong. `soft`
    answers are the scores' softmax.

    Raises `Unsupported` for outputs that are no tensor, and where scores may lie on either axis.
    """
    if not isinstance(outputs, Tensor) or not outputs.ndim:
        raise Unsupported(
            f"the entry `outputs` that `batch_loss` gives is {type(outputs).__name__}: what it predicts is read from "
            "one tensor with samples first, such as logits"
        )
    known = isinstance(targets, Tensor) and _whole(targets)
    counted = targets >= 0 if known and targets.dtype != torch.bool else torch.ones_like(outputs, dtype=torch.bool)
    if _whole(outputs):
        return Answers.of(outputs, (outputs == targets, counted) if known and targets.shape == outputs.shape else None)
    axes = _axes_of_classes(outputs, targets) if known and targets.dtype != torch.bool else []
    if len(axes) > 1:
        raise Unsupported(
            f"outputs of shape {list(outputs.shape)} for targets of shape {list(targets.shape)} may have classes on "
            "axis 1 or on the last: let `batch_loss` give the classes themselves as `outputs`, such as logits.argmax(1)"
        )
    if not axes:
        return Answers.of(outputs)
    if soft:
        return Answers.soft(outputs.softmax(axes[0]).movedim(axes[0], -1), counted)
    classes = outputs.argmax(axes[0])
    return Answers.of(classes, (classes == targets, counted))


def _whole(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() and not tensor.is_complex()


def _axes_of_classes(outputs: Tensor, targets: Tensor) -> list[int]:
    """Axes of the outputs that may be those of classes which the targets number."""
    if outputs.ndim != targets.ndim + 1:
        return []
    fits = [axis for axis in {1, outputs.ndim - 1} if outputs.select(axis, 0).shape == targets.shape]
    return [axis for axis in fits if bool((targets < outputs.shape[axis]).all())]
