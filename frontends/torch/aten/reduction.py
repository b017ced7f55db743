"""Reductions, orders and running sums."""

from __future__ import annotations

import math
from typing import Any

from ....ir.dims.dim import product
from ....ir.graph import Value
from ....ir.types import boolean, f32, i32, i64
from ..protocol import Import, Unsupported, aten, axes_of
from .elementwise import dtype_of


def _summed(i: Import, x: Value, dtype: Any) -> Value:
    """What ``sum`` and ``mean`` add up: integers and booleans as i64."""
    wanted = dtype_of(dtype)
    if wanted is not None:
        return i.cast(x, wanted)
    return x if x.type.dtype.kind == "float" else i.cast(x, i64)


@aten("sum.dim_IntList")
def _sum(i: Import, x: Value, axes: Any = None, keepdims: bool = False, dtype: Any = None) -> Value:
    return i.op("sum", _summed(i, x, dtype), axis=axes_of(axes, x.type.rank), keepdims=keepdims)


@aten("sum")
def _sum_all(i: Import, x: Value, dtype: Any = None) -> Value:
    return i.op("sum", _summed(i, x, dtype))


@aten("mean")
def _mean_all(i: Import, x: Value, dtype: Any = None) -> Value:
    return i.op("mean", i.cast(x, dtype_of(dtype) or x.type.dtype))


@aten("mean.dim")
def _mean(i: Import, x: Value, axes: Any, keepdims: bool = False, dtype: Any = None) -> Value:
    x = i.cast(x, dtype_of(dtype) or x.type.dtype)
    return i.op("mean", x, axis=axes_of(axes, x.type.rank), keepdims=keepdims)


@aten("prod.dim_int")
def _prod(i: Import, x: Value, axis: int, keepdims: bool = False, dtype: Any = None) -> Value:
    return i.op("prod", _summed(i, x, dtype), axis=axis, keepdims=keepdims)


def _extreme(name: str, op: str) -> None:
    @aten(name)
    def importer(i: Import, x: Value, axes: Any = (), keepdims: bool = False) -> Value:
        return i.op(op, x, axis=axes_of(axes, x.type.rank), keepdims=keepdims)


_extreme("amax", "max")
_extreme("amin", "min")
_extreme("max", "max")
_extreme("min", "min")


def _with_index(name: str) -> None:
    @aten(f"{name}.dim")
    def importer(i: Import, x: Value, axis: int, keepdims: bool = False) -> list[Value]:
        values = i.op(name, x, axis=axis, keepdims=keepdims)
        return [values, i.op(f"arg{name}", x, axis=axis, keepdims=keepdims)]

    @aten(f"arg{name}")
    def index(i: Import, x: Value, axis: Any = None, keepdims: bool = False) -> Value:
        if axis is None:
            return i.op(f"arg{name}", i.reshape(x, [x.type.numel]), axis=0)
        return i.op(f"arg{name}", x, axis=axis, keepdims=keepdims)


_with_index("max")
_with_index("min")


def _logical(name: str) -> None:
    def importer(i: Import, x: Value, axes: Any = None, keepdims: bool = False) -> Value:
        if x.type.dtype != boolean:
            x = i.op("ne", x, i.scalar(0, x.type.dtype))
        return i.op(name, x, axis=axes_of(axes, x.type.rank), keepdims=keepdims)

    aten(name, f"{name}.dim", f"{name}.dims")(importer)


_logical("any")
_logical("all")


def _variance(i: Import, x: Value, axes: Any, correction: Any, keepdims: bool) -> Value:
    along = axes_of(axes, x.type.rank) or tuple(range(x.type.rank))
    centred = i.op("sub", x, i.op("mean", x, axis=along, keepdims=True))
    squares = i.op("mul", centred, centred)
    correction = 1 if correction is None else correction
    if correction == 0:
        return i.op("mean", squares, axis=along, keepdims=keepdims)
    count = i.op("sub", i.scalar(product(x.type.shape[a] for a in along), x.type.dtype),
                 i.scalar(correction, x.type.dtype))  # fmt: skip
    return i.op("div", i.op("sum", squares, axis=along, keepdims=keepdims), count)


@aten("var.correction")
def _var(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> Value:
    return _variance(i, x, axes, correction, keepdims)


@aten("var.dim")
def _var_dim(i: Import, x: Value, axes: Any, unbiased: bool = True, keepdims: bool = False) -> Value:
    return _variance(i, x, axes, int(unbiased), keepdims)


@aten("std.correction")
def _std(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> Value:
    return i.op("sqrt", _variance(i, x, axes, correction, keepdims))


@aten("std.dim")
def _std_dim(i: Import, x: Value, axes: Any, unbiased: bool = True, keepdims: bool = False) -> Value:
    return i.op("sqrt", _variance(i, x, axes, int(unbiased), keepdims))


@aten("var_mean.correction")
def _var_mean(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> list[Value]:
    mean = i.op("mean", x, axis=axes_of(axes, x.type.rank), keepdims=keepdims)
    return [_variance(i, x, axes, correction, keepdims), mean]


@aten("logsumexp")
def _logsumexp(i: Import, x: Value, axes: Any, keepdims: bool = False) -> Value:
    along = axes_of(axes, x.type.rank)
    highest = i.foreign("offset", i.op("max", x, axis=along, keepdims=True))
    total = i.op("log", i.op("sum", i.op("exp", i.op("sub", x, highest)), axis=along, keepdims=True))
    result = i.op("add", total, highest)
    return result if keepdims else i.op("squeeze", result, axis=along or tuple(range(x.type.rank)))


@aten("linalg_vector_norm")
def _norm(i: Import, x: Value, order: Any = 2, axes: Any = None, keepdims: bool = False, dtype: Any = None) -> Value:
    x = i.cast(x, dtype_of(dtype) or x.type.dtype)
    along = axes_of(axes, x.type.rank)
    if order == 2:
        return i.op("sqrt", i.op("sum", i.op("mul", x, x), axis=along, keepdims=keepdims))
    if order == 1:
        return i.op("sum", i.op("abs", x), axis=along, keepdims=keepdims)
    if order == math.inf:
        return i.op("max", i.op("abs", x), axis=along, keepdims=keepdims)
    raise Unsupported(f"the norm of order {order}")


@aten("norm.ScalarOpt_dim")
def _norm_scalar(i: Import, x: Value, order: Any, axes: Any, keepdims: bool = False) -> Value:
    return _norm(i, x, 2 if order is None else order, axes, keepdims)


# Orders --------------------------------------------------------------------------------------------------------------


@aten("sort", "sort.stable")
def _sort(i: Import, x: Value, *rest: Any) -> list[Value]:
    *_, axis, descending = rest if len(rest) > 1 else (-1, False)
    return i.builder.multi("sort", x, axis=axis, descending=bool(descending))


@aten("argsort", "argsort.stable")
def _argsort(i: Import, x: Value, *rest: Any) -> Value:
    return _sort(i, x, *rest)[1]


@aten("topk")
def _topk(i: Import, x: Value, k: Any, axis: int = -1, largest: bool = True, ordered: bool = True) -> list[Value]:
    return i.builder.multi("topk", x, k=k, axis=axis, largest=largest)


@aten("searchsorted.Tensor")
def _searchsorted(
    i: Import, row: Value, values: Value, out_int32: bool = False, right: bool = False, *rest: Any
) -> Value:
    if row.type.rank != 1 or any(r is not None for r in rest):
        raise Unsupported("a search in several rows, or in an order of its own")
    row, values = i.together(row, values)
    return i.cast(i.op("searchsorted", row, values, right=right), i32 if out_int32 else i64)


@aten("bucketize.Tensor")
def _bucketize(i: Import, values: Value, row: Value, out_int32: bool = False, right: bool = False) -> Value:
    return _searchsorted(i, row, values, out_int32, right)


@aten("cumsum")
def _cumsum(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    return i.op("cumsum", _summed(i, x, dtype), axis=axis)


@aten("softmax.int", "_softmax")
def softmax(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    wanted = None if isinstance(dtype, bool) else dtype_of(dtype)  # _softmax has half_to_float there
    return i.call(
        "std.nn.softmax", i.cast(x, wanted or (x.type.dtype if x.type.dtype.kind == "float" else f32)), axis=axis
    )


@aten("_safe_softmax")
def _safe_softmax(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    p = softmax(i, x, axis, dtype)
    hopeless = i.op("all", i.op("eq", x, i.scalar(-math.inf, x.type.dtype)), axis=axis, keepdims=True)
    return i.op("where", hopeless, i.scalar(0.0, p.type.dtype), p)


@aten("log_softmax.int", "_log_softmax")
def _log_softmax(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    wanted = None if isinstance(dtype, bool) else dtype_of(dtype)
    return i.call("std.nn.log_softmax", i.cast(x, wanted or x.type.dtype), axis=axis)
