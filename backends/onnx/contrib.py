"""Mixtures of experts as ONNX Runtime's own op, on request: `target onnx(moe=contrib)`.

`com.microsoft.MoE` chooses by itself, by a softmax. It is given the logarithms of the weights that the router gave, and a very low number
for every other expert: the softmax of these is the weights again, but for their sum, which the result is multiplied with. That is exact
for whatever router, also where a token has fewer experts, or none; but weights must not be negative. With `moe=contrib_int8` or
`contrib_int4` the experts' matrices are rounded, and the op is `com.microsoft.QMoE`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import Diagnostic
from ...ir.graph import Parameter
from ...ir.op import FuncRef
from ...ir.types import f16, f32
from .rounded import MATRICES, packed
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node, Value
    from .lowering import Lowerer

DOMAIN = "com.microsoft"
# What takes part in no softmax.
_LOWEST = -1e30
# The op's `x sigmoid(alpha x)` of the gate.
_ALPHA = {("std.nn", "silu"): 1.0, ("std.nn", "quick_gelu"): 1.702}
_PLAIN = {("std.nn", "relu"): "relu", ("std.nn", "gelu_tanh"): "gelu", ("std.nn", "silu"): "silu"}
# Routers whose weights are not negative, and ops that change no weight's sign.
_POSITIVE = ("std.moe.route.token_choice", "std.moe.route.sparse_mixer")
_KEEPING = ("std.moe.route.without_null", "std.moe.route.renumbered")


def refused(node: Node, bits: int | None = None) -> Diagnostic | None:
    """Why the op cannot express a mixture, with matrices of so many bits, None when it can, or when the node is none."""
    if node.op.qualified not in LOWERINGS:
        return None
    act = node.attrs["act"]
    known = _ALPHA if node.op.name == "gated" else _PLAIN
    if _key(act) not in known:
        names = " and ".join(name for _, name in known)
        return _no(node, f"it has no activation `{act}` for `{node.op.name}` experts", f"it has {names}")
    if bits is not None and (problem := _not_rounded(node, bits)) is not None:
        return problem
    if operand(node).dtype not in (f32, f16):
        return _no(node, f"it computes in f32 and f16, and not in {operand(node).dtype}", "compile with `dtype=f32`")
    if operand(node, 3).shape[0].value is None:
        return _no(node, "it wants a known number of experts", "give the number as a static parameter")
    if not _not_negative(node.inputs[2]):
        return _no(
            node, "it weighs by a softmax, and the weights of this router may be negative",
            "choose with `score` softmax, sigmoid, chosen or one, and a `scale` of at least 0",
        )  # fmt: skip
    return None


def _not_rounded(node: Node, bits: int) -> Diagnostic | None:
    """What keeps the matrices of a mixture from being stored with so many bits."""
    if operand(node).dtype != f32:
        return _no(node, f"with matrices of {bits} bits it computes in f32", "compile with `dtype=f32`")
    for i in MATRICES:
        if not isinstance(node.inputs[i], Parameter):
            return _no(node, "matrices that are computed when the model runs have no bits to be rounded to", "use `moe=contrib`")
        if operand(node, i).shape[1].value is None or int(operand(node, i).shape[1]) * bits % 8:
            told = f"{operand(node, i).shape[1]} numbers of {bits} bits make no whole bytes"
            return _no(node, told, "use `moe=contrib_int8`")
    return None


def _no(node: Node, reason: str, remedy: str) -> Diagnostic:
    return Diagnostic(
        "E0811", f"`{DOMAIN}.MoE` cannot compute this mixture of experts: {reason}", node.span,
        help=f"{remedy}; or leave `moe` out, which computes every mixture by standard ops",
    )  # fmt: skip


def _key(act: FuncRef) -> tuple[str, str]:
    return act.module, act.name


def _not_negative(weight: Value | None) -> bool:
    """Whether weights come from a router that gives none below 0."""
    node = weight.node if weight is not None else None
    while node is not None and node.op.qualified in _KEEPING:
        if node.attrs.get("scale", 1.0) < 0:
            return False
        source = node.inputs[1]
        node = source.node if source is not None else None
    if node is None or node.op.qualified not in _POSITIVE:
        return False
    return bool(node.attrs.get("score") != "none" and node.attrs.get("scale", 1.0) >= 0)


def gated(
    e: Lowerer, node: Node, x: ox.Value, expert: ox.Value, weight: ox.Value, gate_up: ox.Value, down: ox.Value,
    gate_up_bias: ox.Value | None, down_bias: ox.Value | None,
) -> ox.Value:  # fmt: skip
    """Gated experts: the op wants gate and gated in turn."""
    a = node.attrs
    options: dict[str, Any] = {
        "activation_type": "swiglu", "swiglu_fusion": 1, "activation_alpha": _ALPHA[_key(a["act"])], "activation_beta": a["offset"],
    }  # fmt: skip
    if a["limit"] > 0:
        options["swiglu_limit"] = a["limit"]
    dealt = not a["interleaved"]
    if dealt and e.bits is None:
        count, dim, width = (int(d) for d in operand(node, 3).shape)
        halves = e.op("Reshape", gate_up, e.ints([count, dim, 2, width // 2]))
        gate_up = e.op("Reshape", e.op("Transpose", halves, perm=[0, 1, 3, 2]), e.ints([count, dim, width]))
    if dealt and gate_up_bias is not None:
        count, width = (int(d) for d in operand(node, 5).shape)
        halves = e.op("Reshape", gate_up_bias, e.ints([count, 2, width // 2]))
        gate_up_bias = e.op("Reshape", e.op("Transpose", halves, perm=[0, 2, 1]), e.ints([count, width]))
    return _mixture(e, node, x, expert, weight, (gate_up, gate_up_bias, down, down_bias), options, dealt=dealt)


def plain(
    e: Lowerer, node: Node, x: ox.Value, expert: ox.Value, weight: ox.Value, up: ox.Value, down: ox.Value,
    up_bias: ox.Value | None, down_bias: ox.Value | None,
) -> ox.Value:  # fmt: skip
    """Experts of two products with an activation between."""
    options = {"activation_type": _PLAIN[_key(node.attrs["act"])]}
    return _mixture(e, node, x, expert, weight, (up, up_bias, down, down_bias), options)


def _mixture(
    e: Lowerer, node: Node, x: ox.Value, expert: ox.Value, weight: ox.Value, weights: tuple[ox.Value | None, ...],
    options: dict[str, Any], *, dealt: bool = False,
) -> ox.Value:  # fmt: skip
    count, k, dtype = int(operand(node, 3).shape[0]), int(operand(node, 1).shape[1]), e.dtype(x)
    # [N, k, E]: a pair without an expert is nobody's, and several pairs with one expert add up.
    own = e.op("Equal", e.unsqueeze(expert, 2), e.ints(list(range(count))))
    shares = e.op("ReduceSum", e.op("Where", own, e.unsqueeze(weight, 2), e.constant(0, f32)), e.ints([1]), keepdims=0)
    taken = e.op("Greater", shares, e.constant(0, f32))
    safe = e.op("Where", taken, shares, e.constant(1, f32))
    logits = e.cast(e.op("Where", taken, e.op("Log", safe), e.constant(_LOWEST, f32)), dtype)
    first, first_bias, second, second_bias = weights
    assert first is not None
    assert second is not None
    options = {**options, "k": min(k, count), "normalize_routing_weights": 1}
    if e.bits is None:
        inputs = [x, logits, e.transpose(first, (0, 2, 1)), first_bias, e.transpose(second, (0, 2, 1)), second_bias]
    else:
        numbers, more = packed(e, first, e.bits, dealt=dealt), packed(e, second, e.bits, dealt=False)
        inputs = [x, logits, *numbers, first_bias, *more, second_bias]
        options["expert_weight_bits"] = e.bits
    (made,) = e.raw("MoE" if e.bits is None else "QMoE", inputs, [dtype], options, domain=DOMAIN)
    total = e.op("ReduceSum", shares, e.ints([1]), keepdims=1)
    return e.op("Mul", made, e.cast(total, dtype))


LOWERINGS: dict[str, Callable[..., ox.Value]] = {"std.moe.experts.gated": gated, "std.moe.experts.plain": plain}
