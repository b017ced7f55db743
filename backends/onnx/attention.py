"""Attention and rotary positions as single ops (opset 23 and later), which ONNX Runtime has fused kernels for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir.dims.dim import const
from ...ir.types import bf16, f16, f32
from .registry import claim
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.dims.dim import Dim
    from ...ir.graph import Node
    from ...ir.types import DType
    from .emit import Emitter


# Ops whose results hold elements of their first operands, or sums and products of them: how many of these count, and the first.
_FOLLOWED = {
    "Add": (0, 2), "Sub": (0, 2), "Mul": (0, 2), "Max": (0, 9), "Min": (0, 9), "Concat": (0, 999), "Where": (1, 3),
    **dict.fromkeys(("Cast", "Expand", "Gather", "GatherElements", "GatherND", "Identity", "Neg", "Reshape", "Slice", "Squeeze",
                     "Transpose", "Unsqueeze"), (0, 1)),
}  # fmt: skip


def _no_kernel(node: Node) -> bool:
    """The order of softcap and bias differs between opsets; statistics would need the scores, which no kernel returns."""
    return operand(node).dtype not in (f32, f16, bf16) or node.attrs["softcap"] != 0 or len(node.outputs) > 1


@claim("std.attention.attention", "std.attention.attend", needs="Attention", unless=_no_kernel)
def attention(
    e: Emitter, node: Node, q: ox.Value, k: ox.Value, v: ox.Value, mask: ox.Value | None, bias: ox.Value | None
) -> ox.Value:
    a, dtype = node.attrs, e.dtype(q)
    tokens, keys = operand(node, 0).shape[2], operand(node, 1).shape[2]
    # ONNX Runtime wants a row of the mask for each query.
    rows = any(t is not None and t.type.shape[2] == tokens for t in node.inputs[3:])
    # `is_causal` counts from the first key, which is what the body does when there are as many queries.
    aligned = tokens == keys
    if a["causal"] and not aligned:
        causal, rows = _causal(e, tokens, keys), True
        mask = causal if mask is None else e.op("And", mask, causal)
    if bias is not None and _may_be_lowest(bias, dtype):
        bias = _above_lowest(e, bias)
    scores = mask if bias is None else bias
    if mask is not None and bias is not None:
        scores = e.remember(("masked", mask, bias), lambda: e.op("Where", mask, bias, e.constant(float("-inf"), dtype)))
    if scores is not None and not rows:
        one = const(1)
        shape = e.shape((one, one, tokens, one))
        scores = e.remember(("expand", scores, shape), lambda: e.op("Expand", scores, shape))
    options: dict[str, Any] = {"scale": float(a["scale"]), "is_causal": int(a["causal"] and aligned)}
    joined = [_joined(e, node, i, x) for i, x in enumerate((q, k, v))]
    if any(x is None for x in joined):
        return e.op("Attention", q, k, v, scores, **options)
    # Heads that were only just split are better left to the op, which splits and joins them itself.
    batch, heads, _, width = node.output.type.shape
    groups = operand(node, 1).shape[1]
    if heads.value is None or groups.value is None:
        return e.op("Attention", q, k, v, scores, **options)
    y = e.op("Attention", *joined, scores, q_num_heads=heads.value, kv_num_heads=groups.value, **options)
    flat, split = (batch, tokens, heads * width), (batch, tokens, heads, width)
    return e.transpose(e.reshape(y, flat, split), (0, 2, 1, 3))


def _above_lowest(e: Emitter, bias: ox.Value) -> ox.Value:
    """The bias with the number next to the lowest in its place.

    ONNX Runtime takes the lowest number for -inf: where a query has nothing else it gives 0, not the mean of the values.
    """
    import ml_dtypes

    dtype = e.dtype(bias)
    lowest = np.asarray(ml_dtypes.finfo(dtype.numpy).min, dtype.numpy)
    above = e.constant(np.nextafter(lowest, np.zeros_like(lowest)), dtype)
    is_lowest = lambda: e.op("Equal", bias, e.constant(lowest, dtype))  # noqa: E731
    return e.remember(("above lowest", bias), lambda: e.op("Where", is_lowest(), above, bias))


def _may_be_lowest(bias: ox.Value, dtype: DType) -> bool:
    """Whether an element may be the lowest number: some constant that it is made of is, or it is the caller's.

    What is computed from features is not.
    """
    import ml_dtypes

    # Half of it, for the sums of two.
    low = float(ml_dtypes.finfo(dtype.numpy).min) / 2
    pending, seen = [bias], {bias}
    while pending:
        value = pending.pop()
        node = value.producer()
        if value.const_value is not None:
            array = value.const_value.numpy()
            if array.dtype.kind not in "biu" and array.size and array.astype(np.float64).min() <= low:
                return True
        elif node is None:
            return True
        else:
            first, last = _FOLLOWED.get(node.op_type, (0, 0))
            operands = [v for v in node.inputs[first:last] if v is not None and v not in seen]
            seen.update(operands)
            pending += operands
    return False


def _joined(e: Emitter, node: Node, position: int, x: ox.Value) -> ox.Value | None:
    """The ``[B, T, heads * K]`` that ``x`` [B, heads, T, K] was made from by splitting its heads, or None."""
    source, perm = e.transposed.get(x, (x, ()))
    if perm != (0, 2, 1, 3) or source not in e.reshaped:
        return None
    origin, shape = e.reshaped[source]
    batch, heads, tokens, width = operand(node, position).shape
    return origin if shape == (batch, tokens, heads * width) and e.sizes.public(shape) else None


def _causal(e: Emitter, tokens: Dim, keys: Dim) -> ox.Value:
    """``bool[T, S]``: the last query sees every key."""
    last = e.op("Add", e.iota(tokens), e.scalar(keys - tokens))
    return e.op("LessOrEqual", e.iota(keys), e.unsqueeze(last, -1))


def _rotates_a_part(node: Node) -> bool:
    """Or is of a dtype that the op does not take."""
    return operand(node).dtype not in (f32, f16, bf16) or operand(node).shape[3] != operand(node, 1).shape[2] * 2


@claim("std.attention.rope", needs="RotaryEmbedding", unless=_rotates_a_part)
def rope(e: Emitter, node: Node, x: ox.Value, cosine: ox.Value, sine: ox.Value) -> ox.Value:
    type, angles = operand(node), operand(node, 1).shape
    if angles[0] != type.shape[0]:
        shape = e.shape((type.shape[0], *angles[1:]))
        cosine = e.remember(("expand", cosine, shape), lambda: e.op("Expand", cosine, shape))
        sine = e.remember(("expand", sine, shape), lambda: e.op("Expand", sine, shape))
    joined = _joined(e, node, 0, x) if e.cached else None
    batch, heads, tokens, size = type.shape
    if joined is None or heads.value is None:
        return e.op("RotaryEmbedding", x, cosine, sine, interleaved=int(node.attrs["interleaved"]))
    # Heads side by side are what attention over a cache takes.
    y = e.op("RotaryEmbedding", joined, cosine, sine, interleaved=int(node.attrs["interleaved"]), num_heads=heads.value)
    return e.transpose(e.reshape(y, (batch, tokens, heads * size), (batch, tokens, heads, size)), (0, 2, 1, 3))
