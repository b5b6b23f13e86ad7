"""Perceptrons of rectifiers, which are multilinear on pieces: all derivatives written out, on a piece and across kinks.

Where a hidden unit's input is zero on a sample, the slope of its activation, and with it the gradient, jumps. `share`
says for each unit and sample where between both sides its slope is taken: 0 is that of negative inputs, 1 that of
positive ones. With shares between, gradients are elements of Clarke's subdifferential (F. H. Clarke, *Optimization and
Nonsmooth Analysis*, 1983), and Hessians those of the Lagrangian on the manifold where the unit stays at its kink.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from landscape.engine.data import Batch
from landscape.engine.objective import Objective
from landscape.engine.program.graph import leaves
from landscape.engine.stack import aliases

__all__ = ["Piece", "Pieces"]

#: Outputs are multiplied by this to see what becomes of the loss at infinity.
_FAR = 1e8

_SILENT = (nn.Flatten, nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclasses.dataclass(frozen=True)
class _Layer:
    """Where a layer's weights, [out, in + 1] with the bias last, stand among all parameters; slope of what follows."""

    places: Int[Tensor, "out in_and_one"]
    slope: float


class Pieces:
    """A network that is a chain of fully connected layers with ReLU or LeakyReLU between, on data in memory.

    Convolutions that see their whole input at once, as those of Life on its patterns, are such layers.
    """

    def __init__(self, objective: Objective, layers: Sequence[_Layer], shape: tuple[int, ...]) -> None:
        """Use `Pieces.of`."""
        self.objective, self.layers, self._shape = objective, layers, shape
        self.parameters = objective.template.parameters
        self.batch: Batch = objective.memory.samples(0, len(objective.memory))
        inputs = self.batch.inputs[0].to(objective.dtype).flatten(0, -2)
        self.inputs = torch.cat([inputs, torch.ones_like(inputs[:1])])[None]
        self.real = self.batch.weights[0] > 0
        #: Numbers that the largest array of one member holds.
        self.numbers = self.parameters * len(self.real) * layers[-1].places.shape[0]

    @classmethod
    def of(cls, objective: Objective) -> "Pieces | None":
        """The pieces of an objective's network; None if it is none of these."""
        network = objective.network
        if not network.sequence or network.table or objective.streamed or aliases(network.module):
            return None
        batch = objective.memory.samples(0, 32)
        if batch.inputs.shape[0] > 1 or not batch.inputs.is_floating_point():
            return None
        starts, start = {}, 0
        for name, shape in objective.template.shapes.items():
            starts[name] = start
            start += math.prod(shape)
        layers: list[_Layer] = []
        features, open_ = batch.inputs[0, ..., 0].numel(), False
        for name, module in leaves(network.module):
            if isinstance(module, nn.Linear | nn.Conv2d) and not open_:
                weight, bias = (f"{name}.{key}" if name else key for key in ("weight", "bias"))
                if module.bias is None or module.weight[0].numel() != features or getattr(module, "groups", 1) > 1:
                    return None
                out = len(module.weight)
                places = torch.arange(out * features).view(out, features) + starts[weight]
                layers.append(_Layer(torch.cat([places, torch.arange(out)[:, None] + starts[bias]], 1), 1.0))
                features, open_ = out, True
            elif type(module) in (nn.ReLU, nn.LeakyReLU) and open_:
                slope = module.negative_slope if isinstance(module, nn.LeakyReLU) else 0.0
                layers[-1], open_ = dataclasses.replace(layers[-1], slope=slope), False
            elif not isinstance(module, _SILENT):
                return None
        if not open_ or sum(layer.places.numel() for layer in layers) != objective.template.parameters:
            return None
        with torch.no_grad():
            template = objective.template.to(objective.device, objective.dtype)
            outputs = objective.network(template, batch.inputs.to(objective.dtype))
        shape = tuple(outputs.shape[1:-1])
        made = cls(objective, layers, shape)
        same = features == math.prod(shape) and torch.allclose(
            made.at(template.flatten()).outputs[..., : outputs.shape[-1]], outputs.flatten(1, -2)
        )
        return made if same else None

    def at(self, flat: Float[Tensor, "member parameter"], share: Float[Tensor, "member kink"] | None = None) -> "Piece":
        """The pieces on which members lie; `share` of each kink, without it 0 or 1 by the side."""
        return Piece(self, flat, share)

    def losses(self, outputs: Float[Tensor, "member out sample"]) -> Float[Tensor, " member"]:
        """The loss of outputs."""
        return self.objective.loss_of(outputs.view(len(outputs), *self._shape, -1), self.batch)

    def at_infinity(self, outputs: Float[Tensor, "member out sample"]) -> Bool[Tensor, " member"]:
        """Whether the loss goes to zero when the outputs grow: every target is right by a margin."""
        return self.losses(outputs * _FAR).abs() <= 1e-12

    def scalings(self, flat: Float[Tensor, "member parameter"]) -> Float[Tensor, "member unit parameter"]:
        """For each hidden unit the direction that scales what it reads up and what is read of it down: the function,
        and where its kinks lie, stays (N. Du, W. Hu, J. D. Lee, NeurIPS 2018).
        """
        found = []
        for here, after in itertools.pairwise(self.layers):
            for unit in range(len(here.places)):
                direction = torch.zeros_like(flat)
                direction[:, here.places[unit]] = flat[:, here.places[unit]]
                direction[:, after.places[:, unit]] = -flat[:, after.places[:, unit]]
                found.append(direction)
        return torch.stack(found, 1) if found else flat.new_zeros(len(flat), 0, flat.shape[1])

    def balanced(self, flat: Float[Tensor, "member parameter"], rounds: int = 20) -> Float[Tensor, "member parameter"]:
        """The same functions with weights into and out of each hidden unit of one norm: one place for all that
        rescaling makes of a network. Units that nothing reads, or that read nothing, stay.
        """
        flat = flat.clone()
        for _ in range(rounds):
            for here, after in itertools.pairwise(self.layers):
                into, out = flat[:, here.places].norm(dim=2), flat[:, after.places[:, :-1]].norm(dim=1)
                factor = torch.where((into > 0) & (out > 0), (out / into).sqrt(), 1.0)
                flat[:, here.places] *= factor[:, :, None]
                flat[:, after.places[:, :-1]] /= factor[:, None]
        return flat

    def scaled(self, flat: Float[Tensor, "member parameter"], factor: Tensor) -> Float[Tensor, "member parameter"]:
        """Outputs times a factor of each member: the last layer times it."""
        flat, last = flat.clone(), self.layers[-1].places
        flat[:, last] *= factor[:, None, None]
        return flat

    def members(self, most_bytes: int = 2**26) -> int:
        """How many at once."""
        return max(1, most_bytes // (8 * self.numbers))


class Piece:
    """What there is to know of some members: `z`, the inputs of each hidden layer's activation, [member, unit, sample];
    `outputs`, [member, out, sample]; derivatives. Kinks are numbered layer by layer, unit by unit, by sample.

    Where a whole layer is silent, the units of the next have one input, whatever the sample, and one kink: it is told
    of the first such sample, and has the jump of all; the others are infinitely far.
    """

    def __init__(self, pieces: Pieces, flat: Tensor, share: Tensor | None) -> None:
        self._pieces = pieces
        self.weights = [flat[:, layer.places] for layer in pieces.layers]
        self._read, z = [pieces.inputs], list[Tensor]()
        for weight, layer in zip(self.weights, pieces.layers, strict=True):
            z.append(weight @ self._read[-1])
            if len(z) < len(pieces.layers):
                h = torch.where(z[-1] > 0, z[-1], z[-1] * layer.slope)
                self._read.append(torch.cat([h, torch.ones_like(h[:, :1])], 1))
        *self.z, self.outputs = z
        self._none = flat.new_zeros(len(flat), 0)
        self.kinks = torch.cat([self._none, *(each.flatten(1) for each in self.z)], 1)
        self.sides = (self.kinks > 0).to(flat.dtype)
        self.share = self.sides if share is None else share
        sizes = [each[0].numel() for each in self.z]
        split = torch.split(self.share, sizes, 1)
        self._slopes, self._first, silent = list[Tensor](), list[Tensor](), torch.zeros_like(pieces.real)[None]
        for layer, part, sums in zip(pieces.layers, split, self.z, strict=False):
            own = torch.arange(sums.shape[2], device=sums.device)
            first = torch.where(silent, silent.to(torch.uint8).argmax(1, keepdim=True), own)
            self._first.append(first[:, None].expand_as(sums))
            slope = layer.slope + (1 - layer.slope) * part.view_as(sums).gather(2, self._first[-1])
            silent = pieces.real & ((slope == 0) & (sums <= 0)).all(1)
            self._slopes.append(slope)

    @functools.cached_property
    def loss(self) -> Float[Tensor, " member"]:
        """Of each member."""
        return self._pieces.losses(self.outputs)

    @functools.cached_property
    def _bent(self) -> tuple[Tensor, Tensor]:
        """Derivatives of the loss in the outputs: [member, out, sample], second ones [member, out, out, sample]."""
        leaf = self.outputs.detach().requires_grad_()
        with torch.enable_grad():
            (first,) = torch.autograd.grad(self._pieces.losses(leaf).sum(), leaf, create_graph=True)
            rows = [
                torch.autograd.grad(first[:, o].sum(), leaf, retain_graph=True, materialize_grads=True)[0]
                if first.requires_grad
                else torch.zeros_like(leaf)
                for o in range(leaf.shape[1])
            ]
        return first.detach(), torch.stack(rows, 1)

    @functools.cached_property
    def _back(self) -> list[Tensor]:
        """Derivative of the outputs in each layer's sums, [member, out, unit, sample]."""
        m, o, s = self.outputs.shape
        found = [
            torch.eye(o, dtype=self.outputs.dtype, device=self.outputs.device)[None, :, :, None].expand(m, o, o, s)
        ]
        for weight, slope in zip(reversed(self.weights[1:]), reversed(self._slopes), strict=True):
            found.append(torch.einsum("mois,mij->mojs", found[-1], weight[:, :, :-1]) * slope[:, None])
        return found[::-1]

    @functools.cached_property
    def _pulls(self) -> list[Tensor]:
        """Derivative of the loss in each layer's sums, [member, unit, sample]."""
        return [torch.einsum("mos,mous->mus", self._bent[0], each) for each in self._back]

    def _flat(self, blocks: Sequence[Tensor]) -> Tensor:
        """Blocks [..., out, in and one] of each layer as vectors of parameters, in the order of `Stack.flatten`."""
        joined = torch.cat([block.flatten(-2) for block in blocks], -1)
        order = torch.cat([layer.places.flatten() for layer in self._pieces.layers]).argsort()
        return joined[..., order]

    @functools.cached_property
    def gradient(self) -> Float[Tensor, "member parameter"]:
        """Of the loss, with the slopes that `share` says."""
        return self._flat([pull @ read.mT for pull, read in zip(self._pulls, self._read, strict=True)])

    @functools.cached_property
    def jacobian(self) -> Float[Tensor, "member out_sample parameter"]:
        """Of the outputs."""
        m = len(self.outputs)
        blocks = [
            torch.einsum("mous,mis->mosui", back, read.expand(m, -1, -1)).flatten(1, 2)
            for back, read in zip(self._back, self._read, strict=True)
        ]
        return self._flat(blocks)

    @functools.cached_property
    def hessian(self) -> Float[Tensor, "member parameter parameter"]:
        """Of the loss: what the loss bends, J^T q J, and what products of layers bend."""
        m, o, s = self.outputs.shape
        bent = self._bent[1]
        jacobian = self.jacobian
        by_out = jacobian.view(m, o, s, -1)
        pushed = torch.einsum("mops,mpsk->mosk", bent, by_out) if o > 1 else by_out * bent.view(m, 1, s, 1)
        total = jacobian.mT @ pushed.flatten(1, 2)
        places = [layer.places for layer in self._pieces.layers]
        for last in range(1, len(self.weights)):
            for first in range(last):
                inner = self._inner(first, last - 1)  # [member, j, a, sample]
                mixed = torch.einsum("mis,mjas->mijas", self._pulls[last], inner)
                read = self._read[first]
                block = mixed.flatten(1, 3) @ read.mT  # [member, (i, j, a), b]
                i, j, a = mixed.shape[1:4]
                block = block.view(m, i * j, a * read.shape[1])
                rows, columns = places[last][:, :-1].flatten(), places[first].flatten()
                total[:, rows[:, None], columns] += block
                total[:, columns[:, None], rows] += block.mT
        return total

    def _inner(self, first: int, last: int) -> Tensor:
        """Derivative of the values of a hidden layer in the sums of an earlier one: [member, unit, earlier, sample]."""
        slope = self._slopes[first]
        units = slope.shape[1]
        found: Tensor = slope[:, :, None] * torch.eye(units, dtype=slope.dtype, device=slope.device)[None, :, :, None]
        for layer in range(first + 1, last + 1):
            found = torch.einsum("mij,mjas->mias", self.weights[layer][:, :, :-1], found)
            found = found * self._slopes[layer][:, :, None]
        return found

    def _sums(self, first: int, last: int) -> Tensor:
        """Derivative of the sums of a hidden layer in those of an earlier one, or in its own."""
        if first == last:
            m, units, samples = self.z[last].shape
            eye = torch.eye(units, dtype=self.outputs.dtype)
            return eye[None, :, :, None].expand(m, units, units, samples)
        return torch.einsum("mij,mjas->mias", self.weights[last][:, :, :-1], self._inner(first, last - 1))

    @functools.cached_property
    def jumps(self) -> Float[Tensor, "member kink"]:
        """By how much the derivative of the loss in a kink's input grows from its negative to its positive side."""
        found = [self._none]
        for number, layer in enumerate(self._pieces.layers[:-1]):
            values = self.weights[number + 1][:, :, :-1].mT @ self._pulls[number + 1]
            values = torch.zeros_like(values).scatter_add(2, self._first[number], values)
            found.append((values * (1 - layer.slope)).flatten(1))
        return torch.cat(found, 1)

    @functools.cached_property
    def distances(self) -> Float[Tensor, "member kink"]:
        """How far each kink is away, to first order; infinite on samples that weigh nothing."""
        found = [self._none]
        for last, z in enumerate(self.z):
            square = sum(
                self._sums(first, last).square().sum(2) * self._read[first].square().sum(1, keepdim=True)
                for first in range(last + 1)
            )
            distance = z.abs() / torch.as_tensor(square).sqrt()
            own = self._first[last] == torch.arange(z.shape[2], device=z.device)
            found.append(torch.where(self._pieces.real & own, distance, torch.inf).flatten(1))
        return torch.cat(found, 1)

    def normals(self, kinks: Int[Tensor, "member some"]) -> Float[Tensor, "member some parameter"]:
        """Gradients of the inputs of some kinks of each member."""
        m, samples = len(kinks), self.outputs.shape[-1]
        unit, sample = kinks // samples, kinks % samples
        rows = torch.arange(m, device=kinks.device)[:, None]
        total = torch.zeros(m, kinks.shape[1], self._pieces.parameters, dtype=self.outputs.dtype, device=kinks.device)
        start = 0
        for last, z in enumerate(self.z):
            mine = (unit >= start) & (unit < start + z.shape[1])
            own = (unit - start).clamp(0, z.shape[1] - 1)
            blocks = [
                torch.zeros(m, kinks.shape[1], *layer.places.shape, dtype=z.dtype, device=z.device)
                for layer in self._pieces.layers
            ]
            for first in range(last + 1):
                read = self._read[first]
                seen = read.expand(m, -1, -1)[rows, :, sample]
                pull = self._sums(first, last)[rows, own, :, sample]
                blocks[first] = pull[..., :, None] * seen[..., None, :]
            total = torch.where(mine[..., None], self._flat(blocks), total)
            start += z.shape[1]
        return total
