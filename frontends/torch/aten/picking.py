"""Ops whose results have as many rows as run time finds: in a capacity, with a count (``frontends/counted``)."""

from __future__ import annotations

from typing import Any

from ....ir.dims.dim import Dim, const, product
from ....ir.graph import Value
from ....ir.library import composite
from ....ir.types import boolean, i64
from ..protocol import Import, Unsupported, aten


def _mask(i: Import, x: Value) -> Value:
    """Which elements of x are not zero, in row-major order [N]."""
    mask = x if x.type.dtype == boolean else i.op("ne", x, i.scalar(0, x.type.dtype))
    return i.reshape(mask, [x.type.numel])


def _apart(i: Import, places: Value, shape: tuple[Dim, ...]) -> list[Value]:
    """Places in row-major order as one place along each axis."""
    found = []
    for axis in range(len(shape)):
        stride = product(shape[axis + 1 :])
        if stride == 0:  # there are no places
            stride = const(1)
        at = places if stride == 1 else i.op("floordiv", places, i.scalar(stride, i64))
        found.append(at if axis == 0 or shape[axis] == 0 else i.op("mod", at, i.scalar(shape[axis], i64)))
    return found


def coordinates(i: Import, x: Value) -> list[Value]:
    """Where x is not zero: one index along each axis."""
    if not x.type.rank:
        raise Unsupported("the places of a tensor without axes")
    return _apart(i, i.counts.picked(i.builder, _mask(i, x)), x.type.shape)


def _rows(i: Import, columns: list[Value]) -> Value:
    return i.op("concat", *(i.op("unsqueeze", c, axis=1) for c in columns), axis=1)


@aten("nonzero", "argwhere")
def _nonzero(i: Import, x: Value) -> Value:
    return _rows(i, coordinates(i, x))


@aten("nonzero_numpy")
def _nonzero_by_axis(i: Import, x: Value) -> list[Value]:
    return coordinates(i, x)


@aten("nonzero_static")
def _nonzero_static(i: Import, x: Value, size: Any, fill: Any = -1) -> Value:
    if not x.type.rank:
        raise Unsupported("the places of a tensor without axes")
    places, count = i.builder.multi("compact", _mask(i, x), capacity=size)
    there = i.op("unsqueeze", i.op("lt", i.op("iota", n=size, dtype=i64), count), axis=1)
    return i.op("where", there, _rows(i, _apart(i, places, x.type.shape)), i.scalar(fill, i64))


@aten("masked_select")
def _masked_select(i: Import, x: Value, mask: Value) -> Value:
    x, mask = i.broadcast(x, mask)
    return i.op("take", i.reshape(x, [x.type.numel]), i.counts.picked(i.builder, _mask(i, mask)))


@aten("torchvision.nms.default")
def _boxes_that_stay(i: Import, boxes: Value, scores: Value, overlap: float) -> Value:
    """Of boxes [N, 4] those that no better one overlaps, by their scores."""
    one = i.op("unsqueeze", boxes, axis=0), i.op("unsqueeze", scores, axis=(0, 1))
    size = scores.type.shape[0]

    def make(length: Dim) -> tuple[Value, Value]:
        op = composite("std.detection.suppress")
        rows, count = i.builder.multi(op, *one, capacity=length, most=size, overlap=float(overlap))
        return rows, count

    rows = i.counts.made(make, size)
    return i.op("squeeze", i.op("slice", rows, axis=1, start=2), axis=1)
