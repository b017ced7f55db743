"""Reductions, sorting and selection. Ties go to the lowest index, which is what ONNX Runtime's TopK and ArgMax do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.dims.dim import as_dim, prove_ge
from ...ir.types import bf16, boolean, f16, f32, i32, i64
from .registry import lower
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter


def _reduction(op_type: str) -> None:
    @lower(op_type.removeprefix("Reduce").lower())
    def reduce(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
        axes = node.attrs["axis"]
        if not axes:
            return x
        return e.op(op_type, x, e.ints(axes), keepdims=int(node.attrs["keepdims"]))


for _op_type in ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceMax", "ReduceMin"):
    _reduction(_op_type)


@lower("logsumexp")
def logsumexp(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    axes, dtype = node.attrs["axis"], e.dtype(x)
    if not axes:
        return x
    x = e.cast(x, f32 if dtype in (f16, bf16) else dtype)
    most = e.op("ReduceMax", x, e.ints(axes), keepdims=1)
    # An infinite maximum is no offset: inf - inf is no number. ReduceLogSumExp of ONNX Runtime gives NaN there.
    offset = e.op("Where", e.op("IsInf", most), e.constant(0, e.dtype(x)), most)
    total = e.op("ReduceSum", e.op("Exp", e.op("Sub", x, offset)), e.ints(axes), keepdims=1)
    y = e.op("Add", e.op("Log", total), offset)
    return e.cast(y if node.attrs["keepdims"] else e.squeeze(y, *axes), dtype)


def _any(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    # A sum, because a maximum over no elements is refused.
    axes = node.attrs["axis"]
    count = e.op("ReduceSum", e.cast(x, i32), e.ints(axes), keepdims=int(node.attrs["keepdims"]))
    return e.cast(count, boolean)


@lower("any")
def any_(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return _any(e, node, x) if node.attrs["axis"] else x


@lower("all")
def all_(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.op("Not", _any(e, node, e.op("Not", x))) if node.attrs["axis"] else x


@lower("argmax", "argmin")
def arg(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    e.selects = True
    op_type = "ArgMax" if node.op.name == "argmax" else "ArgMin"
    return e.op(op_type, x, axis=node.attrs["axis"], keepdims=int(node.attrs["keepdims"]))


@lower("sort")
def sort(e: Emitter, node: Node, x: ox.Value) -> list[ox.Value]:
    axis = node.attrs["axis"]
    return _top(e, x, e.size(node.outputs[0].type.shape[axis]), axis, node.attrs["descending"])


@lower("topk")
def topk(e: Emitter, node: Node, x: ox.Value) -> list[ox.Value]:
    return _top(e, x, e.size(as_dim(node.attrs["k"])), node.attrs["axis"], node.attrs["largest"])


def _top(e: Emitter, x: ox.Value, k: ox.Value, axis: int, largest: bool) -> list[ox.Value]:
    e.selects = True
    return e.multi("TopK", x, k, outputs=2, axis=axis, largest=int(largest), sorted=1)


@lower("searchsorted")
def searchsorted(e: Emitter, node: Node, row: ox.Value, values: ox.Value) -> ox.Value:
    # How many elements of the row lie below the value (or at most at it).
    if operand(node).rank > 1:
        row = e.unsqueeze(row, operand(node).rank - 1)
    below = e.op("LessOrEqual" if node.attrs["right"] else "Less", row, e.unsqueeze(values, -1))
    return e.op("ReduceSum", e.cast(below, i64), e.ints([-1]), keepdims=0)


@lower("compact")
def compact(e: Emitter, node: Node, mask: ox.Value) -> list[ox.Value]:
    type = node.inputs[0].type  # type: ignore[union-attr]
    n, capacity = type.shape[-1], as_dim(node.attrs["capacity"])
    # Element i scores n - i when it is true and 0 when not, so that the best ones are the first true ones.
    score = e.op("Mul", e.cast(mask, i64), e.op("Sub", e.scalar(n), e.iota(n)))
    if not prove_ge(n, capacity, e.sizes.facts):
        padding = e.full((*type.shape[:-1], capacity), 0, i64)
        score = e.op("Concat", score, padding, axis=-1)
    best, _ = e.multi("TopK", score, e.size(capacity), outputs=2, axis=-1, largest=1, sorted=1)
    zero = e.constant(0, i64)
    index = e.op("Where", e.op("Greater", best, zero), e.op("Sub", e.scalar(n), best), zero)
    count = e.op("ReduceSum", e.cast(mask, i64), e.ints([-1]), keepdims=0)
    return [index, e.op("Min", count, e.scalar(capacity))]
