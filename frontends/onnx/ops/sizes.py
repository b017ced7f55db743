"""Where shapes become numbers, and numbers become tensors: Shape, Size, Range, ConstantOfShape."""

from __future__ import annotations

import math
from math import prod
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, prove_ge
from ....ir.dims.ratio import Ratio, Unfoldable
from ....ir.types import TensorType, f32
from ..call import Call
from ..registry import folds, imports
from ..values import Tensor, dims_of, known_tensor, settle, short


def size_array(dims: Any) -> np.ndarray:
    """Sizes as an array: of integers, or of objects where some are symbols."""
    items = [as_dim(d) for d in dims]
    if all(d.value is not None for d in items):
        return np.array([d.value for d in items], dtype=np.int64)
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


@imports("Shape")
def shape(c: Call) -> Tensor:
    dims = c.shape()
    return known_tensor(size_array(dims[slice(c.attr("start", 0), c.attr("end", len(dims)))]))


@imports("Size")
def size(c: Call) -> Tensor:
    return known_tensor(size_array([c.type().numel]).reshape(()))


def filler(c: Call) -> tuple[Any, Any]:
    """Value and dtype of ConstantOfShape."""
    proto = c.attr("value")
    if proto is None:
        return 0.0, f32
    weight = c.importer.file.store.weight(proto)
    if weight.size != 1:
        c.misfit(f"the value has {weight.size} elements, but must have one")
    return short(weight.load().reshape(())[()]), weight.dtype


@folds("ConstantOfShape")
def fold_constant_of_shape(c: Call, dims: np.ndarray) -> Tensor:
    value, dtype = filler(c)
    sizes = [-1 if d.value is None else d.value for d in dims_of(dims)]
    # What is larger is a mask or a state, and stays a `full`.
    if any(n < 0 for n in sizes) or prod(sizes) > 64:
        raise Unfoldable
    return Tensor(TensorType.of(dtype, sizes), known=np.full(sizes, value, dtype.numpy))


@imports("ConstantOfShape")
def constant_of_shape(c: Call) -> Tensor:
    value, dtype = filler(c)
    # Emitted, so that a shape that is none is refused here; and taken out where it is not read.
    made = c.op("full", shape=tuple(c.dims(0, "the shape")), value=value, dtype=dtype)
    return Tensor(made.type, fill=value, nonnegative=value >= 0)


@folds("Range")
def fold_range(c: Call, start: np.ndarray, limit: np.ndarray, delta: np.ndarray) -> np.ndarray:
    if any(a.dtype == object or a.dtype.kind not in "iu" for a in (start, limit, delta)) or delta == 0:
        raise Unfoldable
    first, last, step = int(start), int(limit), int(delta)
    if len(range(first, last, step)) > 64:
        raise Unfoldable
    return np.arange(first, last, step, dtype=start.dtype)


@imports("Range")
def range_(c: Call) -> Tensor:
    start, stop, step = (c.static(i, "a bound of the range").reshape(-1).tolist()[0] for i in range(3))
    dtype = c.type().dtype
    if step == 0:
        c.misfit("a range with step 0")
    count = _steps(start, stop, step)
    # Floats count in integers first, so that `iota` names the positions.
    row = c.op("iota", n=count, dtype=dtype)
    for name, number, neutral in (("mul", step, 1), ("add", start, 0)):
        if number != neutral:
            array = np.empty((), dtype=object)
            array[()] = number
            type = TensorType.of(dtype)
            row = c.op(name, row, c.region.value(Tensor(type, known=settle(array, type))))
    down = isinstance(step, (int, float)) and step < 0
    first = start.top if isinstance(start, Ratio) else start
    from_zero = first >= 0 if isinstance(first, float) else prove_ge(as_dim(first), 0)
    return c.tensor_of(row, from_zero and not down)


def _steps(start: Any, stop: Any, step: Any) -> Dim:
    """How many numbers there are from ``start`` up (or down) to ``stop``; a step that is a free size is at least 1."""
    if all(isinstance(item, (int, float)) for item in (start, stop, step)):
        return as_dim(max(0, math.ceil((stop - start) / step) if isinstance(step, float) else -((start - stop) // step)))
    span, by = _ratio(stop) - _ratio(start), _ratio(step)
    if isinstance(step, (int, float)) and step < 0:
        span, by = -span, -by
    count = (span / by).ceil().whole()
    return as_dim(0) if prove_ge(-1, count) else count


def _ratio(item: Any) -> Ratio:
    return Ratio(item) if isinstance(item, Dim) else Ratio.of(item)

