"""Attention, rotary positions and embeddings of Microsoft's domain, which ONNX Runtime's optimizer writes."""

from __future__ import annotations

from ....ir.dims.dim import Dim, const
from ....ir.graph import Value
from ....ir.types import boolean, i32
from ..call import Call
from ..registry import MICROSOFT, imports
from .attention import cached, fitting, given, join_heads, scaling, split_heads
from .contraction import product


def biased(c: Call, x: Value, index: int) -> Value:
    """``x`` plus an operand along its last axis, if that is given."""
    if not c.has(index):
        return x
    c.equal(x.type.shape[-1], c.shape(index)[-1], f"the bias {c.type(index)} of {x.type}")
    return c.op("add", x, c.x(index, "bias"))


@imports("RotaryEmbedding", domain=MICROSOFT)
def rotary(c: Call) -> Value:
    if c.attr("is_packed_batching", 0) or c.attr("scale", 1.0) != 1.0:
        c.refuse("packed batching or a scale")
    x, heads = c.x(), c.attr("num_heads", 0)
    flat = x.type.rank == 3
    cosine, sine = c.x(2), c.x(3)
    if flat:
        heads = heads or int(x.type.shape[2] // (cosine.type.shape[1] * 2))
        x = split_heads(c, x, heads)
    tokens = x.type.shape[2]
    position = c.x(1)
    if position.type.rank == 1:  # the first position of all rows
        c.equal(position.type.shape[0], const(1), f"the position {position.type}")
        position = c.op("unsqueeze", c.op("add", position, c.op("iota", n=tokens)), axis=0)
    for axis, dim in ((0, x.type.shape[0]), (1, tokens)):
        if position.type.shape[axis] != 1 or axis == 1:
            c.equal(position.type.shape[axis], dim, f"axis {axis} of the positions {position.type}")
    cosine, sine = (c.op("take", table, position) for table in (cosine, sine))
    y = c.std("attention.rope", x, cosine, sine, interleaved=bool(c.attr("interleaved", 0)))
    return join_heads(c, y) if flat else y


@imports("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(c: Call) -> list[Value | None]:
    heads = c.attr("num_heads", 0)
    if not c.has(1) or not c.has(2) or c.rank(0) != 3:
        c.refuse("packed operands of MultiHeadAttention")
    if c.has(8) or c.has(9):
        c.refuse("a shared buffer of MultiHeadAttention")
    q, k, v = c.x(0), c.x(1), c.x(2)
    if c.has(3) and k.type.rank == 4:
        c.refuse("a bias beside keys that are split already")
    if c.has(3):
        bias, at = c.x(3, "bias"), const(0)
        parts = []
        for value in (q, k, v):
            width = value.type.shape[-1]
            parts.append(c.op("add", value, c.op("slice", bias, axis=0, start=at, stop=at + width)))
            at = at + width
        q, k, v = parts
    if k.type.rank == 4 and c.attr("unidirectional", 0):
        c.refuse("attention to other tokens, but only to those before,")
    q = split_heads(c, q, heads)
    k, v = (x if x.type.rank == 4 else split_heads(c, x, heads) for x in (k, v))
    past = const(0)
    if c.has(6) and c.has(7):
        past = c.shape(6)[2]
        k, v = cached(c, 6, k), cached(c, 7, v)
    return [_attend(c, q, k, v, 4, 5, past), k, v]


@imports("Attention", domain=MICROSOFT)
def attention(c: Call) -> list[Value | None]:
    heads = c.attr("num_heads", 0)
    if c.attr("do_rotary", 0) or c.attr("past_present_share_buffer", 0) or c.has(6):
        c.refuse("a shared buffer or rotary positions of Attention")
    packed = biased(c, product(c, c.x(), 1), 2)
    sizes = c.attr("qkv_hidden_sizes") or [int(packed.type.shape[-1]) // 3] * 3
    parts, at = [], 0
    for size in sizes:
        parts.append(split_heads(c, c.op("slice", packed, axis=2, start=at, stop=at + size), heads))
        at += size
    q, k, v = parts
    past, present = const(0), None
    if c.has(4):
        past = c.shape(4)[3]
        k, v = (_after(c, i, x) for i, x in enumerate((k, v)))
    if any(c.node.output[1:]):
        present = c.op("concat", *(c.op("unsqueeze", x, axis=0) for x in (k, v)), axis=0)
    return [_attend(c, q, k, v, 3, 5, past), present]


def _after(c: Call, part: int, new: Value) -> Value:
    """Keys (0) or values (1) after those of the cache [2, B, heads, P, K]."""
    old = c.op("squeeze", c.op("slice", c.x(4), axis=0, start=part, stop=part + 1), axis=0)
    for axis in (0, 1, 3):
        c.equal(old.type.shape[axis], new.type.shape[axis], f"axis {axis} of the cache {old.type}")
    return c.op("concat", old, new, axis=2)


def _attend(c: Call, q: Value, k: Value, v: Value, mask_at: int, bias_at: int, past: Dim) -> Value:
    """Attention [B, T, heads * K] with the mask and the bias that are given."""
    fitting(c, q, k, v)
    batch, heads, tokens, keys = *q.type.shape[:3], k.type.shape[2]
    mask = _mask(c, mask_at, batch, tokens, keys)
    bias = c.x(bias_at) if c.has(bias_at) else None
    if bias is not None:
        for axis, dim in enumerate((batch, heads, tokens, keys)):
            if bias.type.shape[axis] != 1 or axis == 3:
                c.equal(bias.type.shape[axis], dim, f"axis {axis} of the bias {bias.type}")
    causal = bool(c.attr("unidirectional", 0))
    if causal:  # what that means where the numbers of tokens differ is not the same in all of ONNX Runtime
        c.equal(keys, tokens + past, "the tokens before which attention stops")
    q, scale = scaling(c, q, c.attr("scale", 0.0) or None)
    return join_heads(c, c.std("attention.attention", q, k, v, mask, bias, **given({"causal": causal, "scale": scale})))


def _mask(c: Call, index: int, batch: Dim, tokens: Dim, keys: Dim) -> Value | None:
    """Which keys count: from a mask [B, S], [B, T, S] or [B, 1, T, S] where it is above 0, or from the lengths [B] of the rows."""
    if not c.has(index):
        return None
    mask = c.x(index)
    if mask.type.rank == 1:
        if mask.type.shape[0] != batch and (mask.type.shape[0].value or 0) != (batch.value or -1):
            c.refuse(f"a mask {mask.type}, which is not one length for each of the {batch} rows,")
        length = c.op("unsqueeze", mask, axis=(1, 2, 3))
        return c.op("lt", c.op("iota", n=keys, dtype=mask.type.dtype), length)
    sizes = {2: (batch, keys), 3: (batch, tokens, keys), 4: (batch, const(1), tokens, keys)}.get(mask.type.rank)
    if sizes is None:
        c.refuse(f"a mask {mask.type}")
    for axis, dim in enumerate(sizes):
        if mask.type.shape[axis] != 1 or axis == len(sizes) - 1:
            c.equal(mask.type.shape[axis], dim, f"axis {axis} of the mask {mask.type}")
    mask = mask if mask.type.dtype == boolean else c.op("gt", mask, c.like(0, mask))
    return mask if mask.type.rank == 4 else c.op("unsqueeze", mask, axis=(1, 2) if mask.type.rank == 2 else 1)


@imports("EmbedLayerNormalization", domain=MICROSOFT)
def embed_layer_normalization(c: Call) -> list[Value | None]:
    ids = c.x()
    y = c.op("take", c.x(2, "weight"), ids)
    if c.has(8):
        position = c.op("take", c.x(3, "weight"), c.x(8))
    else:
        position = c.op("slice", c.x(3, "weight"), axis=0, start=0, stop=ids.type.shape[1])
    c.broadcast(c.tensor_of(y), c.tensor_of(position))
    y = c.op("add", y, position)
    if c.has(1) and c.has(4):
        kind = c.op("take", c.x(4, "weight"), c.x(1))
        c.broadcast(c.tensor_of(y), c.tensor_of(kind))
        y = c.op("add", y, kind)
    total = y
    y = c.std("nn.layer_normalize", y, c.x(5, "weight"), c.x(6, "bias"), eps=c.attr("epsilon", 1e-12))
    if c.has(7):
        lengths = c.op("sum", c.cast(c.op("eq", c.x(7), c.like(1, c.x(7))), i32), axis=1)
    else:
        lengths = c.op("full", shape=(ids.type.shape[0],), value=0, dtype=i32)
    return [y, lengths, total]


@imports("BiasGelu", "FastGelu", domain=MICROSOFT)
def bias_gelu(c: Call) -> Value:
    return c.std("nn.gelu" if c.op_type == "BiasGelu" else "nn.gelu_tanh", biased(c, c.x(), 1))


@imports("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=MICROSOFT)
def skip_layer_normalization(c: Call) -> list[Value | None]:
    simple = "Simplified" in c.op_type
    c.broadcast(c.tensor(0), c.tensor(1))
    total = biased(c, c.op("add", c.x(), c.x(1)), 3 if simple else 4)
    eps = c.attr("epsilon", 1e-12)
    c.equal(total.type.shape[-1], c.shape(2)[0], f"the weight {c.type(2)} of {total.type}")
    if simple:
        y = c.std("nn.rms_normalize", total, c.x(2, "weight"), eps=eps)
    else:
        y = c.std("nn.layer_normalize", total, c.x(2, "weight"), c.maybe(3, "bias"), eps=eps)
    return [y, None, None, total]
