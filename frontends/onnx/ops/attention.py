"""Attention and rotary positions as ONNX (opset 23 and 24) and Microsoft's domain have them."""

from __future__ import annotations

import math
from typing import Any

from ....ir.dims.dim import Dim, const
from ....ir.graph import Value
from ....ir.types import boolean, i64, u8
from ..call import Call
from ..registry import imports


def split_heads(c: Call, x: Value, heads: int) -> Value:
    """[B, T, heads * K] to [B, heads, T, K]."""
    width = x.type.shape[2]
    c.equal(width // heads * heads, width, f"the {heads} heads of {x.type}")
    return c.op("rearrange", x, pattern="b t (h k) -> b h t k", axes=(("h", heads),))


def join_heads(c: Call, x: Value) -> Value:
    return c.op("rearrange", x, pattern="b h t k -> b t (h k)")


@imports("Attention")
def attention(c: Call) -> list[Value | None]:
    heads, kv_heads = c.attr("q_num_heads", 0), c.attr("kv_num_heads", 0)
    q, k, v = c.x(0), c.x(1), c.x(2)
    flat = q.type.rank == 3
    if flat:
        if heads < 1 or kv_heads < 1:
            c.misfit("q_num_heads and kv_num_heads must be given for operands of three axes")
        q, k, v = split_heads(c, q, heads), split_heads(c, k, kv_heads), split_heads(c, v, kv_heads)
    past = None
    if c.has(4) and c.has(5):
        past = c.shape(4)[2]
        k, v = cached(c, 4, k), cached(c, 5, v)
    fitting(c, q, k, v)
    mask, bias = _mask(c, c.x(3) if c.has(3) else None, q, k)
    softcap = c.attr("softcap", 0.0)
    if softcap and bias is not None and c.opset < 24:
        c.refuse("softcap together with an additive mask, whose order changed with opset 24,")
    tokens, keys = q.type.shape[2], k.type.shape[2]
    if c.has(6):
        c.equal(c.shape(6)[0], q.type.shape[0], f"the rows of {c.type(6)} and {q.type}")
    causal = bool(c.attr("is_causal", 0))
    offset = past if past is not None else const(0)
    if c.has(6):
        # Keys beyond a row's own number are padding; queries are the last of those that count.
        mask = both(c, mask, _within(c, keys))
        if causal:
            length = c.op("reshape", c.cast(c.x(6), i64), shape=(c.shape(6)[0], 1, 1, 1))
            first = c.op("sub", length, c.number(tokens))
            mask = both(c, mask, not_after(c, keys, c.op("add", first, rows(c, tokens))))
            causal = False
    if causal and keys != tokens + offset:
        mask = both(c, mask, not_after(c, keys, c.op("add", rows(c, tokens), c.number(offset))))
        causal = False
    mask = _window(c, mask, tokens, keys, offset)
    attrs: dict[str, Any] = {"causal": causal}
    scaled, attrs["scale"] = scaling(c, q, c.attr("scale"))
    if softcap:
        attrs["softcap"] = softcap
    y = c.std("attention.attention", scaled, k, v, mask, bias, **given(attrs))
    scores = None
    if len(c.node.output) > 3 and c.node.output[3]:
        if causal:
            mask = both(c, mask, not_after(c, keys, rows(c, tokens)))
        scores = _scores(c, q, k, mask, bias)
    return [join_heads(c, y) if flat else y, k, v, scores]


def _window(c: Call, mask: Value | None, tokens: Dim, keys: Dim, offset: Dim) -> Value | None:
    """Keys that lie too far before or behind the query are left out. Where a row's own number of keys counts, its queries are
    the last of these."""
    for name, before in (("left_window_size", True), ("right_window_size", False)):
        reach = c.attr(name, -1)
        if reach < 0:
            continue
        first = c.number(offset)
        if c.has(6):
            length = c.op("reshape", c.cast(c.x(6), i64), shape=(c.shape(6)[0], 1, 1, 1))
            first = c.op("sub", length, c.number(tokens))
        ahead = c.op("sub", c.op("add", rows(c, tokens), first), c.op("unsqueeze", c.op("iota", n=keys), axis=0))
        near = c.op("le", ahead if before else c.op("neg", ahead), c.scalar(reach, i64))
        mask = both(c, mask, near if near.type.rank == 4 else c.op("unsqueeze", near, axis=(0, 1)))
    return mask


def _scores(c: Call, q: Value, k: Value, mask: Value | None, bias: Value | None) -> Value:
    """What the fourth result is asked for: products (0), capped (1), with masks (2), or what softmax makes of them (3)."""
    mode, softcap = c.attr("qk_matmul_output_mode", 0), c.attr("softcap", 0.0)
    if c.opset < 24 and softcap and mode in (1, 2):
        c.refuse("capped scores, whose order changed with opset 24,")
    if k.type.shape[1] != q.type.shape[1]:
        heads, kv_heads = q.type.shape[1], k.type.shape[1]
        c.equal(heads // kv_heads * kv_heads, heads, f"the heads of {q.type} and {k.type}")
        shape = (*k.type.shape[:2], q.type.shape[1] // k.type.shape[1], *k.type.shape[2:])
        k = c.reshape(c.expand(c.op("unsqueeze", k, axis=2), shape), (*q.type.shape[:2], *k.type.shape[2:]))
    q, scale = scaling(c, q, c.attr("scale"))
    if scale is None:
        scale = int(q.type.shape[3]) ** -0.5
    y = c.op("mul", c.op("einsum", q, k, equation="b h t k, b h s k -> b h t s"), c.like(scale, q))
    if mode >= 1 and softcap:
        y = c.op("mul", c.op("tanh", c.op("div", y, c.like(softcap, y))), c.like(softcap, y))
    if mode >= 2 or (mode == 1 and c.opset < 24):
        y = y if bias is None else c.op("add", y, bias)
        y = y if mask is None else c.op("where", mask, y, c.like(-math.inf, y))
    if mode != 3:
        return y
    # A row of which every key is hidden has no softmax; ONNX gives zeros.
    hidden = c.op("eq", c.op("max", y, axis=3, keepdims=True), c.like(-math.inf, y))
    return c.op("where", hidden, c.like(0, y), c.std("nn.softmax", y))


def scaling(c: Call, q: Value, scale: float | None) -> tuple[Value, float | None]:
    """Queries and the number by which their scores are scaled, None for the usual one; where that comes of a free size, the
    queries are scaled themselves."""
    width = q.type.shape[3]
    if scale is not None or width.value is not None:
        return q, scale
    return c.op("mul", q, c.op("rsqrt", c.cast(c.number(width), q.type.dtype))), 1.0


def given(attrs: dict[str, Any]) -> dict[str, Any]:
    """The attributes that are there."""
    return {name: value for name, value in attrs.items() if value is not None}


def fitting(c: Call, q: Value, k: Value, v: Value) -> None:
    """Operands [B, heads, T, K], of which free sizes become equal where they must be."""
    rows = ((q, k, 0, "batch"), (k, v, 0, "batch"), (k, v, 1, "heads"), (k, v, 2, "tokens"), (q, k, 3, "features"))
    for a, b, axis, what in rows:
        c.equal(a.type.shape[axis], b.type.shape[axis], f"the {what} of {a.type} and {b.type}")


def cached(c: Call, index: int, new: Value) -> Value:
    """A cache [B, heads, P, K] and what comes after it."""
    for axis in (0, 1, 3):
        c.equal(c.shape(index)[axis], new.type.shape[axis], f"axis {axis} of the cache {c.type(index)}")
    return c.op("concat", c.x(index), new, axis=2)


def rows(c: Call, tokens: Dim) -> Value:
    return c.op("unsqueeze", c.op("iota", n=tokens), axis=-1)


def not_after(c: Call, keys: Dim, row: Value) -> Value:
    """``bool[…, T, S]``: keys up to the row's own position."""
    seen = c.op("le", c.op("unsqueeze", c.op("iota", n=keys), axis=0), row)
    return seen if seen.type.rank == 4 else c.op("unsqueeze", seen, axis=(0, 1))


def _within(c: Call, keys: Dim) -> Value:
    length = c.op("reshape", c.cast(c.x(6), i64), shape=(c.shape(6)[0], 1, 1, 1))
    return c.op("lt", c.op("reshape", c.op("iota", n=keys), shape=(1, 1, 1, keys)), length)


def both(c: Call, a: Value | None, b: Value) -> Value:
    return b if a is None else c.op("logical_and", a, b)


def _mask(c: Call, mask: Value | None, q: Value, k: Value) -> tuple[Value | None, Value | None]:
    """A mask with four axes, as booleans or as what is added to the scores."""
    if mask is None:
        return None, None
    if mask.type.rank < 4:
        mask = c.reshape(mask, (*[1] * (4 - mask.type.rank), *mask.type.shape))
    keys = k.type.shape[2]
    if mask.type.shape[3] == 1 and keys != 1:
        mask = c.expand(mask, (*mask.type.shape[:3], keys))
    missing = (keys - mask.type.shape[3]).value
    if missing and missing > 0 and c.opset >= 24:  # keys behind the mask are hidden
        if mask.type.dtype == boolean:
            mask = c.cast(c.op("pad", c.cast(mask, u8), axis=3, after=missing), boolean)
        else:
            mask = c.op("pad", mask, axis=3, after=missing, value=-math.inf)
    sizes = (*q.type.shape[:3], keys)
    for axis, (size, what) in enumerate(zip(sizes, ("batch", "heads", "queries", "keys"), strict=True)):
        if mask.type.shape[axis] != 1:
            c.equal(mask.type.shape[axis], size, f"the {what} of the mask {mask.type}")
    return (mask, None) if mask.type.dtype == boolean else (None, mask)


@imports("RotaryEmbedding")
def rotary(c: Call) -> Value:
    x, heads = c.x(), c.attr("num_heads", 0)
    flat = x.type.rank == 3
    if flat:
        if heads < 1:
            c.misfit("num_heads must be given for an operand of three axes")
        x = split_heads(c, x, heads)
    cosine, sine = c.x(1), c.x(2)
    at = 3 if c.has(3) else 1
    for axis, dim in ((0, x.type.shape[0]), (1, x.type.shape[2])):
        if c.shape(at)[axis] != 1:
            c.equal(c.shape(at)[axis], dim, f"axis {axis} of {c.type(at)} and the operand {c.type()}")
    for axis, (d, e) in enumerate(zip(cosine.type.shape, sine.type.shape, strict=True)):
        c.equal(d, e, f"axis {axis} of {cosine.type} and {sine.type}")
    if c.has(3):
        cosine, sine = (c.op("take", table, c.x(3)) for table in (cosine, sine))
    part = c.attr("rotary_embedding_dim", 0)
    if part and cosine.type.shape[-1] != part // 2:
        cosine, sine = (c.op("slice", t, axis=2, start=0, stop=part // 2) for t in (cosine, sine))
    y = c.std("attention.rope", x, cosine, sine, interleaved=bool(c.attr("interleaved", 0)))
    return join_heads(c, y) if flat else y


@imports("TensorScatter")
def tensor_scatter(c: Call) -> Value:
    """Writes along one axis from each row's own position on."""
    if c.attr("mode", "linear") != "linear":
        c.refuse("circular TensorScatter")
    cache, update = c.x(), c.x(1)
    axis = c.normal_axis(c.attr("axis", -2), c.rank())
    for i, (d, e) in enumerate(zip(c.shape(), c.shape(1), strict=True)):
        if i != axis:
            c.equal(d, e, f"axis {i} of {c.type()} and the update {c.type(1)}")
    if c.has(2):
        c.equal(c.shape(2)[0], c.shape()[0], f"the rows of {c.type()} and their positions {c.type(2)}")
    order = (0, axis, *(i for i in range(1, c.rank()) if i != axis))
    back = [order.index(i) for i in range(c.rank())]
    steps = c.op("unsqueeze", c.op("iota", n=update.type.shape[axis]), axis=0)
    if c.has(2):
        steps = c.op("add", steps, c.op("unsqueeze", c.cast(c.x(2), i64), axis=1))
    index = c.expand(steps, (cache.type.shape[0], update.type.shape[axis]))
    y = c.op("scatter_set", c.transpose(cache, order), index, c.transpose(update, order), batch=1)
    return c.transpose(y, back)


