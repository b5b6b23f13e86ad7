"""Products of weights with data of many members, and what convolutions read, samples last."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ceil_div", "fold", "product", "reach", "shared_product", "windows"]

#: Rows of a block of `shared_product`: whole groups of the 4, 6 or 8 that matrix libraries take at once, since what is
#: left over they sum otherwise.
_BLOCK_ROWS = 24


def ceil_div(count: int, size: int) -> int:
    """How many parts of a size hold a count."""
    return -(-count // size)


def product(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """Batched `weight @ x + bias`: [member, out, in] with [1 or member, in, position]."""
    if x.shape[0] > 1:
        return weight @ x if bias is None else torch.baddbmm(bias[..., None], weight, x)
    shared = x[0]
    if bias is not None:  # as one more input that is always 1: spares a pass over the result
        weight = torch.cat([weight, bias[..., None]], dim=2)
        shared = torch.cat([shared, torch.ones_like(shared[:1])])
    return shared_product(weight, shared)


def shared_product(
    rows: Float[Tensor, "member out in"], shared: Float[Tensor, "in position"]
) -> Float[Tensor, "member out position"]:
    """`rows @ shared`, the rows of all members together, none of whose numbers depends on how many others there are.

    Matrix libraries choose by the shape of a product how they sum it: below 16 rows otherwise than above, and of few
    rows a part of the sum in each thread. Here each product has the same shape, that of a block of rows; there are as
    many blocks for each thread, so that no two threads share one. (On a GPU it is one product.)
    """
    flat = rows.flatten(0, 1)
    if flat.device.type != "cpu":
        return (flat @ shared).view(*rows.shape[:2], -1)
    extra = -len(flat) % (_BLOCK_ROWS * torch.get_num_threads())
    blocks = F.pad(flat, (0, 0, 0, extra)).view(-1, _BLOCK_ROWS, flat.shape[1])
    result = blocks @ shared.expand(len(blocks), *shared.shape)
    return result.flatten(0, 1)[: len(flat)].view(*rows.shape[:2], -1)


#: Kernel, stride, dilation and padding of a convolution that reads each place alone.
_POINTWISE = ((1, 1), (1, 1), (1, 1), (0, 0))


def windows(
    layer: nn.Conv2d, x: Float[Tensor, "members channel height width sample"]
) -> Float[Tensor, "members in out_height out_width sample"]:
    """What each place of a convolution's output reads: its channels, and the places of its kernel, as one axis."""
    where = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    if where == _POINTWISE:
        return x
    read: Tensor = _Unfold.apply(x, *where) if x.requires_grad else _unfold(x, *where)  # type: ignore[no-untyped-call]
    return read


def fold(
    layer: nn.Conv2d, pull: Float[Tensor, "members in out_height out_width sample"], shape: torch.Size
) -> Float[Tensor, "members channel height width sample"]:
    """The adjoint of `windows`: adds each number to the place that it was read from, in data of this `shape`."""
    where = layer.kernel_size, layer.stride, layer.dilation, layer.padding
    return pull if where == _POINTWISE else _fold(pull, shape, *where)


def _unfold(x: Tensor, kernel: Any, stride: Any, dilation: Any, padding: Any) -> Tensor:
    x = (F.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0])) if any(padding) else x).contiguous()
    members, channels, height, width, samples = x.shape
    out = [
        (size - d * (k - 1) - 1) // s + 1
        for size, d, k, s in zip((height, width), dilation, kernel, stride, strict=True)
    ]
    rows, columns = width * samples, samples  # numbers from one row, and one column, to the next
    steps = (height * rows, dilation[0] * rows, dilation[1] * columns, stride[0] * rows, stride[1] * columns)
    read = x.as_strided(
        (members, channels, *kernel, *out, samples), (channels * steps[0], *steps, 1), x.storage_offset()
    )
    return read.reshape(members, -1, *out, samples)


def _fold(pull: Tensor, shape: Any, kernel: Any, stride: Any, dilation: Any, padding: Any) -> Tensor:
    members, channels, height, width, samples = shape
    out = pull.shape[2:4]
    pull = pull.reshape(members, channels, *kernel, *out, samples)
    # Along columns for all rows of the kernel at once, then along rows.
    wide = pull.new_zeros(members, channels, kernel[0], out[0], width + 2 * padding[1], samples)
    for j in range(kernel[1]):
        wide[:, :, :, :, reach(j, out[1], stride[1], dilation[1])] += pull[:, :, :, j]
    result = pull.new_zeros(members, channels, height + 2 * padding[0], width + 2 * padding[1], samples)
    for i in range(kernel[0]):
        result[:, :, reach(i, out[0], stride[0], dilation[0])] += wide[:, :, i]
    return result[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]


def reach(place: int, out: int, stride: int, dilation: int) -> slice:
    """What one place of the kernel reads along an axis, for each place of the output."""
    first = place * dilation
    return slice(first, first + (out - 1) * stride + 1, stride)


class _Unfold(torch.autograd.Function):
    """`_unfold` for autograd, which would add nine mostly empty tensors of the data's size on its way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *where: Any) -> Tensor:
        ctx.where, ctx.shape = where, x.shape
        return _unfold(x, *where)

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> Any:
        folded = _Fold.apply(pulls[0], ctx.shape, *ctx.where)  # type: ignore[no-untyped-call]
        return folded, None, None, None, None


class _Fold(torch.autograd.Function):
    """The adjoint of `_Unfold`, whose own adjoint that is: so derivatives of any order exist."""

    @staticmethod
    def forward(ctx: Any, pull: Tensor, shape: Any, *where: Any) -> Tensor:
        ctx.where = where
        return _fold(pull, shape, *where)

    @staticmethod
    def backward(ctx: Any, *pulls: Tensor) -> Any:
        return _Unfold.apply(pulls[0], *ctx.where), None, None, None, None, None  # type: ignore[no-untyped-call]
