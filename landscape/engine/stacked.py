"""A module as a function of a stack: many networks of one architecture evaluated at once.

Data is laid out [member, feature, *space, sample]: a layer is then one batched matrix product over a contiguous axis of
positions and samples, and neighbours in space are long runs in memory. The leading axis is 1 where all members read the
same data, and a first layer that reads it is a single product for all members together.
"""

import copy
import dataclasses
import functools
import inspect
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from landscape.core.errors import Mismatch, Unsupported
from landscape.engine.kernels import plain_attention
from landscape.engine.live import duplicate
from landscape.engine.program.graph import Noise, Pass, Program, Step, draws, leaves, not_one_tensor, pads
from landscape.engine.program.layers import Statistics, has_statistics
from landscape.engine.stack import Stack, template_of

__all__ = ["Backend", "Noise", "Stacked", "Statistics", "Table", "features_first", "leaves", "look_up"]

logger = logging.getLogger("landscape")

Backend = Literal["stacked", "vmap", "loop"]

#: The outputs of one member or of all, and the running statistics that were found.
_Results = tuple[Tensor, dict[str, Tensor]]
_Forward = Callable[[dict[str, Tensor], Tensor], _Results]

#: Inputs of the first layer from which on it pays to take its sums between few members.
_WIDE = 32

#: How far the stacked backend may be from the plain module, relative to the largest output.
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


def features_first(
    samples: Shaped[Tensor, "sample *feature"],
) -> Shaped[Tensor, "1 *feature sample"]:
    """A data set in PyTorch's layout as shared data of a stack."""
    return samples.movedim(0, -1)[None].contiguous()


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """All that the first `layers` layers of a network can see around a place: few things, so that they are evaluated
    once for each instead of at every place.

    `rows` are these things, [1, feature, *window, row], of the size that the layers without their padding reduce to a
    single place. Data can then be given as numbers of rows, [members, 1, *space, sample] of integers: what is seen
    around each place.
    """

    rows: Float[Tensor, "1 feature *window row"]
    layers: int

    def decode(self, codes: Int[Tensor, "members 1 *space sample"]) -> Float[Tensor, "members feature *space sample"]:
        """The plain data: in the middle of what is seen around a place is the place itself."""
        middle = self.rows[0].flatten(1, -2)[:, math.prod(self.rows.shape[2:-1]) // 2]
        return middle.to(codes.device)[:, codes[:, 0].long()].movedim(0, 1)


class Stacked:
    """A module as a function of a stack; the module itself is copied and never changed.

    Backends: `stacked` serves what `torch.fx` can trace (see `landscape.engine.program.graph`), `vmap` most modules
    whose forward takes one tensor, `loop` all; they are the referees of the first. Without a choice the first that can
    serve is taken, and compared once with the plain module, on the first data that it is given; one that fails gives
    way to the next, with a warning through the logger `landscape`.

    Raises `Unsupported` if `stacked` is asked for by name and cannot trace the module, and for forwards that take more
    than one tensor or return something else.
    """

    def __init__(self, module: nn.Module, *, backend: Backend | None = None, table: Table | None = None) -> None:
        self.table = table
        self.module = duplicate(module).eval().requires_grad_(False)
        self.template = template_of(self.module)
        _require_one_input(self.module)
        self._chosen = backend is None
        if any(getattr(layer, "max_norm", None) is not None for layer in self.module.modules()):
            if backend in ("stacked", "vmap"):
                raise Unsupported(
                    "an embedding with `max_norm` writes over its weights, which networks that are evaluated at once "
                    'do not allow: use `engine="plain"`'
                )
            backend = "loop"
        self._program: Program | None = None
        if backend in (None, "stacked"):
            try:
                self._program = Program.of(self.module)
            except Unsupported:
                if backend == "stacked":
                    raise
        self.backend: Backend = backend or ("stacked" if self._program else "vmap")
        self._settled = backend in ("vmap", "loop")
        self._restless = False
        self._copies: dict[tuple[bool, bool], nn.Module] = {}

    def __call__(
        self,
        stack: Stack,
        inputs: Shaped[Tensor, "members *feature sample"],
        noise: Noise | None = None,
        statistics: Statistics | None = None,
        entered: Tensor | None = None,
    ) -> Float[Tensor, "member *out sample"]:
        """Outputs of all members; `inputs` has one leading entry for all members or one for each.

        What the members' first layer makes of the inputs can be given as `entered` (see `entrance`), which is written
        over.

        Integers are rows of the network's `table`; without one they reach the network as they are.

        With `noise` the layers behave as in training (dropout drops, RReLU draws its slopes), else as in evaluation.
        With `statistics` BatchNorm normalises by this very batch, as in training, and records what it finds.
        """
        self._settle(inputs, stack.dtype)
        backend = self._backend_for(noise, statistics)
        if backend == "stacked":
            return self._by_program(stack, inputs, noise, statistics, entered)
        data = self.plain_data(inputs, stack.dtype)
        return self._by_module(backend, stack, data, noise if self.stochastic else None, statistics)

    def _by_program(self, stack: Stack, inputs: Tensor, *options: Any) -> Tensor:
        outputs = inputs
        for _, result in self.trace(stack, inputs, *options, overwrite=True):
            outputs = result
        return outputs.expand(len(stack), *outputs.shape[1:])

    def plain_data(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        """The data as the plain module reads it."""
        if inputs.is_floating_point() or self.table is None:
            return inputs
        return self.table.decode(inputs).to(dtype)

    @property
    def sequence(self) -> bool:
        """Whether the network is nested `nn.Sequential`s of layers that the stacked engine knows."""
        return self._program is not None and self._program.sequence

    @property
    def stochastic(self) -> bool:
        """Whether a layer or a function draws random numbers in training.

        Of a forward that cannot be traced this is known once the network has seen data.
        """
        if any(draws(module) for module in self.module.modules()):
            return True
        program = self._training_program
        return self._restless or bool(program and program.random)

    @functools.cached_property
    def normalises(self) -> tuple[str, ...]:
        """Names of the BatchNorm layers with running statistics."""
        return tuple(name for name, module in self.module.named_modules() if has_statistics(module))

    @functools.cached_property
    def momentum(self) -> dict[str, float | None]:
        """Share of the newest batch in each of these layers' running statistics; None for the plain mean of all."""
        return {name: self.module.get_submodule(name).momentum for name in self.normalises}  # type: ignore[misc]

    @functools.cached_property
    def _training_program(self) -> Program | None:
        """The program of the module in training, whose own forwards may ask whether it is; None if it has none."""
        if self._program is not None and self._program.sequence:
            return self._program
        try:
            return Program.of(_in_training(self.module, draws=True, statistics=False))
        except Unsupported:
            return None

    def _backend_for(self, noise: Noise | None, statistics: Statistics | None) -> Backend:
        """The backend that serves a pass with this noise, and with these statistics."""
        drawn = noise is not None and self.stochastic
        if self._program is not None and self.backend == "stacked":
            if statistics is not None and (hidden := self._program.hidden_normalisation):
                failure = f'finds no statistics inside {hidden}: use `engine="plain"`'
            elif drawn and (reason := self._undrawable):
                failure = f'cannot draw the random numbers of {reason}: use `engine="plain"`'
            else:
                return "stacked"
        elif self.backend == "vmap" and drawn:
            failure = 'cannot draw random numbers for training: use `engine="stacked"`, or loop'
        else:
            return self.backend
        if self._chosen:
            return "loop"
        raise Unsupported(f"the {self.backend} backend {failure}")

    @property
    def _undrawable(self) -> str | None:
        """Whose random numbers cannot be drawn from a given source."""
        if self._training_program is None:
            return "code that cannot be traced"
        return self._training_program.undrawable or (self._training_program.opaque if self._restless else None)

    def trace(
        self,
        stack: Stack,
        inputs: Tensor,
        noise: Noise | None = None,
        statistics: Statistics | None = None,
        entered: Tensor | None = None,
        *,
        overwrite: bool = False,
    ) -> Iterator[tuple[str, Tensor]]:
        """Each layer's name and outputs in turn, samples last (backend `stacked` only).

        What a table is looked up for has no noise: equal rows would share it. A BatchNorm that follows a product is
        computed along with it. With `overwrite` outputs are valid only until the next are asked for.
        """
        program = self._training_program if noise is not None else self._program
        assert program is not None
        each = Pass(stack, noise, statistics, overwrite)
        looked_up = self.table if not inputs.is_floating_point() and noise is None and program.sequence else None
        if looked_up:
            x = looked_up.rows.to(inputs.device, stack.dtype)
            steps = program.run(each, x, change=functools.partial(_through_table, looked_up, inputs))
        else:
            change = None if entered is None else functools.partial(_given, self.entrance, entered)
            steps = program.run(each, self.plain_data(inputs, stack.dtype), change=change)
        for step, result in steps:
            if looked_up and step.number < looked_up.layers and isinstance(step.module, nn.ConstantPad2d):
                continue
            if isinstance(result, Tensor) and result.ndim > 1:
                yield step.name, result
            elif step.number == program.output:
                raise Unsupported(not_one_tensor(result))

    @functools.cached_property
    def entrance(self) -> Step | None:
        """The first layer with parameters, if these enter its outputs as a sum of products with data that all members
        share: a point between others then has outputs between theirs. None where its products cost little.
        """
        if self._program is None or self.backend != "stacked" or self.table is not None:
            return None
        first = next((step for step in self._program.steps if step.tensors), None)
        if first is None or not isinstance(first.module, nn.Linear | nn.Conv2d):
            return None
        if first.normalised_by is not None or first in self._program.by_member:
            return None
        weight = next(iter(first.tensors.values())).of(self.template)
        # Rows of the product in multiples of 8 for each end: its numbers then do not depend on the ends beside it.
        return first if weight[0, 0].numel() >= _WIDE and weight.shape[1] % 8 == 0 else None

    @torch.no_grad()
    def enter(self, stack: Stack, inputs: Tensor) -> Tensor:
        """What the first layer makes of the inputs: [member, out, *space, sample]."""
        assert self._program is not None
        assert self.entrance is not None
        steps = self._program.run(Pass(stack), self.plain_data(inputs, stack.dtype))
        entered: Tensor = next(result for step, result in steps if step is self.entrance)
        return entered

    def widest(self, inputs: Tensor, *, data: bool = True) -> int:
        """Numbers per sample in the widest activation of one member, what a convolution reads included, which decides
        how many members fit a cache; unless `data` is left out, the data too.
        """
        self._settle(inputs, torch.float32)
        few = self.plain_data(inputs[:1, ..., :1], torch.float32)
        stack = self.template.to(few.device, few.dtype if few.is_floating_point() else torch.float32)
        widths = [few.numel() if data else 1]
        if self.backend != "stacked":
            return max(*widths, self._widest_of_module(stack, few), 1)
        assert self._program is not None

        def measure(step: Step, arguments: list[Any], compute: Callable[[], Any]) -> Any:
            result = compute()
            if isinstance(result, Tensor):
                # What the first layer reads is there once for all members.
                widths.extend((result.numel(), step.reads(result) if len(widths) > 1 else 0))
            return result

        with torch.no_grad():
            for _ in self._program.run(Pass(stack), few, change=measure):
                pass
        return max(widths)

    def _widest_of_module(self, stack: Stack, few: Tensor) -> int:
        """The same for the plain module: its modules' widest output."""
        module, widths = copy.deepcopy(self.module), [0]

        def measure(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                widths.append(output.numel())

        for each in module.modules():
            each.register_forward_hook(measure)
        with torch.no_grad(), plain_attention():
            torch.func.functional_call(module, stack.state_dict(0), (few[0].movedim(-1, 0),))
        return max(widths)

    # The choice of a backend ------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _settle(self, inputs: Tensor, dtype: torch.dtype) -> None:
        """Compare the backend with the plain module once, at three places near the template and on three samples; one
        that fails gives way to the next unless it was asked for by name.
        """
        if self._settled:
            return
        members, samples = (
            torch.tensor([0, count // 2, count - 1], device=inputs.device) for count in (len(inputs), inputs.shape[-1])
        )
        few = inputs.detach().index_select(-1, samples)
        few = few if len(few) == 1 else few[members]
        dtype = inputs.dtype if inputs.is_floating_point() else dtype
        stack = _near(self.template, 3).to(inputs.device, dtype)
        wanted = self._by_module("loop", stack, self.plain_data(few, dtype))
        self._settled = True
        if self._training_program is None or self._training_program.opaque:
            first, second = (self._by_module("loop", stack, self.plain_data(few, dtype), _some(n)) for n in (0, 1))
            self._restless = not torch.equal(first.nan_to_num(), second.nan_to_num())
        while self.backend != "loop" and (reason := self._failure(stack, few, wanted)):
            if not self._chosen:
                raise Unsupported(f'{reason}: use `engine="plain"`')
            after: Backend = "vmap" if self.backend == "stacked" else "loop"
            logger.warning("%s: falling back to backend %s", reason, after)
            self.backend = after

    def _failure(self, stack: Stack, few: Tensor, wanted: Tensor) -> str:
        """What is wrong with the backend's outputs; empty if nothing."""
        try:
            if self.backend == "stacked":
                got = self._by_program(stack, few)
            else:
                got = self._by_module(self.backend, stack, self.plain_data(few, stack.dtype))
        except Exception as error:  # whatever a network's own code may raise
            return str(error).strip().partition("\n")[0] or type(error).__name__
        if got.shape != wanted.shape:
            return f"the {self.backend} backend makes outputs of another shape than the plain module"
        scale = float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max()) if wanted.numel() else 0.0
        tolerance = TOLERANCE.get(wanted.dtype, 1e-2) * scale
        if torch.allclose(got, wanted, rtol=0.0, atol=tolerance, equal_nan=True):
            return ""
        return f"the {self.backend} backend differs from the plain module by {float((got - wanted).abs().max()):.3g}"

    # The module's own forward -----------------------------------------------------------------------------------------

    def _by_module(
        self,
        backend: Backend,
        stack: Stack,
        inputs: Tensor,
        noise: Noise | None = None,
        statistics: Statistics | None = None,
    ) -> Tensor:
        """The module's own forward for each member: by `vmap`, or one by one."""
        training = noise is not None, statistics is not None
        if training not in self._copies:
            self._copies[training] = _in_training(self.module, draws=training[0], statistics=training[1])
        module = self._copies[training] if any(training) else self.module
        real = statistics.index if statistics else None
        shown = inputs if real is None else inputs.index_select(-1, real.to(inputs.device))
        running = [f"{name}.{key}" if name else key for name in self.normalises for key in _RUNNING]
        state = {**stack.tensors, **stack.buffers}
        if statistics:
            state |= self._to_be_written(stack)

        def forward(tensors: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            outputs = torch.func.functional_call(module, tensors, (x.movedim(-1, 0),))
            if not isinstance(outputs, Tensor) or outputs.ndim == 0:
                raise Unsupported(not_one_tensor(outputs))
            return outputs.movedim(0, -1), {name: tensors[name] for name in running if statistics}

        if backend == "vmap" and len(inputs) > 1 and pads(module):
            raise Unsupported('torch.func.vmap forgets the `padding_idx` of embeddings: use `engine="plain"`')
        with plain_attention():
            run = self._by_vmap if backend == "vmap" else self._one_by_one
            results, found = run(forward, state, shown, noise)
        if statistics:
            statistics.found.update({name: tensor.detach() for name, tensor in found.items()})
        if real is None:
            return results
        return results.new_zeros(*results.shape[:-1], inputs.shape[-1]).index_copy(-1, real.to(results.device), results)

    def _to_be_written(self, stack: Stack) -> dict[str, Tensor]:
        """Copies of the buffers that BatchNorm writes over in training, [member, *shape]."""
        there = {name: tensor[None] for name, tensor in self.module.named_buffers()} | dict(stack.buffers)
        written = {}
        for layer in self.normalises:
            for key in (*_RUNNING, "num_batches_tracked"):
                name = f"{layer}.{key}" if layer else key
                buffer = there[name].to(stack.device)
                buffer = buffer.to(stack.dtype) if buffer.is_floating_point() else buffer
                written[name] = buffer.expand(len(stack), *buffer.shape[1:]).clone()
        return written

    @staticmethod
    def _by_vmap(forward: _Forward, state: dict[str, Tensor], inputs: Tensor, noise: Noise | None) -> _Results:
        shared = inputs.shape[0] == 1
        batched = torch.func.vmap(forward, in_dims=(0, None if shared else 0), randomness="different")
        try:
            results: _Results = batched(state, inputs[0] if shared else inputs)
        except RuntimeError as error:
            raise Unsupported(f'torch.func.vmap cannot run this module ({error}): use `engine="plain"`') from error
        return results

    @staticmethod
    def _one_by_one(forward: _Forward, state: dict[str, Tensor], inputs: Tensor, noise: Noise | None) -> _Results:
        """With `noise` it seeds PyTorch's own generator for each member."""
        members = len(next(iter(state.values())))
        data = inputs.expand(members, *inputs.shape[1:])
        seeds = None if noise is None else _seeds(noise)
        devices = [inputs.device] if inputs.device.type == "cuda" else []
        results = []
        for i in range(members):
            with torch.random.fork_rng(devices, enabled=seeds is not None):
                if seeds is not None:
                    torch.manual_seed(seeds[i])
                try:
                    results.append(forward({name: tensor[i] for name, tensor in state.items()}, data[i]))
                except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
                    raise Mismatch(
                        f"the network's own forward fails on {inputs.dtype} data of shape "
                        f"{list(data[i].movedim(-1, 0).shape)} (samples first): {error}"
                    ) from error
        found = {name: torch.stack([each[name] for _, each in results]) for name in results[0][1]}
        return torch.stack([outputs for outputs, _ in results]), found


_RUNNING = ("running_mean", "running_var")


def _given(entrance: Step | None, entered: Tensor, step: Step, arguments: list[Any], compute: Callable[[], Any]) -> Any:
    """A step, or what is known already of the first layer."""
    return entered if step is entrance else compute()


def _through_table(table: Table, codes: Tensor, step: Step, arguments: list[Any], compute: Callable[[], Any]) -> Any:
    """A step on a table's rows, which need no padding, and the looking up that follows the last of them."""
    if step.number >= table.layers:
        return compute()
    result = arguments[0] if isinstance(step.module, nn.ConstantPad2d) else compute()
    return look_up(result, codes) if step.number == table.layers - 1 else result


def look_up(
    x: Float[Tensor, "member feature *one row"], codes: Int[Tensor, "members 1 *space sample"]
) -> Float[Tensor, "member feature *space sample"]:
    """At each place what a table's row has become."""
    rows = x.flatten(2)
    if len(codes) == 1:
        return rows.index_select(2, codes.flatten().int()).view(*rows.shape[:2], *codes.shape[2:])
    places = codes.flatten(2).long().expand(-1, rows.shape[1], -1)
    return rows.gather(2, places).view(*rows.shape[:2], *codes.shape[2:])


def _require_one_input(module: nn.Module) -> None:
    every = inspect.signature(module.forward).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in every if each.default is each.empty and each.kind not in several]
    if len(needed) > 1:
        raise Unsupported(
            f"the network's forward takes {len(needed)} inputs ({', '.join(needed)}): wrap the module in one whose "
            "forward takes one tensor"
        )


def _in_training(module: nn.Module, *, draws: bool, statistics: bool) -> nn.Module:
    """A copy in training, but for normalisations, which are if `statistics` are asked for; these keep nothing of what
    they have seen before.
    """
    module = copy.deepcopy(module).train(draws)
    for each in module.modules():
        if isinstance(each, _NormBase):
            each.train(statistics and has_statistics(each))
            each.momentum = 1.0
    return module


def _seeds(noise: Noise) -> list[int]:
    """A seed for each member, 48 bits of two uniform numbers."""
    high, low = (noise(0, (2,)).double() * 2**24).long().cpu().unbind(1)
    return [int(seed) for seed in high * 2**24 + low]


def _some(seed: int) -> Noise:
    """Noise for the three members of a check."""
    return lambda layer, shape: torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed))


def _near(template: Stack, members: int) -> Stack:
    """Places near the template, where no parameter is zero or one by chance; each of its own, and always the same."""
    generator = torch.Generator().manual_seed(0)

    def moved(tensor: Tensor, *, positive: bool) -> Tensor:
        noise = torch.randn(members, *tensor.shape[1:], generator=generator).to(tensor.device)
        return tensor * (0.3 * noise).exp() if positive else tensor + 0.1 * noise * (1 + tensor.abs())

    tensors = {name: moved(tensor, positive=False) for name, tensor in template.tensors.items()}
    buffers = {}
    for name, tensor in template.buffers.items():
        own = tensor.expand(members, *tensor.shape[1:])
        buffers[name] = moved(tensor, positive=name.endswith("var")) if name.split(".")[-1] in _RUNNING else own
    return Stack(tensors, buffers)
