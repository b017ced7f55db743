"""Composites of std that ONNX has an op for. Each agrees with the composite's body; where an op does not, None is returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.types import bf16, f16, f32, f64
from .registry import claim
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter


@claim("std.nn.affine")
def affine(e: Emitter, node: Node, x: ox.Value, weight: ox.Value, bias: ox.Value | None) -> ox.Value:
    y = e.op("MatMul", x, e.transpose(weight, (1, 0)))
    return y if bias is None else e.op("Add", y, bias)


@claim("std.nn.softmax")
def softmax(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.op("Softmax", x, axis=node.attrs["axis"])


@claim("std.nn.log_softmax")
def log_softmax(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.op("LogSoftmax", x, axis=node.attrs["axis"])


@claim("std.nn.relu")
def relu(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.op("Relu", x)


@claim("std.nn.gelu", "std.nn.gelu_tanh")
def gelu(e: Emitter, node: Node, x: ox.Value) -> ox.Value | None:
    if not e.has("Gelu") or e.dtype(x) == f64:
        return None
    return e.op("Gelu", x, approximate="tanh" if node.op.name == "gelu_tanh" else "none")


@claim("std.nn.layer_normalize")
def layer_normalize(
    e: Emitter, node: Node, x: ox.Value, weight: ox.Value | None, bias: ox.Value | None
) -> ox.Value | None:
    scale = _scale(e, node, weight)
    return None if scale is None else e.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=node.attrs["eps"])


@claim("std.nn.rms_normalize")
def rms_normalize(e: Emitter, node: Node, x: ox.Value, weight: ox.Value | None) -> ox.Value | None:
    scale = _scale(e, node, weight)
    if scale is None or not e.has("RMSNormalization"):
        return None
    return e.op("RMSNormalization", x, scale, axis=-1, epsilon=node.attrs["eps"])


def _scale(e: Emitter, node: Node, weight: ox.Value | None) -> ox.Value | None:
    """The weight, or ones; None where the ONNX op, which computes in f32, is not what the body does."""
    type = operand(node)
    if type.dtype not in (f32, f16, bf16):
        return None
    if weight is None and type.shape[-1].value is not None:
        return e.full(type.shape[-1:], 1, type.dtype)
    return weight


@claim("std.nn.l2_normalize")
def l2_normalize(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    made = x.producer()
    if made is not None and made.op_type == "ReduceMean" and e.dtype(x) == f32:
        # A sum has the direction of the mean, and is a pass less.
        x = e.op("ReduceSum", *made.inputs, keepdims=made.attributes["keepdims"].as_int())
    return e.op("LpNormalization", x, axis=-1, p=2)


@claim("std.nn.batch_normalize")
def batch_normalize(
    e: Emitter, node: Node, x: ox.Value, mean: ox.Value, variance: ox.Value, weight: ox.Value | None, bias: ox.Value | None
) -> ox.Value | None:  # fmt: skip
    if weight is None or bias is None:
        return None
    return e.op("BatchNormalization", x, weight, bias, mean, variance, epsilon=node.attrs["eps"])
