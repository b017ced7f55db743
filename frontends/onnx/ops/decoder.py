"""What ONNX Runtime's optimiser makes of a decoder: attention by groups of heads over a cache, and packed weights."""

from __future__ import annotations

from ....ir.dims.dim import Dim
from ....ir.graph import Value
from ....ir.types import f32, i64, u8
from ..call import Call
from ..registry import MICROSOFT, imports
from .attention import fitting, given, join_heads, scaling, split_heads


@imports("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(c: Call) -> list[Value | None]:
    """New tokens [B, T, …] after those of the cache [B, G, P, K], of which each row says how many count with the new ones."""
    heads, kv_heads = c.attr("num_heads", 0), c.attr("kv_num_heads", 0)
    for name in ("smooth_softmax", "qk_output", "k_quant_type", "v_quant_type"):
        if c.attr(name, 0) not in (0, "NONE"):
            c.refuse(f"{name} of GroupQueryAttention")
    if any(c.has(i) for i in range(10, len(c.inputs))):
        c.refuse("a bias, a head sink or scales of GroupQueryAttention")
    if heads < 1 or kv_heads < 1:
        c.misfit(f"{heads} heads and {kv_heads} of keys")
    q, k, v = _operands(c, heads, kv_heads)
    tokens = q.type.shape[2]
    # What the rows' lengths, less one, say of the place of the first new token; nothing is before those of a prompt.
    lengths = c.cast(c.x(5), i64)
    if lengths.type.rank != 1:
        lengths = c.reshape(lengths, (lengths.type.numel,))
    c.equal(lengths.type.shape[0], q.type.shape[0], f"the rows of {c.type(5)} and {c.type()}")
    first = c.op("sub", c.op("add", lengths, c.scalar(1, i64)), c.number(tokens))
    first = c.op("unsqueeze", c.op("maximum", first, c.scalar(0, i64)), axis=1)
    position = c.op("add", first, c.op("unsqueeze", c.op("iota", n=tokens), axis=0))
    if c.attr("do_rotary", 0):
        turned = c.cast(c.x(9), i64) if c.has(9) else position
        for i in (7, 8):
            c.equal(c.shape(i)[1], c.shape(7)[1], f"the tables {c.type(7)} and {c.type(i)}")
        tables = [c.op("take", c.x(i, "table"), turned) for i in (7, 8)]
        interleaved = bool(c.attr("rotary_interleaved", 0))
        q, k = (c.std("attention.rope", x, *tables, interleaved=interleaved) for x in (q, k))
    if c.has(3) and c.has(4):
        k, v = (_behind(c, i, new, position) for i, new in ((3, k), (4, v)))
    fitting(c, q, k, v)
    keys = c.op("iota", n=k.type.shape[2])
    at = c.op("unsqueeze", position, axis=(1, 3))
    mask = c.op("le", keys, at)
    window = c.attr("local_window_size", -1)
    if window > 0:
        mask = c.op("logical_and", mask, c.op("gt", keys, c.op("sub", at, c.scalar(window, i64))))
    q, scale = scaling(c, q, c.attr("scale", 0.0) or None)
    attrs = given({"scale": scale, "softcap": c.attr("softcap", 0.0) or None})
    return [join_heads(c, c.std("attention.attention", q, k, v, mask, **attrs)), k, v]


def _operands(c: Call, heads: int, kv_heads: int) -> list[Value]:
    """Queries, keys and values [B, heads, T, K]; they may be packed in one operand."""
    if c.has(1) and c.has(2):
        for i, n in enumerate((heads, kv_heads, kv_heads)):
            for axis in (0, 1):
                c.equal(c.shape(i)[axis], c.shape()[axis], f"axis {axis} of {c.type(i)} and {c.type()}")
            c.equal(c.shape(i)[2], c.shape()[2] // heads * n, f"the heads of {c.type(i)}")
        c.equal(c.shape()[2] // heads * heads, c.shape()[2], f"the heads of {c.type()}")
        return [split_heads(c, c.x(i), n) for i, n in enumerate((heads, kv_heads, kv_heads))]
    packed = c.x()
    every = heads + 2 * kv_heads
    width = packed.type.shape[2] // every
    c.equal(width * every, packed.type.shape[2], f"the heads of {packed.type}")
    parts, at = [], width * 0
    for n in (heads, kv_heads, kv_heads):
        stop = at + width * n
        part = c.op("slice", packed, axis=2, start=_plain(at), stop=_plain(stop))
        parts.append(split_heads(c, part, n))
        at = stop
    return parts


def _plain(dim: Dim) -> int | Dim:
    return dim if dim.value is None else dim.value


def _behind(c: Call, index: int, new: Value, position: Value) -> Value:
    """The cache with new rows at each row's own place."""
    old = c.x(index)
    for axis in (0, 1, 3):
        c.equal(old.type.shape[axis], new.type.shape[axis], f"axis {axis} of the cache {c.type(index)}")
    longer = c.op("pad", old, axis=2, after=_plain(new.type.shape[2]))
    order = (0, 2, 1, 3)
    written = c.op("scatter_set", c.transpose(longer, order), position, c.transpose(new, order), batch=1)
    return c.transpose(written, order)


@imports("MatMulNBits", domain=MICROSOFT)
def packed_product(c: Call) -> Value:
    """x times a weight of few bits: blocks of whole numbers, each with a scale and a zero."""
    bits, block, k, n = (c.attr(name, default) for name, default in (("bits", 4), ("block_size", 32), ("K", 0), ("N", 0)))
    if bits not in (2, 4, 8) or block < 1 or k < 1 or n < 1:
        c.refuse(f"weights of {bits} bits in blocks of {block}")
    if c.has(4):
        c.refuse("an order of the columns")
    blocks = -(-k // block)
    dtype = c.type().dtype
    numbers = _unpacked(c, c.reshape(c.x(1, "weight"), (n, blocks, block * bits // 8)), bits)
    scale = c.reshape(c.cast(c.x(2, "scales"), f32), (n, blocks, 1))
    if not c.has(3):
        zero = c.scalar(2.0 ** (bits - 1), f32)
    elif c.type(3).dtype == u8:
        per = 8 // bits
        rows = _unpacked(c, c.reshape(c.x(3, "zero_points"), (n, -(-blocks // per))), bits)
        zero = c.op("slice", c.cast(rows, f32), axis=1, start=0, stop=blocks)
        zero = c.op("unsqueeze", zero, axis=2)
    else:
        zero = c.reshape(c.cast(c.x(3, "zero_points"), f32), (n, blocks, 1))
    weight = c.op("mul", c.op("sub", c.cast(numbers, f32), zero), scale)
    weight = c.reshape(weight, (n, blocks * block))
    if blocks * block != k:
        weight = c.op("slice", weight, axis=1, start=0, stop=k)
    c.equal(c.shape()[-1], weight.type.shape[1], f"the features of {c.type()}")
    y = c.std("nn.affine", c.x(), c.cast(weight, dtype))
    return c.op("add", y, c.x(5, "bias")) if c.has(5) else y


def _unpacked(c: Call, x: Value, bits: int) -> Value:
    """[…, M] bytes as […, M * 8 / bits] numbers, the lowest bits first."""
    if bits == 8:
        return x
    parts = []
    for at in range(0, 8, bits):
        moved = c.op("right_shift", x, c.scalar(at, u8)) if at else x
        parts.append(c.op("unsqueeze", c.op("bitwise_and", moved, c.scalar((1 << bits) - 1, u8)), axis=x.type.rank))
    joined = c.op("concat", *parts, axis=x.type.rank)
    return c.reshape(joined, (*x.type.shape[:-1], x.type.shape[-1] * len(parts)))
