"""Linear attention and the convolution before it: one state for each sequence, carried from call to call."""

from __future__ import annotations

from ....ir.dims.dim import const
from ....ir.graph import Value
from ..call import Call
from ..registry import imports
from .attention import join_heads, scaling, split_heads
from .contraction import plain

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
    if decay is not None and decay.type.shape[3] != 1:
        c.equal(decay.type.shape[3], width, f"the features of {decay.type} and {k.type}")
    if beta is not None and beta.type.shape[1] != 1:
        c.equal(beta.type.shape[1], k.type.shape[1], f"the heads of {beta.type} and {k.type}")
    q, scale = scaling(c, q, c.attr("scale", 0.0) or None)
    if scale is None:
        scale = int(width) ** -0.5
    y, last = c.std_many("recurrent.linear_attention", q, k, v, start, decay, beta, scale=scale)
    return [join_heads(c, y), last]


@imports("CausalConvWithState")
def causal_convolution(c: Call) -> list[Value]:
    """Each channel by itself, over its own past: the state, or zeros, stands in front of the input."""
    activation = c.attr("activation", "none")
    if activation not in ("none", "silu", "swish"):
        c.refuse(f'activation="{activation}"')
    x, weight = c.x(), c.x(1, "weight")
    channels, kept = c.shape()[1], weight.type.shape[2] - 1
    for axis, size in ((0, channels), (1, const(1))):
        c.equal(weight.type.shape[axis], size, f"axis {axis} of {weight.type}, for {c.type()}")
    if c.has(2):
        c.equal(c.shape(2)[0], channels, f"the bias {c.type(2)} of {c.type()}")
    if c.has(3):
        for axis, size in enumerate((c.shape()[0], channels, kept)):
            c.equal(c.shape(3)[axis], size, f"axis {axis} of the state {c.type(3)}")
        wide = c.op("concat", c.x(3), x, axis=2)
    else:
        wide = x if kept == 0 else c.op("pad", x, axis=2, before=plain(kept))
    y = _each_by_itself(c, wide, weight)
    if c.has(2):
        y = c.op("add", y, c.op("unsqueeze", c.x(2, "bias"), axis=1))
    last = c.op("slice", wide, axis=2, start=plain(wide.type.shape[2] - kept))
    return [y if activation == "none" else c.std("nn.silu", y), last]


def _each_by_itself(c: Call, x: Value, weight: Value) -> Value:
    """Each channel of x [B, C, T + K - 1] by its own kernel of K places, weight [C, 1, K]."""
    channels, _, reach = weight.type.shape
    if channels.value is not None and reach.value is not None:
        return c.op("conv", x, weight, groups=channels.value)
    first = c.op("unsqueeze", c.op("iota", n=x.type.shape[2] - reach + 1), axis=1)
    windows = c.op("take", x, c.op("add", first, c.op("unsqueeze", c.op("iota", n=reach), axis=0)), axis=2)
    return c.op("einsum", windows, weight, equation="b c t k, c o k -> b c t")
