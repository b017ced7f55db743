"""Constants, and ops that move elements without computing on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ...ir.dims.dim import Dim, as_dim, const, dim_max
from ...ir.ops.shape import rearrange_plan
from ...ir.types import i64
from .registry import lower

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from ...ir.types import TensorType
    from .emit import Emitter


def operand(node: Node, index: int = 0) -> TensorType:
    """The type of an operand that is present."""
    value = node.inputs[index]
    assert value is not None
    return value.type


@lower("constant")
def constant(e: Emitter, node: Node) -> ox.Value:
    return e.constant(node.attrs["value"], node.attrs["dtype"])


@lower("full")
def full(e: Emitter, node: Node) -> ox.Value:
    shape, value, dtype = node.output.type.shape, node.attrs["value"], node.attrs["dtype"]
    if not isinstance(value, Dim):
        return e.full(shape, value, dtype)
    return e.expand(e.cast(e.scalar(value), dtype), (), shape)


@lower("iota")
def iota(e: Emitter, node: Node) -> ox.Value:
    return e.iota(as_dim(node.attrs["n"]), node.attrs["dtype"])


@lower("reshape")
def reshape(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.reshape(x, operand(node).shape, node.output.type.shape)


@lower("rearrange")
def rearrange(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    split, permutation, joined = rearrange_plan(operand(node), node.attrs)
    x = e.reshape(x, operand(node).shape, split)
    return e.reshape(e.transpose(x, permutation), [split[i] for i in permutation], joined)


@lower("transpose")
def transpose(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.transpose(x, node.attrs["perm"])


@lower("expand")
def expand(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.expand(x, operand(node).shape, node.output.type.shape)


@lower("squeeze")
def squeeze(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.squeeze(x, *node.attrs["axis"])


@lower("unsqueeze")
def unsqueeze(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    axes = node.attrs["axis"]
    origin, gone = e.squeezed.get(x, (x, axes))
    if gone == axes:
        return e.unsqueeze(x, *axes)
    # From other axes of size 1 to these in one step.
    shape = list(operand(node).shape)
    rank = len(shape) + len(gone)
    for axis in sorted(axis % rank for axis in gone):
        shape.insert(axis, const(1))
    return e.reshape(origin, shape, node.output.type.shape)


@lower("concat")
def concat(e: Emitter, node: Node, *xs: ox.Value) -> ox.Value:
    return xs[0] if len(xs) == 1 else e.op("Concat", *xs, axis=node.attrs["axis"])


@lower("slice")
def slice_(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    if node.output.type == operand(node):
        return x
    start, stop = node.attrs["start"], node.attrs["stop"]
    return e.slice(x, node.attrs["axis"], 0 if start is None else start, stop, int(as_dim(node.attrs["step"])))


def _places(e: Emitter, node: Node, before: Dim, after: Dim) -> ox.Value:
    """Which elements of the axis a padded one holds. ONNX's own modes are refused where they reach too far."""
    mode, n = node.attrs["mode"], operand(node).shape[node.attrs["axis"]]
    place = e.op("Sub", e.iota(before + n + after), e.scalar(before))
    if mode == "edge":
        return e.op("Min", e.op("Max", place, e.constant(0, i64)), e.scalar(n - 1))
    if mode == "circular":
        return e.op("Mod", place, e.scalar(n))
    period = e.scalar(dim_max(n * 2 - 2, 1))
    place = e.op("Mod", place, period)
    return e.op("Min", place, e.op("Sub", period, place))


@lower("pad")
def pad(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    before, after = as_dim(node.attrs["before"]), as_dim(node.attrs["after"])
    if node.attrs["mode"] != "constant":
        return e.op("Gather", x, _places(e, node, before, after), axis=node.attrs["axis"])
    value = e.constant(node.attrs["value"], operand(node).dtype)
    # All axes: ONNX Runtime 1.31 moves a transpose through a Pad with `axes` without moving these.
    rank, axis = len(operand(node).shape), node.attrs["axis"]
    axis %= rank
    pads = [as_dim(0)] * axis + [before] + [as_dim(0)] * (rank - 1) + [after] + [as_dim(0)] * (rank - axis - 1)
    return e.op("Pad", x, e.shape(tuple(pads)), value)


@lower("flip")
def flip(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    bounds = np.iinfo(np.int64)
    return e.op("Slice", x, e.ints([bounds.max]), e.ints([bounds.min]), e.ints([node.attrs["axis"]]), e.ints([-1]))
