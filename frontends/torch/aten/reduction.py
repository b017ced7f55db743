"""Reductions, and softmax."""

from __future__ import annotations

import math
from typing import Any

from ....ir.dims.dim import product
from ....ir.graph import Value
from ....ir.types import boolean, f32, i64
from ..protocol import Import, aten, axes_of, on_rows
from .elementwise import dtype_of


def summed(i: Import, x: Value, dtype: Any) -> Value:
    """What ``sum`` and ``mean`` add up: integers and booleans as i64."""
    wanted = dtype_of(dtype)
    if wanted is not None:
        return i.cast(x, wanted)
    return x if x.type.dtype.kind == "float" else i.cast(x, i64)


@aten("sum.dim_IntList")
@on_rows()
def _sum(i: Import, x: Value, axes: Any = None, keepdims: bool = False, dtype: Any = None) -> Value:
    return i.op("sum", summed(i, x, dtype), axis=axes_of(axes, x.type.rank), keepdims=keepdims)


@aten("sum")
@on_rows()
def _sum_all(i: Import, x: Value, dtype: Any = None) -> Value:
    return i.op("sum", summed(i, x, dtype))


@aten("mean")
@on_rows()
def _mean_all(i: Import, x: Value, dtype: Any = None) -> Value:
    return _average(i, i.cast(x, dtype_of(dtype) or x.type.dtype), None, False)


def _nothing(x: Value, along: tuple[int, ...] | None) -> bool:
    """Whether a reduction along these axes has no element."""
    return any(x.type.shape[a] == 0 for a in (range(x.type.rank) if along is None else along))


def _average(i: Import, x: Value, along: tuple[int, ...] | None, keepdims: bool) -> Value:
    """The mean, which of nothing is no number."""
    if not _nothing(x, along):
        return i.op("mean", x, axis=along, keepdims=keepdims)
    return i.op("mul", i.op("sum", x, axis=along, keepdims=keepdims), i.scalar(math.nan, x.type.dtype))


@aten("mean.dim")
@on_rows()
def _mean(i: Import, x: Value, axes: Any, keepdims: bool = False, dtype: Any = None) -> Value:
    x = i.cast(x, dtype_of(dtype) or x.type.dtype)
    return _average(i, x, axes_of(axes, x.type.rank), keepdims)


@aten("prod")
@on_rows()
def _prod_of_all(i: Import, x: Value, dtype: Any = None) -> Value:
    return i.op("prod", summed(i, x, dtype))


@aten("prod.dim_int")
@on_rows()
def _prod(i: Import, x: Value, axis: int, keepdims: bool = False, dtype: Any = None) -> Value:
    return i.op("prod", summed(i, x, dtype), axis=axis, keepdims=keepdims)


def _extreme(name: str, op: str) -> None:
    @aten(name)
    @on_rows(booleans=True)
    def importer(i: Import, x: Value, axes: Any = (), keepdims: bool = False) -> Value:
        return i.op(op, x, axis=axes_of(axes, x.type.rank), keepdims=keepdims)


_extreme("amax", "max")
_extreme("amin", "min")
_extreme("max", "max")
_extreme("min", "min")


def _with_index(name: str) -> None:
    @aten(f"{name}.dim")
    @on_rows(booleans=True)
    def importer(i: Import, x: Value, axis: int, keepdims: bool = False) -> list[Value]:
        values = i.op(name, x, axis=axis, keepdims=keepdims)
        return [values, i.op(f"arg{name}", x, axis=axis, keepdims=keepdims)]

    @aten(f"arg{name}")
    @on_rows(booleans=True)
    def index(i: Import, x: Value, axis: Any = None, keepdims: bool = False) -> Value:
        if axis is None:
            return i.op(f"arg{name}", i.reshape(x, [x.type.numel]), axis=0)
        return i.op(f"arg{name}", x, axis=axis, keepdims=keepdims)


_with_index("max")
_with_index("min")


def _logical(name: str) -> None:
    @on_rows()
    def importer(i: Import, x: Value, axes: Any = None, keepdims: bool = False) -> Value:
        if x.type.dtype != boolean:
            x = i.op("ne", x, i.scalar(0, x.type.dtype))
        return i.op(name, x, axis=axes_of(axes, x.type.rank), keepdims=keepdims)

    aten(name, f"{name}.dim", f"{name}.dims")(importer)


_logical("any")
_logical("all")


def _variance(i: Import, x: Value, axes: Any, correction: Any, keepdims: bool) -> Value:
    along = axes_of(axes, x.type.rank) or tuple(range(x.type.rank))
    if _nothing(x, along):
        return _average(i, x, along, keepdims)
    centred = i.op("sub", x, i.op("mean", x, axis=along, keepdims=True))
    squares = i.op("mul", centred, centred)
    correction = 1 if correction is None else correction
    if correction == 0:
        return i.op("mean", squares, axis=along, keepdims=keepdims)
    count = i.op("sub", i.scalar(product(x.type.shape[a] for a in along), x.type.dtype),
                 i.scalar(correction, x.type.dtype))  # fmt: skip
    return i.op("div", i.op("sum", squares, axis=along, keepdims=keepdims), count)


@aten("var.correction")
@on_rows()
def _var(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> Value:
    return _variance(i, x, axes, correction, keepdims)


@aten("var.dim")
@on_rows()
def _var_dim(i: Import, x: Value, axes: Any, unbiased: bool = True, keepdims: bool = False) -> Value:
    return _variance(i, x, axes, int(unbiased), keepdims)


@aten("std.correction")
@on_rows()
def _std(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> Value:
    return i.op("sqrt", _variance(i, x, axes, correction, keepdims))


@aten("std.dim")
@on_rows()
def _std_dim(i: Import, x: Value, axes: Any, unbiased: bool = True, keepdims: bool = False) -> Value:
    return i.op("sqrt", _variance(i, x, axes, int(unbiased), keepdims))


@aten("var_mean.correction")
@on_rows()
def _var_mean(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> list[Value]:
    mean = _average(i, x, axes_of(axes, x.type.rank), keepdims)
    return [_variance(i, x, axes, correction, keepdims), mean]


@aten("std_mean.correction")
@on_rows()
def _std_mean(i: Import, x: Value, axes: Any = None, correction: Any = None, keepdims: bool = False) -> list[Value]:
    variance, mean = _var_mean(i, x, axes, correction, keepdims)
    return [i.op("sqrt", variance), mean]


@aten("logsumexp")
@on_rows()
def _logsumexp(i: Import, x: Value, axes: Any, keepdims: bool = False) -> Value:
    (x,) = i.together(x, floating=True)
    along = axes_of(axes, x.type.rank)
    highest = i.foreign("offset", i.op("max", x, axis=along, keepdims=True))
    total = i.op("log", i.op("sum", i.op("exp", i.op("sub", x, highest)), axis=along, keepdims=True))
    result = i.op("add", total, highest)
    return result if keepdims else i.op("squeeze", result, axis=along or tuple(range(x.type.rank)))


@aten("linalg_vector_norm")
@on_rows()
def norm(i: Import, x: Value, order: Any = 2, axes: Any = None, keepdims: bool = False, dtype: Any = None) -> Value:
    x = i.cast(x, dtype_of(dtype) or x.type.dtype)
    along = axes_of(axes, x.type.rank)
    if order == 2:
        return i.op("sqrt", i.op("sum", i.op("mul", x, x), axis=along, keepdims=keepdims))
    if order == 1:
        return i.op("sum", i.op("abs", x), axis=along, keepdims=keepdims)
    if order in (math.inf, -math.inf):
        return i.op("max" if order > 0 else "min", i.op("abs", x), axis=along, keepdims=keepdims)
    if order == 0:
        return i.op("sum", i.cast(i.op("ne", x, i.scalar(0, x.type.dtype)), x.type.dtype), axis=along, keepdims=keepdims)
    powers = i.op("pow", i.op("abs", x), i.scalar(float(order), x.type.dtype))
    return i.op("pow", i.op("sum", powers, axis=along, keepdims=keepdims), i.scalar(1.0 / order, x.type.dtype))


@aten("norm.ScalarOpt_dim")
def _norm_scalar(i: Import, x: Value, order: Any, axes: Any, keepdims: bool = False) -> Value:
    return norm(i, x, 2 if order is None else order, axes, keepdims)


# Softmax -------------------------------------------------------------------------------------------------------------


@aten("softmax.int", "_softmax")
@on_rows()
def softmax(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    return i.call("std.nn.softmax", _floating(i, x, dtype), axis=axis)


def _floating(i: Import, x: Value, dtype: Any) -> Value:
    wanted = None if isinstance(dtype, bool) else dtype_of(dtype)  # _softmax has half_to_float there
    return i.cast(x, wanted or (x.type.dtype if x.type.dtype.kind == "float" else f32))


@aten("_safe_softmax")
@on_rows()
def _safe_softmax(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    p = softmax(i, x, axis, dtype)
    hopeless = i.op("all", i.op("eq", x, i.scalar(-math.inf, x.type.dtype)), axis=axis, keepdims=True)
    return i.op("where", hopeless, i.scalar(0.0, p.type.dtype), p)


@aten("log_softmax.int", "_log_softmax")
@on_rows()
def _log_softmax(i: Import, x: Value, axis: int, dtype: Any = None) -> Value:
    return i.call("std.nn.log_softmax", _floating(i, x, dtype), axis=axis)
