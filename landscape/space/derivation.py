"""The symmetry of any network, derived from the operations that its own forward performs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.core.errors import LandscapeError, Mismatch, Unsupported, few, plural
from landscape.engine.batches import mapped, moved, renewed, tensors_of
from landscape.engine.casting import running_in
from landscape.engine.live import copied
from landscape.engine.stack import Stack
from landscape.space.rules import RULES, STRUCTURAL, Call, Value
from landscape.space.symmetry import Axis, Element, Group, Move, Symmetry, act
from landscape.space.units import Dim, Powers, Units, fixed, independent, together

__all__ = ["derive", "derived"]

#: Operations whose result does not depend on the values of what they are given.
_MAKING = frozenset(f"{kind}_like" for kind in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")) | {
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty_strided",
}

#: Operations that write over statistics, of which their results are no functions.
_UPDATING = frozenset({"native_batch_norm", "_native_batch_norm_legit"})

#: Relative difference of outputs up to which a change of units has left them as they were: in float64, and times the
#: precision of the coarsest type that a forward computes in.
_SAME, _ROUNDED = 1e-8, 1e4


def derive(
    module: nn.Module,
    *inputs: Any,
    through: Callable[..., Any] | None = None,
    evaluation: bool = True,
    **named: Any,
) -> Symmetry:
    """Groups of units of a network whose order, scale or sign makes no difference to its outputs, whatever they are.

    The network's own forward is run once, and each operation that PyTorch performs says which dimensions must be
    permuted alike (unification), and how rescalings pass it (linear relations between the powers, solved over the
    rational numbers, and modulo 2 for signs). What no rule is known for holds the units that it reads. A random change
    of the whole symmetry is then tried, in float64.

    Args:
        module: The network; it stays as it is.
        inputs: What its forward is called with; a few samples suffice.
        through: Calls the network instead, for what is not a single forward: a function of it and the inputs.
        evaluation: Whether it is put in evaluation.
        named: Arguments of its forward by name.

    Returns:
        Its symmetry; groups are in the order in which their first tensors are among the network's.

    Raises:
        Mismatch: The network does not run on the inputs.
        Unsupported: Its forward looks at values that depend on parameters, or at what PyTorch does not perform.

    Source:
        Permutations of units: R. Hecht-Nielsen, Advanced Neural Computers 1990; scales of rectified units: L. Dinh et
        al., ICML 2017, arXiv 1703.04933; signs of odd ones: H. Sussmann, Neural Networks 5, 1992.

    >>> derive(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)), torch.randn(4, 2)).sizes
    (3,)
    """
    network = copied(module, device="cpu", dtype=torch.float64).requires_grad_(False)
    if evaluation:
        network.eval()
    inputs, named = moved((inputs, named), torch.device("cpu"), torch.float64)
    function = through or (lambda network, *inputs, **named: network(*inputs, **named))

    def call(network: nn.Module) -> Any:
        given = renewed((list(inputs), named))
        return function(network, *map(renewed, given[0]), **given[1])

    apart = frozenset[int]()
    while True:
        recorder = _Recorder(network, apart)
        with _plainly(), recorder.watching(), recorder:
            for tensor in tensors_of((inputs, named)):
                recorder.enter(tensor, [Dim(fixed(size)) for size in tensor.shape])
            recorder.leave(_called(module, network, call))
        # What turned out to be an index of parts is one from the start.
        apart, known = apart | recorder.indices(), apart
        if apart == known:
            break
    found = recorder.symmetry()
    _try(module, network, call, found, max(_SAME, min(_ROUNDED * recorder.precision, 0.1)))
    return found


def derived(module: nn.Module, *inputs: Any, **options: Any) -> Symmetry:
    """The same, without groups where they cannot be derived, and with the reason among what is refused."""
    try:
        return derive(module, *inputs, **options)
    except (Mismatch, Unsupported) as error:
        return Symmetry(refused=(str(error),))


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Without derivatives, with layers written out as operations, and the same random numbers each time."""
    fast, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), running_in(torch.float64), torch.random.fork_rng([]):
            torch.manual_seed(0)
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.enabled = onednn


def _called(module: nn.Module, network: nn.Module, call: Callable[[nn.Module], Any]) -> Any:
    try:
        return call(network)
    except LandscapeError:
        raise
    except Exception as error:  # whatever a forward may raise
        line = (str(error).splitlines() or ["no message"])[0][:200]
        raise Mismatch(
            f"{type(module).__name__} does not run where its symmetry is derived, on the CPU in float64: "
            f"{type(error).__name__}: {line}"
        ) from error


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the units of a network's tensors through its operations."""

    def __init__(self, network: nn.Module, apart: frozenset[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.apart, self.number = apart, 0
        self.outer: list[tuple[int, Units]] = []
        self.network, self.powers = network, Powers()
        self.names = {id(layer): name or type(network).__name__ for name, layer in network.named_modules()}
        self.inside: list[str] = []
        #: What is known of each tensor that is not a constant; they are kept, so that no other takes their place.
        self.values: dict[int, tuple[Tensor, Value]] = {}
        self.refused: dict[str, None] = {}
        self.precision = 0.0
        self.constants: list[tuple[str, Dim, tuple[int, ...]]] = []
        #: Names of parameters and statistics, with their dimensions; where the first are in memory.
        self.tensors: dict[str, list[Dim]] = {}
        self.memory = dict[int, tuple[Tensor, Value]]()
        self.read: set[int] = set()
        self.aliased, self.written = set[int](), set[int]()
        self.sums: dict[Units, str] = {}
        statistics = {
            id(getattr(layer, name))
            for layer in network.modules()
            if isinstance(layer, _NormBase)
            for name in ("running_mean", "running_var")
            if getattr(layer, name) is not None
        }
        buffers = {name: each for name, each in network.named_buffers() if id(each) in statistics}
        stated = network.state_dict(keep_vars=True).keys()
        every = {**dict(network.named_parameters()), **{n: each for n, each in buffers.items() if n in stated}}
        for name, tensor in every.items():
            dims = [Dim(Units(size)) for size in tensor.shape]
            if not tensor.is_floating_point():
                for dim in dims:
                    dim.units.freeze()
            self.tensors[name] = dims
            self.memory[_memory(tensor)] = (tensor, self.enter(tensor, dims, learned=True))

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Knows in which module an operation is; outputs of the whole network are held."""

        def entered(layer: nn.Module, args: Any) -> None:
            self.inside.append(self.names.get(id(layer), type(layer).__name__))

        def left(layer: nn.Module, args: Any, outputs: Any) -> None:
            self.inside.pop()
            if layer is self.network:
                self.leave(outputs)

        hooks = [
            nn.modules.module.register_module_forward_pre_hook(entered),
            nn.modules.module.register_module_forward_hook(left),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def indices(self) -> frozenset[int]:
        """Numbers of the operations that factored a dimension, whose outermost factor turned out to be fixed."""
        return frozenset(number for number, units in self.outer if not any(True for _ in units.leaves()))

    @property
    def where(self) -> str:
        """The module that runs now."""
        return self.inside[-1] if self.inside else type(self.network).__name__

    def enter(self, tensor: Tensor, dims: list[Dim | None] | list[Dim], *, learned: bool = False) -> Value:
        """A tensor whose dimensions are known."""
        value = Value(tuple(tensor.shape), list(dims), learned=learned)
        self.values[id(tensor)] = tensor, value
        return value

    def leave(self, outputs: Any) -> None:
        """What a network gives stays as it is."""
        for tensor in tensors_of(outputs):
            if id(tensor) in self.values:
                value = self.values[id(tensor)][1]
                self._join(value)
                _hold(value)

    def _join(self, value: Value) -> None:
        value.dims = [dim if dim is None else dim.joined(self.powers) for dim in value.dims]

    def value_of(self, tensor: Tensor) -> Value:
        """What is known of a tensor: nothing depends on units of one that is new, a constant."""
        if id(tensor) in self.values:
            value = self.values[id(tensor)][1]
            if value.spoiled:
                _hold(value)
            return value
        if tensor.requires_grad:
            raise Unsupported(
                f"{self.where} takes derivatives in its forward, which cannot be followed: no symmetry of it is derived"
            )
        place = _memory(tensor)
        if place in self.memory:  # the `data` of a parameter
            original, value = self.memory[place]
            if original.shape == tensor.shape and original.stride() == tensor.stride():
                return value
            _hold(value)
        dims = [self._constant(tensor, number) for number in range(tensor.ndim)]
        zero = place not in self.written and tensor.numel() > 0 and not bool(tensor.any())
        return Value(tuple(tensor.shape), dims, zero=zero)

    def _constant(self, tensor: Tensor, number: int) -> Dim | None:
        """A dimension of a constant: None where all along it is equal, else its places are told apart."""
        size = tensor.shape[number]
        if not tensor.numel() or _memory(tensor) in self.written:
            return Dim(fixed(size))
        if bool((tensor == tensor.narrow(number, 0, 1)).all()):
            return None
        dim = Dim(Units(size, "pinned"))
        self.powers.zero(dim)
        self.constants.append((self.where, dim, tuple(tensor.shape)))
        return dim

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        backward = torch._C._current_graph_task_id() != -1
        name = func.overloadpacket.__name__
        given = tensors_of((args, kwargs))
        known = [tensor for tensor in given if id(tensor) in self.values or _memory(tensor) in self.memory]
        if name == "_local_scalar_dense" and known:
            self._looked_at(self.value_of(known[0]))
        if backward or not known or name in _MAKING:
            found = func(*args, **kwargs)
            if name not in _MAKING and any(argument.alias_info is not None for argument in func._schema.arguments):
                self.aliased.update(_memory(tensor) for tensor in given)
            return found
        if name in ("as_strided", "as_strided_"):
            name = _as_if(*args, **kwargs) or name
        with _Outside():
            values = {id(tensor): self.value_of(tensor) for tensor in given}
            if name not in STRUCTURAL:
                for value in values.values():
                    self._join(value)
        found = func(*args, **kwargs)
        with _Outside():
            self._record(func, name, args, kwargs, values, found)
        return found

    def _record(self, func: Any, name: str, args: Any, kwargs: Any, values: Mapping[int, Value], found: Any) -> None:
        self.number += 1
        for tensor in tensors_of(found):
            if tensor.is_floating_point() and tensor.dtype != torch.float64:
                self.precision = max(self.precision, torch.finfo(tensor.dtype).eps)
        outputs = [found] if isinstance(found, Tensor) else list(found) if isinstance(found, tuple | list) else []
        outputs = [each for each in outputs if isinstance(each, Tensor)]
        arguments = {}
        for number, argument in enumerate(func._schema.arguments):
            given = args[number] if number < len(args) else kwargs.get(argument.name, argument.default_value)
            arguments[argument.name] = mapped(given, lambda tensor: values[id(tensor)])
        read = list({id(value): value for value in values.values()}.values())
        self.read.update(id(dim) for value in read for dim in _present(value))
        changes = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        learned = any(value.learned for value in read)
        shapes = [tuple(each.shape) for each in outputs]
        results: Sequence[Value] | None = None
        if name != "expand" and not any(dim is None or any(dim.leaves()) for value in read for dim in value.dims):
            results = [_held(shape) for shape in shapes]  # nothing that it reads changes
        elif changes in ([], ["self"]) or name in _UPDATING:
            base = name[:-1] if changes and name.endswith("_") else name
            changes = [] if base == "alias" or name in _UPDATING else changes
            results = self._followed(Call(base, arguments, shapes, self.powers, self.number in self.apart))
        if results is None or [each.shape for each in results] != shapes:
            self._refuse(str(func.overloadpacket), read)
            results = [_held(shape) for shape in shapes]
        viewed = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        for tensor, result in zip(outputs, results, strict=True):
            result = Value(result.shape, result.dims, learned, result.zero, viewed, result.spoiled)
            if changes == ["self"] and tensor is args[0]:
                self._write(tensor, values[id(tensor)], result)
            self.values[id(tensor)] = tensor, result
        if viewed:
            for value in read:
                value.shared = True
        elif changes not in ([], ["self"]):
            for value in read:
                _hold(value)
            self.written.update(_memory(each) for each in tensors_of((args, kwargs)))

    def _followed(self, call: Call) -> Sequence[Value] | None:
        """What a rule says of an operation's results; None without a rule."""
        rule = RULES.get(call.name)
        made = rule(call) if rule is not None and call.shapes else None
        self.outer += [(self.number, units) for units in call.outer]
        if call.held:
            count = plural(sum(call.held), "unit")
            self.refused.setdefault(f"{self.where}: {call.name} goes by places, so {count} stay in their order")
        for units in call.summed:
            for leaf in units.leaves():
                self.sums.setdefault(leaf, self.where)
        return [made] if isinstance(made, Value) else made

    def _write(self, tensor: Tensor, old: Value, new: Value) -> None:
        """A tensor is written over: what shares its memory must find there what changes alike."""
        known = id(tensor) in self.values
        place = _memory(tensor)
        if not known and (place in self.aliased or tensor.untyped_storage().nbytes() != tensor.nbytes):
            self._refuse(f"writing into a part of a tensor of shape {list(tensor.shape)}", [new])
            _hold(new)
            self.written.add(place)
        elif known and old.shared:
            new.shared = True
            for before, after in zip(old.dims, new.dims, strict=True):
                if before is None:
                    if after is not None:
                        after.units.freeze()
                elif after is None:
                    if not new.zero:
                        before.units.freeze()
                else:
                    together(before.units, after.units)
                    self.powers.equal(before, after)

    def _looked_at(self, value: Value) -> None:
        if value.learned:
            raise Unsupported(
                f"{self.where} looks at values that depend on parameters in Python (`if`, `item`, `bool`), so another "
                "network could compute something else: no symmetry of it can be derived"
            )
        self.refused.setdefault(
            f"{self.where} looks at values of its inputs in Python: the symmetry is that on inputs like these"
        )

    def _refuse(self, what: str, read: Sequence[Value]) -> None:
        learned = {leaf for value in read if value.learned for dim in _present(value) for leaf in dim.leaves()}
        for value in read:
            self._join(value)
            _hold(value)
        if learned:
            count = plural(sum(leaf.size for leaf in learned), "unit")
            self.refused.setdefault(f"{self.where}: no rule for {what}, so {count} stay in their order")

    def symmetry(self) -> Symmetry:
        """What is left free, when all has been seen."""
        axes = self._axes()
        self._name_constants(axes)
        unknowns = {leaf: [unknown for _, unknown in listed] for leaf, listed in axes.items()}
        scalings, flips = self.powers.solve("scale", unknowns), self.powers.solve("flip", unknowns)
        for dim in (dim for dims in self.tensors.values() for dim in dims):
            for outer, inner in dim.units.nested():
                # A block is rescaled by rescaling each of its units.
                if outer in axes and all(len(axes.get(leaf, ())) == len(axes[outer]) for leaf in inner):
                    scalings[outer] = independent(scalings[outer], scalings[inner[0]], "scale")
                    flips[outer] = independent(flips[outer], flips[inner[0]], "flip")
        groups, beyond = [], []
        sums = {leaf.root(): where for leaf, where in self.sums.items()}
        for leaf, listed in axes.items():
            permutes = leaf.kind == "free"
            if not scalings[leaf] and not flips[leaf] and not (permutes and leaf.size > 1):
                continue
            found = tuple(axis for axis, _ in listed)
            among = few(list(dict.fromkeys(axis.name for axis in found)))
            if not leaf.bent and leaf not in sums:
                beyond.append(f"{among}: {plural(leaf.size, 'unit')} that nothing reads can be anything")
                continue
            groups.append(Group(leaf.size, found, scalings[leaf], flips[leaf], permutes))
            if permutes and not leaf.bent and scalings[leaf] and leaf.size > 1:
                beyond.append(f"{sums[leaf]}: any invertible linear map of the {leaf.size} units of {among}")
        return Symmetry(tuple(groups), tuple(self.refused), tuple(beyond))

    def _axes(self) -> dict[Units, list[tuple[Axis, int]]]:
        """Of each leaf, where it is in parameters and statistics that were read, and the unknown power there."""
        axes: dict[Units, list[tuple[Axis, int]]] = {}
        for name, dims in self.tensors.items():
            if all(id(dim) in self.read for dim in dims):
                for number, dim in enumerate(dims):
                    for each, unknown in self.powers.occurrences(dim):
                        runs = [(Axis(name, number, *run), unknown) for run in each.runs()]
                        axes.setdefault(each.leaf, []).extend(runs)
        return axes

    def _name_constants(self, axes: Mapping[Units, Any]) -> None:
        """Among what is refused, units of parameters that constants tell apart."""
        for where, dim, shape in self.constants:
            told = {leaf for leaf in dim.units.leaves() if leaf in axes}
            if told:
                count = plural(sum(leaf.size for leaf in told), "unit")
                self.refused.setdefault(f"{where}: a constant of shape {list(shape)} tells {count} apart")


def _as_if(tensor: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> str:
    """The operation that gives the same entries in the same places, if strides change where there is one entry only."""
    same = tuple(size) == tuple(tensor.shape) and offset in (None, tensor.storage_offset())
    strides = zip(tensor.shape, stride, tensor.stride(), strict=False)
    return "alias" if same and all(length < 2 or new == old for length, new, old in strides) else ""


class _Outside:
    """Operations of our own are not recorded."""

    def __enter__(self) -> None:
        self._guard = torch.utils._python_dispatch._disable_current_modes()
        self._guard.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._guard.__exit__(*error)


def _memory(tensor: Tensor) -> int:
    """Where a tensor's numbers are."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return -id(tensor)


def _held(shape: tuple[int, ...]) -> Value:
    return Value(shape, [Dim(fixed(size)) for size in shape])


def _present(value: Value) -> list[Dim]:
    return [dim for dim in value.dims if dim is not None]


def _hold(value: Value) -> None:
    for dim in (*_present(value), *value.spoiled):
        dim.units.freeze()


def _try(
    module: nn.Module, network: nn.Module, call: Callable[[nn.Module], Any], symmetry: Symmetry, same: float
) -> None:
    """Raise `Unsupported` if a random change of the symmetry changes an output by more than this share."""
    if not symmetry:
        return
    with _plainly():
        before = _called(module, network, call)
    with torch.no_grad():
        state = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        named = {axis.name for group in symmetry for axis in group.axes}
        stack = Stack({name: state[name][None].clone() for name in named}, {})
        for name, tensor in act(stack, symmetry, _drawn(symmetry)).tensors.items():
            state[name].copy_(tensor[0])
    with _plainly():
        after = _called(module, network, call)
    for one, other in zip(tensors_of(before), tensors_of(after), strict=True):
        if one.is_floating_point() and one.numel():
            limit = same * max(float(one.abs().nan_to_num().max()), 1e-30)
            if not torch.allclose(one, other, rtol=0, atol=limit, equal_nan=True):
                raise Unsupported(
                    f"the outputs of {type(module).__name__} change where its operations say that they do not: its "
                    "forward computes something outside of PyTorch's operations (NumPy, values read in Python), so no "
                    "symmetry of it can be derived"
                )


def _drawn(symmetry: Symmetry) -> Element:
    """A random order, random scales between a half and two, and random signs of the units of each group."""
    rng = np.random.default_rng(0)
    return tuple(
        Move(
            number,
            order=rng.permutation(group.size) if group.permutes else None,
            scales=2 ** rng.uniform(-1, 1, (len(group.scalings), group.size)),
            signs=rng.choice([-1.0, 1.0], (len(group.flips), group.size)),
        )
        for number, group in enumerate(symmetry)
    )
