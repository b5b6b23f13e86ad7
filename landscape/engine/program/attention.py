"""Attention of many members at once, samples first."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.engine.program.layers import Own, dropped, linear
from landscape.engine.program.layout import Value

__all__ = ["FORWARDS", "attend", "multihead", "plain_attention"]


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """PyTorch's attention by its formula: the fused kernels have no second derivative, and `vmap` knows them not."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def attend(
    own: Own,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """What `F.scaled_dot_product_attention` computes."""
    if enable_gqa or not 2 <= query.rank == key.rank == value.rank or (dropout_p and own.draw is None):
        return NotImplemented
    mask = None
    if attn_mask is not None:
        if attn_mask.rank > query.rank:
            return NotImplemented
        mask = attn_mask.samples_first()
        mask = mask.reshape(len(mask), *(1 for _ in range(query.rank - attn_mask.rank)), *mask.shape[1:])
        mask = _added(mask, allowed=mask) if mask.dtype == torch.bool else mask
    q, k, v = (each.samples_first() for each in (query, key, value))
    if is_causal:
        mask = _added(q, allowed=torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril())
    return Value(_attention(own, q, k, v, mask, dropout_p, scale)[0], last=False)


def _added(like: Tensor, *, allowed: Tensor) -> Tensor:
    """A mask of booleans as what is added to the scores."""
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(allowed.shape, dtype=dtype, device=like.device).masked_fill(~allowed, -math.inf)


def _attention(
    own: Own, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention and its weights: softmax of the scaled, masked products of queries and keys."""
    scores = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    weights = scores.softmax(-1)
    if dropout and own.draw is not None:
        weights = dropped(weights, own.draw(tuple(weights.shape[1:])), dropout)
    return weights @ v, weights


def multihead(layer: nn.MultiheadAttention) -> Callable[..., Any] | None:
    """`nn.MultiheadAttention` of sequences in batches, without key and value biases."""
    if not layer._qkv_same_embed_dim or layer.bias_k is not None or layer.add_zero_attn:
        return None

    def apply(
        own: Own,
        query: Value,
        key: Value,
        value: Value,
        key_padding_mask: Value | None = None,
        need_weights: bool = True,
        attn_mask: Value | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> Any:
        if query.rank != 3 or (attn_mask is not None and attn_mask.rank != 2):
            return NotImplemented
        q, k, v = _heads(own, layer, (query, key, value))
        mask = _mask(q, key_padding_mask, attn_mask)
        outputs, weights = _attention(own, q, k, v, mask, layer.dropout, None)
        together = Value(outputs.transpose(2, 3).flatten(3), last=False)
        result = linear(together, own.tensors["out_proj.weight"], own.tensors.get("out_proj.bias"))
        if not layer.batch_first:
            result = Value(result.samples_first().transpose(1, 2), last=False)
        if not need_weights:
            return result, None
        return result, Value(weights.mean(2) if average_attn_weights else weights, last=False)

    return apply


def _heads(own: Own, layer: nn.MultiheadAttention, three: tuple[Value, Value, Value]) -> list[Tensor]:
    """Queries, keys and values of each head, [member, sample, head, position, feature]."""
    weight, bias = own.tensors["in_proj_weight"], own.tensors.get("in_proj_bias")
    if three[0] is three[1] is three[2]:
        parts = linear(three[0], weight, bias).samples_first().chunk(3, -1)
    else:
        weights = weight.chunk(3, 1)
        biases = [None] * 3 if bias is None else bias.chunk(3, 1)
        parts = tuple(linear(*each).samples_first() for each in zip(three, weights, biases, strict=True))
    if not layer.batch_first:
        parts = tuple(part.transpose(1, 2) for part in parts)
    return [torch.unflatten(part, -1, (layer.num_heads, -1)).transpose(2, 3) for part in parts]


def _mask(like: Tensor, key_padding_mask: Value | None, attn_mask: Value | None) -> Tensor | None:
    """What is added to the scores; in masks of booleans, here, True is left out."""
    mask = None
    if attn_mask is not None:
        each = attn_mask.samples_first()[:, None, None]
        mask = _added(like, allowed=~each) if each.dtype == torch.bool else each
    if key_padding_mask is not None:
        each = key_padding_mask.samples_first()[:, :, None, None]
        each = _added(like, allowed=~each) if each.dtype == torch.bool else each
        mask = each if mask is None else mask + each
    return mask


def encoder_layer(
    layer: nn.TransformerEncoderLayer,
    x: Any,
    src_mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: Any = False,
) -> Any:
    """The forward of a transformer's layer without PyTorch's choice of fused kernels, for tracing."""

    def attention(x: Any) -> Any:
        outputs = layer.self_attn(
            x, x, x, attn_mask=src_mask, key_padding_mask=src_key_padding_mask, need_weights=False
        )[0]
        return layer.dropout1(outputs)

    def feed_forward(x: Any) -> Any:
        inner = layer.dropout(layer.activation(layer.linear1(x)))
        return layer.dropout2(layer.linear2(inner))

    if layer.norm_first:
        x = x + attention(layer.norm1(x))
        return x + feed_forward(layer.norm2(x))
    x = layer.norm1(x + attention(x))
    return layer.norm2(x + feed_forward(x))


def encoder(
    stack: nn.TransformerEncoder,
    x: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: Any = None,
) -> Any:
    """The forward of a transformer's layers one after another, for tracing."""
    for layer in stack.layers:
        x = layer(x, mask, src_key_padding_mask)
    return x if stack.norm is None else stack.norm(x)


#: Forwards to trace in the place of PyTorch's own.
FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
}
