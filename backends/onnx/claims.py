"""Composites of std that ONNX has an op for. Each agrees with the composite's body; `unless` says where an op does not."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ...ir.dims.dim import as_dim, const
from ...ir.types import bf16, f16, f32, f64, i64
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


@claim("std.nn.gelu", "std.nn.gelu_tanh", needs="Gelu", unless=lambda node: operand(node).dtype == f64)
def gelu(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.op("Gelu", x, approximate="tanh" if node.op.name == "gelu_tanh" else "none")


def _no_scale(node: Node) -> bool:
    """Whether the op, which computes in f32, is not what the body does, or there is no weight, nor a known number of ones."""
    type = operand(node)
    return type.dtype not in (f32, f16, bf16) or (node.inputs[1] is None and type.shape[-1].value is None)


def _scale(e: Emitter, node: Node, weight: ox.Value | None) -> ox.Value:
    """The weight, or ones."""
    type = operand(node)
    return e.full(type.shape[-1:], 1, type.dtype) if weight is None else weight


@claim("std.nn.layer_normalize", unless=_no_scale)
def layer_normalize(e: Emitter, node: Node, x: ox.Value, weight: ox.Value | None, bias: ox.Value | None) -> ox.Value:
    return e.op("LayerNormalization", x, _scale(e, node, weight), bias, axis=-1, epsilon=node.attrs["eps"])


@claim("std.nn.rms_normalize", needs="RMSNormalization", unless=_no_scale)
def rms_normalize(e: Emitter, node: Node, x: ox.Value, weight: ox.Value | None) -> ox.Value:
    return e.op("RMSNormalization", x, _scale(e, node, weight), axis=-1, epsilon=node.attrs["eps"])


@claim("std.nn.l2_normalize")
def l2_normalize(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    made = x.producer()
    if made is not None and made.op_type == "ReduceMean" and e.dtype(x) == f32:
        # A sum has the direction of the mean, and is a pass less.
        x = e.op("ReduceSum", *made.inputs, keepdims=made.attributes["keepdims"].as_int())
    return e.op("LpNormalization", x, axis=-1, p=2)


@claim("std.nn.batch_normalize", unless=lambda node: None in node.inputs)
def batch_normalize(
    e: Emitter, node: Node, x: ox.Value, mean: ox.Value, variance: ox.Value, weight: ox.Value, bias: ox.Value
) -> ox.Value:
    return e.op("BatchNormalization", x, weight, bias, mean, variance, epsilon=node.attrs["eps"])


@claim("std.cache.write_rows")
def write_rows(e: Emitter, node: Node, x: ox.Value, start: ox.Value, rows: ox.Value) -> ox.Value:
    """One op that reads and writes the cache as it is, so that a session can bind one buffer in and out."""
    target, new = operand(node).shape, operand(node, 2).shape
    first = e.op("Min", start, e.scalar(target[2] - new[2]))
    if e.has("TensorScatter"):
        return e.op("TensorScatter", x, rows, first, axis=2)
    # Where in the batch, which head, which slot: [B, G, S, 3].
    shape = e.shape((*new[:3], const(1)))
    slot = e.op("Add", e.unsqueeze(first, 1, 2, 3), e.unsqueeze(e.iota(new[2]), 0, 1, 3))
    places = [e.unsqueeze(e.iota(new[0]), 1, 2, 3), e.unsqueeze(e.iota(new[1]), 0, 2, 3), slot]
    index = e.op("Concat", *(e.op("Expand", place, shape) for place in places), axis=-1)
    return e.op("ScatterND", x, index, rows)


@claim("std.detection.suppress", unless=lambda node: operand(node).dtype != f32)
def suppress(e: Emitter, node: Node, boxes: ox.Value, scores: ox.Value) -> list[ox.Value]:
    attrs = node.attrs
    capacity = as_dim(attrs["capacity"])
    limits = [e.full((const(1),), attrs[name], f32) for name in ("overlap", "least") if attrs[name] != -inf]
    found = e.op("NonMaxSuppression", boxes, scores, e.size(as_dim(attrs["most"])), *limits, center_point_box=int(attrs["centred"]))
    count = e.op("Min", e.op("Squeeze", e.op("Shape", found, start=0, end=1), e.ints([0])), e.scalar(capacity))
    rows = e.op("Concat", found, e.full((capacity, const(3)), 0, i64), axis=0)
    return [e.op("Slice", rows, e.ints([0]), e.size(capacity), e.ints([0])), count]
