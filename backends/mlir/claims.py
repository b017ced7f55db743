"""Composites that are one aten op: qualified name -> lowering, but for the uses that ``UNLESS`` names.

A composite that is not here, or a use that is excepted, is lowered through its body.
"""

from __future__ import annotations

from collections.abc import Callable

from ...ir.graph import Node
from .emit import Call, Claim, Tensor


def _softmax(name: str) -> Claim:
    return lambda call: call.aten(f"{name}.int", call.args[0], call.attrs["axis"], None)


def _layer_norm(call: Call) -> Tensor:
    x, weight, bias = call.operands
    assert x is not None
    return call.aten("layer_norm", x, [x.type.shape[-1]], weight, bias, float(call.attrs["eps"]), False)


def _group_norm(call: Call) -> Tensor:
    x, weight, bias = call.operands
    return call.aten("group_norm", x, call.attrs["groups"], weight, bias, float(call.attrs["eps"]), False)


def _attention(call: Call) -> Tensor:
    scale = float(call.attrs["scale"])
    return call.aten("scaled_dot_product_attention", *call.operands[:3], None, 0.0, False, scale, False)


def more_than_attention(node: Node) -> bool:
    """Statistics, a soft cap, masks or groups of heads: what linalg's own attention does not compute as the body does."""
    q, k, _, mask, bias = node.inputs
    assert q is not None
    assert k is not None
    plain = mask is None and bias is None and not node.attrs["causal"] and node.attrs["softcap"] == 0
    return not plain or len(node.outputs) > 1 or q.type.shape[1] != k.type.shape[1]


CLAIMS: dict[str, Claim] = {
    "std.nn.affine": lambda call: call.aten("linear", *call.operands),
    "std.nn.softmax": _softmax("softmax"),
    "std.nn.log_softmax": _softmax("log_softmax"),
    "std.nn.relu": lambda call: call.aten("relu", call.args[0]),
    "std.nn.gelu": lambda call: call.aten("gelu", call.args[0], "none"),
    "std.nn.gelu_tanh": lambda call: call.aten("gelu", call.args[0], "tanh"),
    "std.nn.silu": lambda call: call.aten("silu", call.args[0]),
    "std.nn.layer_normalize": _layer_norm,
    "std.nn.group_normalize": _group_norm,
    "std.attention.attention": _attention,
}

# Which uses of a claimed composite go through its body.
UNLESS: dict[str, Callable[[Node], bool]] = {"std.attention.attention": more_than_attention}
