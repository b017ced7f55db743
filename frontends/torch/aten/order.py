"""Orders, and results that run along an axis."""

from __future__ import annotations

from math import inf, nan
from typing import Any

from ....ir.graph import Value
from ....ir.types import i32, i64
from ..protocol import Import, Unsupported, aten, axis_of, on_rows
from .reduction import summed


@aten("sort", "sort.stable")
@on_rows(booleans=True)
def _sort(i: Import, x: Value, *rest: Any) -> list[Value]:
    *_, axis, descending = rest if len(rest) > 1 else (-1, False)
    return i.builder.multi("sort", x, axis=axis, descending=bool(descending))


@aten("argsort", "argsort.stable")
@on_rows(booleans=True)
def _argsort(i: Import, x: Value, *rest: Any) -> Value:
    return _sort(i, x, *rest)[1]


@aten("topk")
@on_rows(booleans=True)
def _topk(i: Import, x: Value, k: Any, axis: int = -1, largest: bool = True, ordered: bool = True) -> list[Value]:
    return i.builder.multi("topk", x, k=k, axis=axis, largest=largest)


@aten("searchsorted.Tensor", "searchsorted.Scalar")
def _searchsorted(
    i: Import, row: Value, values: Any, out_int32: bool = False, right: bool = False, side: str | None = None,
    order: Value | None = None,
) -> Value:  # fmt: skip
    if order is not None:
        row = i.op("gather", row, order, axis=-1)
    if not row.type.rank:
        row = i.reshape(row, [1])
    row, values = i.together(row, values)
    if row.type.rank > 1 and values.type.rank != row.type.rank:
        raise Unsupported("a search in several rows")
    found = i.op("searchsorted", row, values, right=right or side == "right")
    return i.cast(found, i32 if out_int32 else i64)


@aten("bucketize.Tensor")
def _bucketize(i: Import, values: Value, row: Value, out_int32: bool = False, right: bool = False) -> Value:
    return _searchsorted(i, row, values, out_int32, right)


@aten("cumsum")
@on_rows()
def _cumsum(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    return i.op("cumsum", summed(i, x, dtype), axis=axis)


@aten("cumprod")
@on_rows()
def _cumprod(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    return i.call("std.math.cumprod", summed(i, x, dtype), axis=axis)


@aten("logcumsumexp")
@on_rows()
def _logcumsumexp(i: Import, x: Value, axis: int) -> Value:
    return i.foreign("running.logcumsumexp", x, axis=axis)


def _extremes(name: str, sign: int) -> None:
    @aten(name)
    @on_rows(booleans=True)
    def importer(i: Import, x: Value, axis: int) -> list[Value]:
        at = axis_of(axis, x.type.rank)
        values = i.op("cummax", x if sign > 0 else i.op("neg", x), axis=at)
        values = values if sign > 0 else i.op("neg", values)
        # Of equal ones the last: where an element is the extreme so far.
        shape = [d if a == at else 1 for a, d in enumerate(x.type.shape)]
        place = i.expand(i.reshape(i.op("iota", n=x.type.shape[at], dtype=i64), shape), x.type.shape)
        reached = i.op("where", i.op("eq", x, values), place, i.scalar(0, i64))
        return [values, i.op("cummax", reached, axis=at)]


_extremes("cummax", 1)
_extremes("cummin", -1)


def _picked(i: Import, x: Value, place: Value | int, axis: int, keepdims: bool) -> list[Value]:
    """The element that stands at a place of the sorted axis, and where it came from."""
    at = axis_of(axis, x.type.rank)
    values, index = i.builder.multi("sort", x, axis=at)
    where = i.tensor(place, i64)
    return [
        i.op("unsqueeze", y, axis=at) if keepdims else y
        for y in (i.op("take", values, where, axis=at), i.op("take", index, where, axis=at))
    ]


@aten("kthvalue")
@on_rows()
def _kthvalue(i: Import, x: Value, k: Any, axis: int = -1, keepdims: bool = False) -> list[Value]:
    return _picked(i, x, i.scalar(k, i64) if not isinstance(k, int) else k - 1, axis, keepdims)


@aten("median.dim")
@on_rows()
def _median(i: Import, x: Value, axis: int, keepdims: bool = False) -> list[Value]:
    return _picked(i, x, i.scalar((x.type.shape[axis_of(axis, x.type.rank)] - 1) // 2, i64), axis, keepdims)


@aten("median")
@on_rows()
def _median_of_all(i: Import, x: Value) -> Value:
    return _median(i, i.reshape(x, [x.type.numel]), 0)[0]


@aten("nanmedian.dim")
@on_rows()
def _nanmedian(i: Import, x: Value, axis: int, keepdims: bool = False) -> list[Value]:
    """The median of what is a number, and where it stands."""
    if x.type.dtype.kind != "float":
        return _median(i, x, axis, keepdims)
    at = axis_of(axis, x.type.rank)
    missing = i.op("is_nan", x)
    values, index = i.builder.multi("sort", i.op("where", missing, i.scalar(inf, x.type.dtype), x), axis=at)
    count = i.op("sum", i.cast(i.op("logical_not", missing), i64), axis=at, keepdims=True)
    place = i.op("floordiv", i.op("sub", count, i.scalar(1, i64)), i.scalar(2, i64))
    place = i.op("maximum", place, i.scalar(0, i64))
    there = i.op("gt", count, i.scalar(0, i64))
    found = i.op("where", there, i.op("gather", values, place, axis=at), i.scalar(nan, x.type.dtype))
    both = [found, i.op("gather", index, place, axis=at)]
    return both if keepdims else [i.op("squeeze", y, axis=at) for y in both]


@aten("nanmedian")
@on_rows()
def _nanmedian_of_all(i: Import, x: Value) -> Value:
    return _nanmedian(i, i.reshape(x, [x.type.numel]), 0)[0]


@aten("mode")
@on_rows(booleans=True)
def _mode(i: Import, x: Value, axis: int = -1, keepdims: bool = False) -> list[Value]:
    """The element that occurs most often, the smallest of several, and where it stands."""
    at = axis_of(axis, x.type.rank)
    values, index = i.builder.multi("sort", x, axis=at)
    alike = i.op("eq", i.op("unsqueeze", values, axis=at), i.op("unsqueeze", values, axis=at + 1))
    place = i.op("argmax", i.op("sum", i.cast(alike, i64), axis=at + 1), axis=at, keepdims=True)
    both = [i.op("gather", y, place, axis=at) for y in (values, index)]
    return both if keepdims else [i.op("squeeze", y, axis=at) for y in both]
