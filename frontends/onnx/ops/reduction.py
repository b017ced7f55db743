"""Reductions, sorting and running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....ir.dims.dim import as_dim
from ....ir.dims.ratio import Unfoldable
from ....ir.graph import Value
from ....ir.types import boolean, f32, f64
from ..call import Call
from ..limits import bounded, times
from ..registry import Result, folds, imports
from ..values import Tensor
from .folding import limited

_CORE = {
    "ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max", "ReduceMin": "min", "ReduceProd": "prod",
    "ReduceL1": "sum", "ReduceL2": "sum", "ReduceSumSquare": "sum", "ReduceLogSum": "sum",
}  # fmt: skip


@folds("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin")
def fold_reduce(c: Call, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    given = c.attr("axes") or [] if axes is None else [int(a) for a in axes]
    if not given and c.attr("noop_with_empty_axes", 0):
        return x
    chosen = tuple(given or range(x.ndim))
    if x.dtype != object:
        functions: dict[str, Any] = {"ReduceProd": np.prod, "ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min}
        function = functions[c.op_type]
        return np.asarray(function(x, axis=chosen, keepdims=bool(c.attr("keepdims", 1)))).astype(x.dtype)
    if x.ndim != 1 or c.op_type not in ("ReduceProd", "ReduceSum"):
        raise Unfoldable
    dims = [as_dim(item) for item in x]
    total = as_dim(1 if c.op_type == "ReduceProd" else 0)
    for dim in dims:
        total = bounded(times(total, dim) if c.op_type == "ReduceProd" else total + dim)
    result = np.empty((1,) if c.attr("keepdims", 1) else (), dtype=object)
    result[...] = total
    return result


def _reduced(c: Call) -> list[int] | None:
    """The axes to reduce; None for none at all."""
    axes = c.axes(1)
    if not axes:
        return None if c.attr("noop_with_empty_axes", 0) else list(range(c.rank()))
    return [c.normal_axis(a, c.rank()) for a in axes]


@imports(*_CORE)
def reduce_(c: Call) -> Value:
    x, axes = c.x(), _reduced(c)
    name, dtype = c.op_type, x.type.dtype
    if name == "ReduceL1":
        x = c.op("abs", x)
    elif name in ("ReduceL2", "ReduceSumSquare"):
        x = c.op("mul", x, x)
    if axes is not None and axes:
        attrs = {"axis": axes[0] if len(axes) == 1 else tuple(axes), "keepdims": bool(c.attr("keepdims", 1))}
        if dtype == boolean:
            return c.op({"max": "any", "min": "all"}[_CORE[name]], x, **attrs)
        if name == "ReduceMean" and dtype.kind != "float":
            c.refuse("the mean of integers")
        x = c.op(_CORE[name], x, **attrs)
    if name == "ReduceL2":
        return c.op("sqrt", x) if dtype.kind == "float" else c.cast(c.op("sqrt", c.cast(x, f32)), dtype)
    return c.op("log", x) if name == "ReduceLogSum" else x


@imports("ReduceLogSumExp")
def log_sum_exp(c: Call) -> Value:
    x, axes = c.x(), tuple(_reduced(c) or ())
    if not axes:
        return x
    attrs = {"axis": axes[0] if len(axes) == 1 else axes, "keepdims": bool(c.attr("keepdims", 1))}
    if x.type.dtype.kind != "float":
        return c.cast(c.op("logsumexp", c.cast(x, f64), **attrs), x.type.dtype)
    return c.op("logsumexp", x, **attrs)


@imports("ArgMax", "ArgMin")
def arg(c: Call) -> Tensor:
    x, axis = c.x(), c.axis(0)
    attrs = {"axis": axis, "keepdims": bool(c.attr("keepdims", 1))}
    name = c.op_type.lower()
    if not c.attr("select_last_index", 0):
        return c.tensor_of(c.op(name, x, **attrs), nonnegative=True)
    first = c.op(name, c.op("flip", x, axis=axis), **attrs)
    last = x.type.shape[axis] - 1
    return c.tensor_of(c.op("sub", c.number(last), first), nonnegative=True)


@imports("TopK")
def topk(c: Call) -> list[Tensor]:
    x, axis = c.x(), c.axis(-1)
    k = c.dims(1, "k")[0]
    pair = c.multi("topk", x, k=k, axis=axis, largest=bool(c.attr("largest", 1)))
    return [c.tensor_of(value, nonnegative=i == 1) for i, value in enumerate(pair)]


@folds("CumSum")
def fold_cumsum(c: Call, x: np.ndarray, axis: np.ndarray) -> np.ndarray:
    if x.dtype == object or c.attr("exclusive", 0) or c.attr("reverse", 0):
        raise Unfoldable
    return limited(np.cumsum(x, axis=int(axis.reshape(-1)[0]), dtype=x.dtype))


@imports("CumSum")
def cumsum(c: Call) -> Result:
    axis = c.normal_axis(c.numbers(1, "the axis")[0], c.rank())
    value = c.op(
        "cumsum", c.x(), axis=axis, exclusive=bool(c.attr("exclusive", 0)), reverse=bool(c.attr("reverse", 0))
    )
    return c.tensor_of(value, c.tensor(0).nonnegative)
