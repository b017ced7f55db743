"""Linear attention and the convolution before it: one state for each sequence, carried from call to call."""

from __future__ import annotations

from ....ir.dims.dim import Dim, const
from ....ir.graph import Value
from ..call import Call
from ..registry import imports
from .attention import join_heads, split_heads

# Which of them a rule of update has: a decay, and a rate by which what is remembered is corrected.
_RULES = {"linear": (False, False), "gated": (True, False), "delta": (False, True), "gated_delta": (True, True)}


@imports("LinearAttention")
def linear_attention(c: Call) -> list[Value]:
    heads, kv_heads, rule = c.attr("q_num_heads", 0), c.attr("kv_num_heads", 0), c.attr("update_rule", "gated_delta")
    if rule not in _RULES or heads < 1 or kv_heads < 1:
        c.misfit(f'update_rule="{rule}" with {heads} heads and {kv_heads} of keys')
    q, k, v = (split_heads(c, c.x(i), n) for i, n in ((0, heads), (1, kv_heads), (2, kv_heads)))
    batch, width = q.type.shape[0], k.type.shape[3]
    for other in (k, v):
        for axis in (0, 2):
            c.equal(other.type.shape[axis], q.type.shape[axis], f"axis {axis} of {other.type} and {q.type}")
    c.equal(q.type.shape[3], width, f"the features of {q.type} and {k.type}")
    shape = (batch, const(kv_heads), width, v.type.shape[3])
    start = c.x(3) if c.has(3) else c.op("full", shape=shape, value=0, dtype=q.type.dtype)
    for axis, dim in enumerate(shape):
        c.equal(start.type.shape[axis], dim, f"axis {axis} of the state {start.type}")
    decays, corrects = _RULES[rule]
    decay = split_heads(c, c.x(4), kv_heads) if decays else None
    beta = c.transpose(c.x(5), (0, 2, 1)) if corrects else None
    for gate in (g for g in (decay, beta) if g is not None):
        for axis in (0, 2):
            c.equal(gate.type.shape[axis], q.type.shape[axis], f"axis {axis} of {gate.type} and {q.type}")
    scale = c.attr("scale", 0.0) or float(_known(c, width)) ** -0.5
    y, last = c.std_many("recurrent.linear_attention", q, k, v, start, decay, beta, scale=scale)
    return [join_heads(c, y), last]


def _known(c: Call, width: Dim) -> int:
    return width.value if width.value is not None else c.refuse(f"a scale by the free size {width}")


@imports("CausalConvWithState")
def causal_convolution(c: Call) -> list[Value]:
    """Each channel by itself, over its own past: the state, or zeros, stands in front of the input."""
    activation = c.attr("activation", "none")
    if activation not in ("none", "silu", "swish"):
        c.refuse(f'activation="{activation}"')
    x, weight = c.x(), c.x(1, "weight")
    channels, kept = c.shape()[1].value, weight.type.shape[2] - 1
    if channels is None or kept.value is None:
        c.refuse("a causal convolution of free channels or reach")
    if c.has(3):
        c.equal(c.shape(3)[2], kept, f"the state {c.type(3)}")
        wide = c.op("concat", c.x(3), x, axis=2)
    else:
        wide = c.op("pad", x, axis=2, before=kept.value) if kept.value else x
    y = c.op("conv", wide, weight, groups=channels)
    if c.has(2):
        y = c.op("add", y, c.op("unsqueeze", c.x(2, "bias"), axis=1))
    size = wide.type.shape[2] - kept
    last = c.op("slice", wide, axis=2, start=size.value if size.value is not None else size)
    return [y if activation == "none" else c.std("nn.silu", y), last]
