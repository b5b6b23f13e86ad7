"""The program of a network: its layers and functions in turn, for all members of a stack at once.

Nested `nn.Sequential`s of known layers are read off directly, other networks traced by `torch.fx`. A module whose own
code cannot be traced, and what no table knows, run member by member (`torch.func.vmap`) while the rest of the network
does not. The tables hold what many small networks are faster with: layers of perceptrons, small convolutions, and the
functions between them.
"""

import copy
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.core.errors import LandscapeError, Unsupported
from landscape.engine.kernels import plain_attention
from landscape.engine.program.functions import FUNCTIONS, METHODS, MODULES, RANDOM
from landscape.engine.program.layers import ELEMENTWISE, FRESH, LAYERS, NORMALISED, STOCHASTIC, Own, Statistics, affine
from landscape.engine.program.layout import by_member, samples_last
from landscape.engine.stack import Stack, aliases

__all__ = ["Noise", "Pass", "Program", "Step", "draws", "leaves", "not_one_tensor", "pads"]


#: Source of a training pass's randomness: uniform numbers in [0, 1), [member, *shape], from a stream a layer.
Noise = Callable[[int, tuple[int, ...]], Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class Pass:
    """One evaluation of a program: of which stack, with what randomness, and whose statistics BatchNorm takes.

    With `overwrite` a layer may write over what nobody else reads any more, where no derivative is asked for.
    """

    stack: Stack
    noise: Noise | None = None
    statistics: Statistics | None = None
    overwrite: bool = False


@dataclasses.dataclass(frozen=True)
class _Place:
    """Stands, among a step's arguments, for the result of an earlier one."""

    number: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A parameter or buffer: its name in the state dict, and what serves where a stack lacks it."""

    name: str
    own: Tensor

    def of(self, stack: Stack) -> Tensor:
        """[member or 1, *shape]."""
        found = stack.tensors.get(self.name, stack.buffers.get(self.name))
        if found is not None:
            return found
        return self.own.detach().to(stack.device, stack.dtype if self.own.is_floating_point() else self.own.dtype)[None]


@dataclasses.dataclass(eq=False)
class Step:
    """One layer or function. `number` is that of its noise stream, `name` that of the state dict or of the function."""

    number: int
    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = dataclasses.field(default_factory=dict)
    module: nn.Module | None = None
    own_name: str = ""
    tensors: dict[str, _Tensor] = dataclasses.field(default_factory=dict)
    #: PyTorch's function, or the name of a tensor's method, where it is no module.
    called: Callable[..., Any] | str = ""
    #: The BatchNorm layer that follows at once and can be done along with this one, and the layer it is itself done by.
    normalised_by: "Step | None" = None
    normalises: "Step | None" = None
    #: Whether the data may be written over, and what nobody reads later.
    overwrites: bool = False
    dead: tuple[int, ...] = ()

    def __call__(self, each: Pass, arguments: Sequence[Any], keywords: Mapping[str, Any], folded: set[int]) -> Any:
        """The result, by the fast path if it knows the data."""
        if self.normalises is not None and self.normalises.number in folded:
            return arguments[0]
        noise = each.noise
        own = Own(
            self.own_name,
            len(each.stack),
            {short: tensor.of(each.stack) for short, tensor in self.tensors.items()},
            None if noise is None else functools.partial(noise, self.number),
            each.statistics,
            overwrite=self.overwrites and each.overwrite and not torch.is_grad_enabled(),
        )
        after = self.normalised_by
        vectors = not isinstance(self.module, nn.Linear) or arguments[0].ndim == 3
        if after is not None and each.statistics is None and vectors:
            own.affine = affine(after.module, {short: tensor.of(each.stack) for short, tensor in after.tensors.items()})
            folded.add(self.number)
        result = self.function(own, *arguments, **keywords)
        if result is NotImplemented:
            folded.discard(self.number)
            tensors = {short: samples_last(tensor) for short, tensor in own.tensors.items()}
            with plain_attention():
                given = tensors, tuple(arguments), dict(keywords)
                return by_member(self.original, given, apart=self.module is not None and pads(self.module))
        return result

    def original(self, tensors: dict[str, Tensor], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """What PyTorch computes for one member."""
        if self.module is not None:
            return torch.func.functional_call(self.module, tensors, arguments, keywords)
        if isinstance(self.called, str):
            return getattr(arguments[0], self.called)(*arguments[1:], **keywords)
        return self.called(*arguments, **keywords)

    def given(self, results: Mapping[int, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Arguments and keywords, from the results of the steps before, by number."""
        arguments = [_filled(argument, results) for argument in self.arguments]
        return arguments, {key: _filled(argument, results) for key, argument in self.keywords.items()}

    def reads(self, made: Tensor) -> int:
        """Numbers of one member that a product reads, of which it makes these."""
        if isinstance(self.module, nn.Linear) and made.ndim == 3:
            return self.module.in_features
        if isinstance(self.module, nn.Conv2d):
            return self.module.weight[0].numel() * math.prod(made.shape[2:])
        return 0


def _unknown(own: Own, *arguments: Any, **keywords: Any) -> Any:
    return NotImplemented


class Program:
    """The steps of a network. `output` is the place of its result; the data has place -1."""

    def __init__(self, steps: list[Step], output: int, *, sequence: bool) -> None:
        self.steps = steps
        self.output = output
        self.sequence = sequence
        _follow(steps, output)

    @classmethod
    def of(cls, module: nn.Module) -> "Program":
        """The program of a module as it is now, in training or in evaluation.

        Raises `Unsupported` for a forward that cannot be traced.
        """
        names, steps = _Names(module), list[Step]()
        for number, (name, layer) in enumerate(leaves(module)):
            steps.append(names.step(number, name, layer, (_Place(number - 1),), {}))
            if steps[-1].function is _unknown:
                return _traced(module, names)
        return cls(steps, len(steps) - 1, sequence=True)

    @functools.cached_property
    def by_member(self) -> tuple[Step, ...]:
        """Steps that no table knows, which run member by member."""
        return tuple(step for step in self.steps if step.function is _unknown)

    @functools.cached_property
    def random(self) -> tuple[Step, ...]:
        """Steps that draw random numbers if the module was in training when the program was made."""
        return tuple(step for step in self.steps if _draws(step))

    @functools.cached_property
    def hidden_normalisation(self) -> str | None:
        """A step that runs member by member and holds a BatchNorm layer, if there is one."""
        inside = ((step.name, each) for step in self.by_member if step.module for each in step.module.modules())
        return next((name for name, each in inside if isinstance(each, _BatchNorm)), None)

    @property
    def undrawable(self) -> str | None:
        """A step whose random numbers cannot be drawn from a given source, if there is one."""
        return next((step.name for step in self.random if step.function is _unknown), None)

    @property
    def opaque(self) -> str | None:
        """A step whose own code cannot be traced, so that it may draw random numbers, if there is one."""
        own = (step for step in self.by_member if not type(step.module).__module__.startswith("torch."))
        return next((step.name for step in own if step.module), None)

    def run(
        self, each: Pass, inputs: Tensor, *, change: Callable[[Step, list[Any], Callable[[], Any]], Any] | None = None
    ) -> Iterator[tuple[Step, Any]]:
        """Each step with its result, which is let go when nobody reads it any more; the program's own result is last.

        `change(step, arguments, compute)`, if given, makes the result in the step's place.
        """
        results: dict[int, Any] = {-1: inputs}
        folded: set[int] = set()
        for step in self.steps:
            arguments, keywords = step.given(results)
            compute = functools.partial(step, each, arguments, keywords, folded)
            try:
                result = compute() if change is None else change(step, arguments, compute)
            except LandscapeError:
                raise
            except Exception as error:  # whatever a layer may raise: who asked falls back, or names the step
                what = f"{type(error).__name__}: {error}"
                raise Unsupported(f"{step.name or 'module'} fails in the stacked backend ({what})") from error
            results[step.number] = result
            yield step, result
            for number in step.dead:
                results.pop(number, None)
        if self.steps and self.steps[-1].number != self.output >= 0:
            yield self.steps[self.output], results[self.output]


def _map(argument: Any, change: Callable[[Any], Any]) -> Any:
    """`change` applied to all that nested tuples, lists, dictionaries and slices hold."""
    mapped: Any = map_aggregate(argument, change)
    return mapped


def _filled(argument: Any, results: Mapping[int, Any]) -> Any:
    return _map(argument, lambda each: results[each.number] if isinstance(each, _Place) else each)


def _places(step: Step) -> list[int]:
    """Places of the results that a step reads."""
    found: list[int] = []
    _map((step.arguments, step.keywords), lambda each: found.append(each.number) if isinstance(each, _Place) else None)
    return found


def _follow(steps: list[Step], output: int) -> None:
    """Find who reads each result last, what may be written over, and the normalisations that products can do along."""
    users: dict[int, list[Step]] = {step.number: [] for step in steps}
    for step in steps:
        for number in set(_places(step)):
            users.setdefault(number, []).append(step)
    for number, readers in users.items():
        if number != output:
            last = readers[-1] if readers else steps[number]
            last.dead = (*last.dead, number)
    for step in steps:
        if not step.arguments or not isinstance(step.arguments[0], _Place):
            continue
        number = step.arguments[0].number
        if (getattr(step.module, "inplace", False) or step.keywords.get("inplace")) and users[number][-1] is not step:
            raise Unsupported(f'{step.name} changes in place what is read later: use `engine="plain"`')
        if number < 0 or users[number] != [step] or number == output:
            continue
        before = steps[number]
        fresh = type(before.module) in FRESH or before.called in (operator.add, torch.add)
        step.overwrites = fresh and type(step.module) in ELEMENTWISE
        known = step.function is not _unknown and before.function is not _unknown
        product = type(before.module) in NORMALISED
        if known and product and isinstance(step.module, _BatchNorm) and "running_mean" in step.tensors:
            step.normalises, before.normalised_by = before, step


def _draws(step: Step) -> bool:
    if step.module is not None:
        return any(draws(module) for module in step.module.modules())
    name = step.called if isinstance(step.called, str) else getattr(step.called, "__name__", "")
    return name in RANDOM and bool(step.keywords.get("training", True)) and step.keywords.get("p", 0.5) != 0


def draws(module: nn.Module) -> bool:
    """Whether this very module draws random numbers in training."""
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase):
        return module.dropout > 0
    return isinstance(module, STOCHASTIC) and getattr(module, "p", 1) > 0


def pads(module: nn.Module) -> bool:
    """Whether it holds an embedding with padding, which `vmap` derives wrongly where members read other tokens."""
    return any(isinstance(each, nn.Embedding) and each.padding_idx is not None for each in module.modules())


def leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested `nn.Sequential`s in order, with their names in the state dict."""
    if type(module).forward is nn.Sequential.forward:
        # Not `named_children`, which tells a layer that is used twice only once.
        for name, child in module._modules.items():
            assert child is not None
            yield from leaves(child, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, module


_KNOWN: dict[type[nn.Module], Callable[[Any], Callable[..., Any] | None]] = {**LAYERS, **MODULES}


class _Names:
    """The names under which a stack holds a module's tensors."""

    def __init__(self, module: nn.Module) -> None:
        self._aliases = aliases(module)
        self._first = {id(each): name for name, each in module.named_modules()}

    def tensor(self, name: str, own: Tensor) -> _Tensor:
        return _Tensor(self._aliases.get(name, name), own)

    def step(self, number: int, name: str, module: nn.Module, arguments: Any, keywords: Any) -> Step:
        """The step of a layer."""
        build = None if module._forward_hooks or module._forward_pre_hooks else _KNOWN.get(type(module))
        function = (build(module) if build else None) or _unknown
        first = self._first[id(module)]
        prefix = f"{first}." if first else ""
        own = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        # No forward of ours reads how many batches there were.
        read = ((short, tensor) for short, tensor in own if not short.endswith("num_batches_tracked"))
        tensors = {short: self.tensor(prefix + short, tensor) for short, tensor in read}
        return Step(number, name, function, arguments, keywords, module, first, tensors)


# Tracing --------------------------------------------------------------------------------------------------------------


class _Root(nn.Module):
    """A module whose forward calls another with one argument: what else the other takes keeps its default."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module(x)


class _Tracer(fx.Tracer):
    """Follows a forward into modules of the user's own; where that fails, the innermost such module is one step."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return type(module) in LAYERS or super().is_leaf_module(module, qualified_name)

    def create_proxy(self, kind: str, target: Any, *others: Any, **options: Any) -> fx.Proxy:
        name = target if kind == "call_method" else getattr(target, "__name__", "")
        if kind.startswith("call") and kind != "call_module" and name.endswith("_") and not name.endswith("__"):
            raise Unsupported(f"{name} changes a tensor in place")
        return super().create_proxy(kind, target, *others, **options)

    def call_module(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        before, stack, scope = len(self.graph.nodes), self.module_stack.copy(), self.scope
        try:
            return super().call_module(module, forward, args, kwargs)
        except Exception:  # whatever a forward of the user's may raise when it is traced: that module is one step
            name = self.path_of_module(module)
            if name == "module":
                raise
            self.module_stack, self.scope = stack, scope
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            return self.create_proxy("call_module", name, args, kwargs)


def _traced(module: nn.Module, names: _Names) -> Program:
    root, tracer = _Root(module), _Tracer()
    root.training = module.training
    try:
        # A copy: a forward that keeps something leaves what stands for a tensor in it. Constants are kept there.
        traced = copy.deepcopy(root)
        graph = tracer.trace(traced)
        for name, value in vars(traced).items():
            if name.startswith("_tensor_constant"):
                setattr(root, name, value)
    except Exception as error:  # whatever the outermost forward may raise
        line = str(error).strip().partition("\n")[0]
        raise Unsupported(
            f"the stacked backend cannot trace {type(module).__name__}.forward ({type(error).__name__}: {line}): use "
            '`engine="plain"`'
        ) from error
    places: dict[fx.Node, _Place] = {}
    steps: list[Step] = []
    output = -1
    for node in graph.nodes:
        if node.op == "placeholder":
            places[node] = _Place(-1)
            continue
        given = (node.args, node.kwargs)
        arguments, keywords = _map(given, lambda each: places[each] if isinstance(each, fx.Node) else each)
        if node.op == "output":
            if not isinstance(arguments[0], _Place):
                raise Unsupported(not_one_tensor(arguments[0]))
            output = arguments[0].number
            continue
        places[node] = _Place(len(steps))
        steps.append(_step(len(steps), node, arguments, keywords, root, names))
    if len(steps) == 1 and steps[0].module is module and steps[0].function is _unknown:
        raise Unsupported(f'the stacked backend does not know {type(module).__name__}: use `engine="plain"`')
    return Program(steps, output, sequence=False)


def not_one_tensor(outputs: Any) -> str:
    """What to do about a forward that returns something else."""
    kind = type(outputs).__name__.removeprefix("immutable_")  # of torch.fx
    what = "a number" if isinstance(outputs, Tensor) else f"a {kind}"
    return f"the network's forward returns {what}: wrap the module in one that returns one tensor, samples first"


def _step(number: int, node: fx.Node, arguments: Any, keywords: Any, root: nn.Module, names: _Names) -> Step:
    target: Any = node.target
    if node.op == "call_module":
        layer = root.get_submodule(target)
        name = target.removeprefix("module").removeprefix(".")
        return names.step(number, name, layer, arguments, keywords)
    if node.op == "get_attr":
        name = target.removeprefix("module.")
        return Step(number, name, _read, (), tensors={"tensor": names.tensor(name, operator.attrgetter(target)(root))})
    function = (METHODS if node.op == "call_method" else FUNCTIONS).get(target, _unknown)
    return Step(number, node.name, function, arguments, keywords, called=target)


def _read(own: Own) -> Tensor:
    return samples_last(own.tensors["tensor"])
