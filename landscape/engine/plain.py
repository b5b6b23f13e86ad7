"""The plain engine: a network's own forward at one point after another, batch by batch.

It does what its user's own loop does, and little else: what is faster has to prove itself against it.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from landscape.core.errors import Mismatch, Unsupported, Unverified
from landscape.engine.answers import Answers
from landscape.engine.batches import parted, tensors_of
from landscape.engine.data import Stream
from landscape.engine.determinism import culprit, mixes_samples, seeded
from landscape.engine.kernels import plain_attention
from landscape.engine.live import Live, Mixtures, Point, copied, naming_sparse
from landscape.engine.memory import AUTOMATIC, Chunk
from landscape.engine.objective import CALIBRATION_BATCH, BatchNorm, Objective, Sampling, Share
from landscape.engine.program.layers import has_statistics
from landscape.engine.readings import Measure, Tally
from landscape.engine.spectral import Spectral, largest, spectral_norms
from landscape.engine.stack import Stack, concatenate, template_of

__all__ = ["AnyObjective", "PlainObjective", "Seeded", "calibrate", "fresh"]

#: From the number of a batch to a state of all random generators that lasts while it is read.
Seeded = Callable[[int], contextlib.AbstractContextManager[None]]

#: Samples that show whether a network is deterministic, and answers each of them by itself.
_FEW = 16

#: Bytes of streamed batches that are kept while all points see them.
_GROUP_BYTES = 2**28


def fresh(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    evaluation: bool = True,
) -> nn.Module:
    """A copy of a module that has loaded a state dict, as its user would do it."""
    made = copied(module, device=device, dtype=dtype)
    if evaluation:
        made.eval()
    made.load_state_dict(state, strict=False)  # what is tied is there once
    return made.requires_grad_(False)


@torch.no_grad()
def calibrate(
    module: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any], count: Callable[[Any], int]
) -> dict[str, Tensor]:
    """Estimate a module's BatchNorm statistics anew and leave them in it: means over batches, which weigh by their
    `count`, of each batch's mean and unbiased variance, with nothing else in training.
    """
    layers = {name: layer for name, layer in module.named_modules() if has_statistics(layer)}
    before = {name: layer.momentum for name, layer in layers.items()}
    sums: dict[str, Tensor] = {}
    total = 0
    with contextlib.ExitStack() as restored:
        for name, layer in layers.items():
            restored.callback(setattr, layer, "momentum", before[name])
            restored.callback(layer.train, layer.training)
            layer.train().momentum = 1.0
        for batch in batches:
            if (number := count(batch)) < 2:  # one sample has no variance
                continue
            forward(module, batch)
            for name, key in itertools.product(layers, ("running_mean", "running_var")):
                found = getattr(layers[name], key).double() * number
                full = f"{name}.{key}" if name else key
                sums[full] = sums[full] + found if full in sums else found
            total += number
    for name, key in itertools.product(layers, ("running_mean", "running_var")):
        full = f"{name}.{key}" if name else key
        getattr(layers[name], key).copy_(sums[full] / total)
    return {full: (value / total) for full, value in sums.items()}


@dataclasses.dataclass(eq=False, kw_only=True)
class PlainObjective:
    """Loss and metrics of a network at one point after another, by its own forward: `objective(points)` gives a dict of
    float64 tensors, one a point.

    Args:
        module: The network, of which one live copy is written over; it is never changed itself.
        measure: What a batch adds to each metric, `loss` among them, of a network.
        data: The batches, the same at each pass.
        further: Batches on which other metrics alone are found.
        forward: What a network makes of a batch.
        referee: Loss and metrics of the members of a stack in a way that shares nothing with this one; randomness of
            each batch, by its number, is given, and whether statistics of BatchNorm are estimated anew.
        size: Number of samples of a batch.
        streamed: Whether batches are read anew at each pass, once for all points.
        sampled: Whether the data is a part of what is meant: means then have standard errors.
        ours: The inputs of a batch where batches were parted here, and no answer may depend on how.
        few: So many samples of such a batch.
        autocast: Type in which the network runs where PyTorch deems it safe.
        differentiates: Whether the loss takes derivatives itself, such as those in the inputs.
        reads_outputs: Whether the loss is one of the network's outputs; else it reads the network itself.
        entire: Metrics that are 1 where what is counted is 0.
        evaluation: Whether the network is in evaluation; else as it was given.
        draws: On how many states of all random generators the loss is averaged, the same at each point; 0: the loss
            draws nothing.
        draw_seed: Seed of these states.
        calibration: Batches on which statistics of BatchNorm are estimated at each point.
        over_batches: Names of metrics that are means over batches, of one number each.
        l2: Adds so much times half of the sum of squares of the parameters that learn to the loss.
        learning: Names of these.
        each_of: What each sample of a batch adds to the loss of a network, and to what that divides by; None of a loss
            that is no average over samples.
        sampling: How to take a part of the data; None where there is no `each_of`, or data is streamed.
        answer: What a network decides on a batch, or with which probabilities; None where its outputs are the loss's
            own affair.
    """

    module: nn.Module
    measure: Measure
    data: Iterable[Any]
    forward: Callable[[nn.Module, Any], Any]
    referee: Callable[[Stack, "Seeded", bool], dict[str, Tensor]]
    size: Callable[[Any], int]
    device: torch.device
    dtype: torch.dtype
    samples: int
    chunk: Chunk
    further: Iterable[Any] = ()
    streamed: bool = False
    sampled: bool = False
    ours: Callable[[Any], Tensor] | None = None
    few: Callable[[Any, int], Any] = lambda batch, count: next(parted(batch, count))
    unit: str = ""
    autocast: torch.dtype | None = None
    differentiates: bool = False
    reads_outputs: bool = True
    entire: frozenset[str] = frozenset()
    evaluation: bool = True
    draws: int = 0
    draw_seed: int = 0
    batchnorm: BatchNorm | None = None
    calibration: Iterable[Any] = ()
    over_batches: tuple[str, ...] = ()
    l2: float = 0.0
    learning: frozenset[str] = frozenset()
    each_of: Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None = None
    sampling: Sampling | None = None
    answer: Callable[[nn.Module, Any, bool], Answers] | None = None

    backend = "plain"
    shares_first_layer = False

    @functools.cached_property
    def template(self) -> Stack:
        """The module's own parameters and buffers."""
        return template_of(self.module)

    @property
    def calibration_samples(self) -> int:
        """Number of samples on which statistics of BatchNorm are estimated."""
        return sum(map(self.size, self.calibration))

    @functools.cached_property
    def _live(self) -> Live:
        return Live(self.module, device=self.device, dtype=self.dtype, evaluation=self.evaluation)

    def __call__(self, members: Mixtures) -> dict[str, Float[Tensor, " member"]]:
        """Loss and metrics of each member."""
        if not len(members):
            raise Mismatch("no points have no values")
        totals: list[list[dict[str, Any]]] = [[{} for _ in range(len(members))] for _ in range(max(1, self.draws))]
        statistics: list[dict[str, Tensor]] = [{} for _ in range(len(members))]
        penalties: list[Tensor] = []
        for number, group in enumerate(self._groups()):
            for place, point in enumerate(members.mixtures()):
                self._live.write(point)
                if number == 0:
                    statistics[place] = self._found_anew(point)
                    penalties.append(self._penalty(self._live.tensors))
                for name, tensor in statistics[place].items():
                    self._live.tensors[name].copy_(tensor)
                for there, found in zip((each[place] for each in totals), self._read(group), strict=True):
                    for name, tallies in found.items():
                        whole = [there[name], *tallies] if name in there else tallies
                        there[name] = whole[0].added(whole)
                        if not self.streamed:  # outputs of one point at a time are held
                            there[name] = there[name].settled()
        drawn = [self._values(each) for each in totals]
        for values in drawn if self.l2 else ():
            values["loss"] = values["loss"] + torch.stack(penalties)
        if len(drawn) == 1:
            return drawn[0]
        every = {name: torch.stack([each[name] for each in drawn]) for name in drawn[0]}
        means = {name: values.mean(0) for name, values in every.items()}
        spread = {name: values.std(0) / len(drawn) ** 0.5 for name, values in every.items() if not name.endswith("_se")}
        return means | {f"{name}_draw_se": values for name, values in spread.items()}

    def _read(self, group: Sequence["_Piece"]) -> list[dict[str, list[Any]]]:
        """What the batches add to each metric of the network that is written now, by draw."""
        found: list[dict[str, list[Any]]] = [{} for _ in range(max(1, self.draws))]
        for piece in group:
            there = found[piece.draw]
            for name, tally in self._measured(piece).items():
                there.setdefault(name, []).append(tally.detach() if self.differentiates else tally)
        return found

    @torch.no_grad()
    def answers(self, stack: Stack) -> Answers:
        """The decisions of each member at each place that counts, and which are right; raises `Unsupported` where there
        are none.
        """
        answer, members = self._answer(), self._written(stack)
        return Answers.stacked(
            [Answers.joined([answer(self._live.module, batch, False) for batch in self.data]) for _ in members]
        )

    @torch.no_grad()
    def scores(self, stack: Stack) -> Iterator[Float[Tensor, "member value"]]:
        """The probabilities that members give, or their outputs, at all places that count, a batch at a time."""
        answer = self._answer()
        for batch in self.data:
            yield torch.cat([answer(self._live.module, batch, True).decisions for _ in self._written(stack)])

    @torch.no_grad()
    def each(
        self,
        members: Mixtures,
        shares: Sequence[Iterable[Any]],
        anew: Sequence[dict[str, Tensor]] | None = None,
    ) -> tuple[Float[Tensor, "member sample"], Float[Tensor, " sample"]]:
        """What each sample of some shares of the data adds to the loss of each member, and to what that divides by: the
        loss on these samples is the ratio of both sums. Of each member `anew` holds the buffers that were found anew
        when it was evaluated before, or is filled with them.
        """
        assert self.each_of is not None
        rows, counts = list[Tensor](), Tensor()
        for _ in self._written(members, anew):
            found = [self.each_of(self._live.module, batch) for share in shares for batch in share]
            each, counts = (torch.cat(parts).double() for parts in zip(*found, strict=True))
            rows.append(each + self._penalty(self._live.tensors) * counts if self.l2 else each)
        return torch.stack(rows), counts

    def _answer(self) -> Callable[[nn.Module, Any, bool], Answers]:
        if self.answer is None:
            raise Unsupported(
                "what a network predicts is not known where `batch_loss` gives its loss alone: let it be a function "
                "that gives a dict of `loss`, `outputs` (such as logits) and `targets`"
            )
        return self.answer

    def _written(self, stack: Mixtures, anew: Sequence[dict[str, Tensor]] | None = None) -> Iterator[None]:
        """Each member in turn as the live network, with what was found `anew` before."""
        for place, point in enumerate(stack.mixtures()):
            self._live.write(point)
            found = anew[place] if anew is not None else {}
            if not found:
                found.update(self._found_anew(point))
            for name, tensor in found.items():
                self._live.tensors[name].copy_(tensor)
            with torch.set_grad_enabled(self.differentiates), self._casting():
                yield

    @torch.no_grad()
    def watched(
        self, members: Mixtures, modules: Collection[str], rows: Sequence[Tensor], *, decisions: bool
    ) -> Iterator[tuple[Tensor | None, dict[str, Float[Tensor, "sample feature"]]]]:
        """Of each member its decisions on all data, if they are asked for, and what these modules, by name, give for
        some samples of each batch, by their numbers there.

        Raises `Unsupported` for decisions that are not known, and for modules that give no tensor with a row a sample.
        """
        run: Callable[[nn.Module, Any], Any] = self.forward
        if decisions:
            run = functools.partial(_answered, self._answer())
        there = dict(self._live.module.named_modules())
        watching = {name: _Watched(name) for name in modules}
        handles = [there[name].register_forward_hook(each) for name, each in watching.items()]
        try:
            for _ in self._written(members):
                answers, kept = list[Answers](), {name: list[Tensor]() for name in modules}
                for batch, some in zip(self.data, rows, strict=True):
                    for each in watching.values():
                        each.begin(some)
                    found = run(self._live.module, batch)
                    for name, each in watching.items():
                        kept[name].append(each.found(self.size(batch)))
                    answers += [found] if decisions else []
                yield (
                    Answers.joined(answers).decisions[0] if decisions else None,
                    {name: torch.cat(parts) for name, parts in kept.items()},
                )
        finally:
            for handle in handles:
                handle.remove()

    @torch.no_grad()
    def looked_at(
        self, stack: Stack, samples: int, modules: Collection[str] = ()
    ) -> Iterator[tuple[list[Tensor], dict[str, Tensor]]]:
        """Of each member, with the statistics that it brings along, what its forward makes of the first samples, as
        tensors in order, and what these modules, by name, read first.
        """
        batch = next(iter(self.data))
        with contextlib.suppress(Unsupported):  # what cannot be parted is looked at whole
            batch = self.few(batch, samples)
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[[nn.Module, Any], None]:
            def look(module: nn.Module, given: Any) -> None:
                seen.setdefault(name, given[0].clone())

            return look

        there = dict(self._live.module.named_modules())
        handles = [there[name].register_forward_pre_hook(keep(name)) for name in modules]
        try:
            for point in stack.mixtures():
                self._live.write(point)
                seen.clear()
                with torch.set_grad_enabled(self.differentiates), self._casting(), self._seeded(0, 0):
                    found = self.forward(self._live.module, batch)
                yield [tensor.detach().clone() for tensor in tensors_of(found)], dict(seen)
        finally:
            for handle in handles:
                handle.remove()

    # Derivatives ------------------------------------------------------------------------------------------------------

    @property
    def one_chunk(self) -> bool:
        """Whether all data is one batch in memory."""
        return not self.streamed and len(list(self.batches())) == 1

    def batches(self) -> Iterator["_Piece"]:
        """All data in batches, once for each draw."""
        return self._pieces(self.data)

    def _pieces(self, data: Iterable[Any]) -> Iterator["_Piece"]:
        for number, batch in enumerate(data):
            for draw in range(max(1, self.draws)):
                yield _Piece(batch, number, draw)

    def chunks(self, members: Stack) -> Iterator[tuple[Tensor, Stack]]:
        """Each member by itself on the objective's device, with its place; with `recalibrate` its buffers hold
        statistics of its own.
        """
        for place, single in enumerate(members.chunks(1)):
            here = single.to(self.device, self.dtype)
            if self.batchnorm == "recalibrate":
                found = {name: tensor[None].to(self.dtype) for name, tensor in self.statistics(here).items()}
                here = dataclasses.replace(here, buffers={**here.buffers, **found})
            yield torch.tensor([place], device=self.device), here

    def loss(self, stack: Stack, batch: "_Piece") -> Float[Tensor, " member"]:
        """What a batch adds to the loss of a single member, differentiable any number of times."""
        read = _Read(self._live.module, self.measure)
        state = {f"module.{name}": tensor[0] for name, tensor in {**stack.tensors, **stack.buffers}.items()}
        with torch.enable_grad(), plain_attention(), self._casting(), self._seeded(batch.draw, batch.number):
            tally: Tally = torch.func.functional_call(read, state, (batch.batch,), tie_weights=True)["loss"]
        found = tally.total / (self._count * max(1, self.draws))
        if self.l2:
            every = {name: tensor[0] for name, tensor in {**stack.tensors, **stack.buffers}.items()}
            found = found + self._penalty(every) / self._pieces_of_all
        return found[None]

    def _penalty(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """What the parameters of a network add to the loss."""
        squares = [tensors[name].double().square().sum() for name in sorted(self.learning)] if self.l2 else []
        return torch.stack(squares).sum() * (self.l2 / 2) if squares else torch.zeros(())

    @functools.cached_property
    def _pieces_of_all(self) -> int:
        """Number of batches, once for each draw."""
        return sum(1 for _ in self.batches())

    def parted_loss(self, stack: Stack, batch: "_Piece") -> tuple[list[Tensor], list[Tensor], Tensor]:
        """The loss of a single member taken apart: outputs, as they hang on the parameters, the same held as leaves of
        a graph of their own, and the loss of these; raises `Unsupported` for a loss that reads the network itself.
        """
        if not self.reads_outputs:
            raise Unsupported(
                "the generalised Gauss-Newton matrix is of a loss of outputs, and `batch_loss` reads the network "
                'itself: give the problem a `loss`, or leave `matrix="ggn"` out'
            )
        outputs, held = list[Tensor](), list[Tensor]()

        def part(module: nn.Module, arguments: Any, found: Any) -> Tensor:
            if not isinstance(found, Tensor):
                raise Unsupported(
                    "the generalised Gauss-Newton matrix is of outputs that are one tensor, and the network's forward "
                    f'returns a {type(found).__name__}: leave `matrix="ggn"` out'
                )
            outputs.append(found)
            held.append(outputs[-1].detach().requires_grad_())
            return held[-1]

        _ = self._count  # which runs the network too
        handle = self._live.module.register_forward_hook(part)
        try:
            return outputs, held, self.loss(stack, batch)
        finally:
            handle.remove()

    def gradient(
        self, stack: Stack, batch: Any = None, noise: Any = None, *, with_loss: bool = True
    ) -> tuple[Float[Tensor, " member"], Stack]:
        """Loss of each member and its gradient; raises `Unsupported` for data or randomness of each member's own."""
        if batch is not None or noise is not None:
            raise Unsupported("networks that are evaluated one after another are not trained here")
        losses, gradients = [], []
        for _, single in self.chunks(stack):
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in single.tensors.items()}
            total, sums = torch.zeros(1, dtype=torch.float64, device=self.device), dict[str, Tensor]()
            for each in self.batches():
                part = self.loss(Stack(leaves, single.buffers), each)
                with naming_sparse():
                    pieces = torch.autograd.grad(part.sum(), list(leaves.values()), materialize_grads=True)
                for name, piece in zip(leaves, pieces, strict=True):
                    sums[name] = sums[name] + piece if name in sums else piece
                total = total + part.detach()
            losses.append(total)
            gradients.append(Stack(sums))
        return torch.cat(losses).to(self.dtype), concatenate(gradients)

    @functools.cached_property
    def _count(self) -> Tensor | float:
        """What the loss over all data divides by."""
        self._live.write(next(self.template.mixtures()))
        counts = [self._measured(piece)["loss"].count for piece in self.batches() if not piece.draw]
        return 1.0 if any(count is None for count in counts) else sum(count for count in counts if count is not None)

    # Trust ------------------------------------------------------------------------------------------------------------

    def plain(self, members: Stack) -> dict[str, Float[Tensor, " member"]]:
        """The same numbers by the referee."""
        seeds = [functools.partial(self._seeded, draw) for draw in range(max(1, self.draws))]
        found = [self.referee(members, seeded, self.batchnorm == "recalibrate") for seeded in seeds]
        means = {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}
        if self.l2:
            means["loss"] = means["loss"] + self.penalty(members).to(means["loss"].device)
        return means

    def penalty(self, members: Stack) -> Float[Tensor, " member"]:
        """What the parameters of members add to the loss, by another way than that of each point."""
        return self.l2 / 2 * members.moving(self.learning).norms()[1].square()

    def statistics(self, members: Mixtures) -> dict[str, Tensor]:
        """By name what BatchNorm normalises by at a single member, and the singular vectors of spectral norms, where
        that is not what its buffers say.
        """
        point = next(members.mixtures())
        self._live.write(point)
        return self._found_anew(point)

    def names(self) -> list[str]:
        """Names of all metrics, as a batch of each kind has them; nothing of streams, which are not read for that."""
        if self.streamed:
            return []
        few = [*itertools.islice(self.data, 1), *itertools.islice(self.further, 1)]
        if self.ours is not None:  # a part says as much
            few = [self.few(batch, _FEW) for batch in few]
        return sorted({name for piece in self._pieces(few) for name in self._measured(piece)})

    def check_deterministic(self, members: Mixtures) -> None:
        """Raise `Unverified`, naming the cause, if the same call does not give the same numbers twice, or changes what
        the network keeps, or if the answer to a sample depends on the samples beside it.
        """
        live = self._live
        live.write(next(members.mixtures()))
        few = list(itertools.islice(self.data, 2))
        if self.ours is not None:  # a part says as much
            few = [self.few(few[0], _FEW)]
        before = live.buffers()
        pieces = [_Piece(batch, number, 0) for number, batch in enumerate(few)]
        first, second = ([self._measured(piece) for piece in pieces] for _ in range(2))
        for one, other in zip(first, second, strict=True):
            for name, tally in one.items():
                if not torch.equal(tally.total.nan_to_num(), other[name].total.nan_to_num()):
                    cause = culprit(live.module, lambda: self.forward(live.module, few[0]))
                    remedy = (
                        ", with a generator that no seed of ours reaches"
                        if self.draws
                        else ". If that is meant, `draws` gives each point the same random numbers"
                    )
                    raise Unverified(f"the objective is not deterministic: two calls differ in {name}. {cause}{remedy}")
        for name, tensor in live.buffers().items():
            if not torch.equal(tensor.nan_to_num(), before[name].nan_to_num()):
                raise Unverified(
                    f"the network's forward changes {name} in evaluation, so that a number depends on those before it: "
                    "let it change nothing when it is not in training"
                )
        if self.ours is not None:

            def run(inputs: Tensor) -> Tensor:
                with self._casting():
                    return _tensor(self.forward(live.module, self.few(few[0], len(inputs))))

            if reason := mixes_samples(live.module, run, self.ours(few[0])):
                raise Unverified(reason)

    def _measured(self, piece: "_Piece") -> Mapping[str, Any]:
        with torch.set_grad_enabled(self.differentiates):
            if self.autocast is None and not self.draws:
                return self.measure(self._live.module, piece.batch)
            with self._casting(), self._seeded(piece.draw, piece.number):
                return self.measure(self._live.module, piece.batch)

    def _seeded(self, draw: int, number: int) -> contextlib.AbstractContextManager[None]:
        return seeded(self.draw_seed, draw, number) if self.draws else contextlib.nullcontext()

    def _casting(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        # Points are written over weights whose casts would be kept.
        return torch.autocast(self.device.type, dtype=self.autocast, cache_enabled=False)

    def _groups(self) -> Iterator[list["_Piece"]]:
        """All batches in memory at once; of streamed ones as many as fit a budget."""
        if not self.streamed:
            yield list(self._pieces(itertools.chain(self.data, self.further)))
            return
        group: list[_Piece] = []
        size = 0
        for piece in self._pieces(itertools.chain(self.data, self.further)):
            group.append(piece)
            size += sum(each.nbytes for each in tensors_of(piece.batch)) if not piece.draw else 0
            if size >= _GROUP_BYTES:
                yield group
                group, size = [], 0
        if group:
            yield group

    @functools.cached_property
    def spectral(self) -> list[Spectral]:
        """The weights of the live network that are divided by their spectral norm."""
        return spectral_norms(self._live.module)

    def _found_anew(self, point: Point) -> dict[str, Tensor]:
        """Buffers that belong to the point that is written now, and are left there: singular vectors of weights that
        are mixed, and statistics of BatchNorm unless the policy is another.
        """
        found = {}
        for each in self.spectral:
            if any(self._live.mixes(name, point) for name in (*each.weights, each.u, each.v)):
                for name, vector in zip((each.u, each.v), largest(each.matrix()) or (), strict=False):
                    found[name] = self._live.tensors[name].copy_(vector).clone()
        if self.batchnorm == "recalibrate":
            with self._seeded(0, -1):
                found |= calibrate(self._live.module, self.calibration, self.forward, self.size)
        return found

    def _values(self, totals: list[dict[str, Any]]) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name in totals[0]:
            tally = Tally.stacked([each[name].settled() for each in totals])
            result[name] = tally.value().double()
            if name in self.entire:
                result[name] = (result[name] == 0).double()
            if self.sampled and (error := tally.standard_error()) is not None:
                result[f"{name}_se"] = error.double()
        return result

    @classmethod
    def of(cls, objective: Objective) -> "PlainObjective":
        """The same numbers as another objective's, by the plain engine."""
        objective = objective.with_backend("loop")
        data, network = objective.data, objective.network
        functions = {metric.per_sample: metric for metric in objective.metrics.values()}

        def run(module: nn.Module, batch: _Labelled) -> Tensor:
            return _tensor(module(batch.inputs))

        def measure(module: nn.Module, batch: _Labelled) -> dict[str, Tally]:
            outputs = run(module, batch)
            with torch.autocast(objective.device.type, enabled=False):
                last = (outputs if objective.autocast is None else outputs.to(objective.dtype)).movedim(0, -1)[None]
                numbers = {each: each(last, batch.targets)[0].double() for each in functions}
            found = {}
            for name, metric in objective.metrics.items():
                values = numbers[metric.per_sample]
                if metric.reduction == "mean":
                    found[name] = Tally.of_samples(values * batch.weights, batch.weights, spread=objective.sampled)
                else:  # of `all`, those that are not
                    whole = values.sum() if metric.reduction == "count" else (values < 1).sum()
                    found[name] = Tally(whole.double(), None)
            return found

        def answer(module: nn.Module, batch: _Labelled, soft: bool) -> Answers:
            outputs = run(module, batch)
            made = (objective.soften if soft else objective.predict)(outputs.movedim(0, -1)[None])[0].movedim(-1, 0)
            judged = objective.hits and objective.hits(outputs, batch.targets[0].movedim(-1, 0))
            if soft:
                return Answers.soft(made, judged and judged[1], batch.weights)
            return Answers.of(made, judged, batch.weights)

        def parts(objective: Objective = objective) -> Iterator[_Labelled]:
            for batch in objective.batches():
                real = batch.real_alone()
                inputs = network.plain_data(real.inputs, objective.dtype)[0].movedim(-1, 0).contiguous()
                yield _Labelled(inputs, real.targets, real.weights[0].double())

        def calibration() -> Iterator[_Labelled]:
            assert objective.calibration is not None
            for start in range(0, len(objective.calibration), CALIBRATION_BATCH):
                stop = min(start + CALIBRATION_BATCH, len(objective.calibration))
                real = objective.calibration.samples(start, stop).real_alone()
                yield _Labelled(real.inputs[0].movedim(-1, 0).contiguous(), real.targets, real.weights[0])

        def share(index: Tensor) -> Share:
            part = dataclasses.replace(objective, data=objective.memory.part(index), chunk=AUTOMATIC)
            weight = float(objective.memory.weights[0, index].sum())
            return Share(list(parts(part)), lambda stack: part.plain(stack)["loss"], weight)

        def each_of(module: nn.Module, batch: _Labelled) -> tuple[Tensor, Tensor]:
            metric, outputs = objective.metrics["loss"], run(module, batch)
            with torch.autocast(objective.device.type, enabled=False):
                last = (outputs if objective.autocast is None else outputs.to(objective.dtype)).movedim(0, -1)[None]
                each = metric.per_sample(last, batch.targets)[0].double()
            counts = 1.0 if metric.counts is None else metric.counts(batch.targets)[0]
            return each * batch.weights, counts * batch.weights

        @functools.cache
        def trusted(anew: bool) -> Objective:
            policy: BatchNorm | None = objective.batchnorm if anew or not objective.batchnorm else "interpolate"
            return dataclasses.replace(objective, batchnorm=policy)

        streamed = isinstance(data, Stream)
        sampling = objective.sampling
        return cls(
            module=network.module,
            measure=measure,
            data=_Again(parts) if streamed else list(parts()),
            forward=run,
            referee=lambda stack, seeded, anew: trusted(anew).plain(stack),
            size=lambda batch: len(batch.inputs),
            device=objective.device,
            dtype=objective.dtype,
            samples=objective.samples,
            chunk=Chunk(1, objective.chunk.samples),
            streamed=streamed,
            sampled=objective.sampled,
            ours=lambda batch: batch.inputs,
            few=lambda batch, count: batch.few(count),
            unit=objective.unit,
            entire=frozenset(name for name, metric in objective.metrics.items() if metric.reduction == "all"),
            autocast=objective.autocast,
            batchnorm=objective.batchnorm,
            calibration=list(calibration()) if objective.batchnorm == "recalibrate" else (),
            each_of=each_of,
            sampling=sampling and dataclasses.replace(sampling, share=share),
            answer=answer,
        )


def _answered(answer: Callable[[nn.Module, Any, bool], Answers], module: nn.Module, batch: Any) -> Answers:
    return answer(module, batch, False)


class _Watched:
    """A hook that keeps what a layer gives for some samples of a batch, which it may be given part by part."""

    def __init__(self, name: str) -> None:
        self.name = name

    def begin(self, some: Tensor) -> None:
        """The next batch, and the numbers of its samples that are kept."""
        self.some, self.count, self.parts = some, 0, list[Tensor]()

    def __call__(self, module: nn.Module, given: Any, outputs: Any) -> None:
        first = next(iter(tensors_of(outputs)), None)
        if first is not None and first.ndim:
            own = self.some[(self.some >= self.count) & (self.some < self.count + len(first))] - self.count
            rows = first.detach()[own.to(first.device)]  # copied: what follows may work in place
            self.parts.append(rows.flatten(1) if rows.ndim > 1 else rows[:, None])
            self.count += len(first)

    def found(self, size: int) -> Float[Tensor, "sample feature"]:
        """What was kept of a batch of so many samples."""
        if self.count != size:
            raise Unsupported(
                f"the layer '{self.name}' gives {self.count} rows for {size} samples: name one that is called once, "
                "and gives a tensor with a row a sample"
            )
        return torch.cat(self.parts)


class _Piece(NamedTuple):
    """A batch with its number, and which draw of random numbers it is read with."""

    batch: Any
    number: int
    draw: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Labelled:
    """Inputs, samples first, with the targets as metrics of stacks read them, samples last, and weights."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor

    def few(self, count: int) -> "_Labelled":
        some = slice(0, count)
        return _Labelled(self.inputs[some], self.targets[..., some], self.weights[some])


class _Read(nn.Module):
    """A network with what is measured of it, so that its tensors can be exchanged for a call."""

    def __init__(self, module: nn.Module, measure: Measure) -> None:
        super().__init__()
        self.module, self.measure = module, measure

    def forward(self, batch: Any) -> Mapping[str, Tally]:
        return self.measure(self.module, batch)


@dataclasses.dataclass(frozen=True)
class _Again:
    """What a function makes anew at each pass."""

    make: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.make()


def _tensor(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise Unsupported(
            f"the network's forward returns a {type(outputs).__name__}, not one tensor that its loss could read"
        )
    return outputs


#: By stacks of many points, or one point after another.
AnyObjective = Objective | PlainObjective
