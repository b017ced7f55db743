"""Ops that make tensors."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from ....ir.dims.dim import Dim, as_dim, ceildiv, dim_max, dim_min
from ....ir.graph import Value
from ....ir.op import Trait, has
from ....ir.types import DType, boolean, f32, i64
from ..protocol import Import, Unsupported, aten
from .elementwise import dtype_of


def _range(i: Import, start: Any, end: Any, step: Any, dtype: DType | None) -> Value:
    if all(isinstance(v, (int, Dim)) for v in (start, end, step)):
        up = as_dim(step).value is None or step > 0
        rows = as_dim(end) - start if up else as_dim(start) - end
        count = ceildiv(rows, step if up else -step)
        return stepped(i, count, start, step, dtype or i64)
    if any(isinstance(v, Dim) for v in (start, end, step)):
        raise Unsupported("a range of reals up to a size that is not known")
    return stepped(i, math.ceil((end - start) / step), start, step, dtype or f32)


def stepped(i: Import, count: Any, start: Any, step: Any, dtype: DType) -> Value:
    """``start + step * (0 … count - 1)``."""
    result = i.op("iota", n=count, dtype=dtype)
    if step != 1:
        result = i.op("mul", result, i.scalar(step, dtype))
    return result if as_number(start) == 0 else i.op("add", result, i.scalar(start, dtype))


def as_number(value: Any) -> Any:
    return value.value if isinstance(value, Dim) else value


@aten("arange")
def _arange(i: Import, end: Any, dtype: Any = None, *rest: Any) -> Value:
    return _range(i, 0, end, 1, dtype_of(dtype))


@aten("arange.start")
def _arange_start(i: Import, start: Any, end: Any, dtype: Any = None, *rest: Any) -> Value:
    return _range(i, start, end, 1, dtype_of(dtype))


@aten("arange.start_step")
def _arange_step(i: Import, start: Any, end: Any, step: Any = 1, dtype: Any = None, *rest: Any) -> Value:
    return _range(i, start, end, step, dtype_of(dtype))


@aten("linspace")
def _linspace(i: Import, start: Any, end: Any, steps: Any, dtype: Any = None, *rest: Any) -> Value:
    count = as_number(steps)
    if not isinstance(count, int):
        raise Unsupported("linspace of a number of steps that is not known")
    width = 0.0 if count < 2 else (end - start) / (count - 1)
    return i.cast(stepped(i, count, float(start), width, f32), dtype_of(dtype) or f32)


def _full(i: Import, shape: Sequence[Any], value: Any, dtype: DType) -> Value:
    if isinstance(value, (Value, Dim)):
        return i.expand(i.tensor(value, dtype), [as_dim(d) for d in shape])
    number = bool(value) if dtype == boolean else int(value) if dtype.kind == "int" else float(value)
    return (
        i.builder.constant(number, dtype) if not shape else i.op("full", shape=tuple(shape), value=number, dtype=dtype)
    )


def _dtype_of_number(value: Any) -> DType:
    if isinstance(value, Value):
        return value.type.dtype
    return boolean if isinstance(value, bool) else f32 if isinstance(value, float) else i64


@aten("full")
def _full_default(i: Import, shape: Sequence[Any], value: Any, dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, value, dtype_of(dtype) or _dtype_of_number(value))


@aten("zeros", "empty.memory_format")
def _zeros(i: Import, shape: Sequence[Any], dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, 0, dtype_of(dtype) or f32)


@aten("empty_strided", "empty_permuted")
def _empty(i: Import, shape: Sequence[Any], layout: Any, dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, 0, dtype_of(dtype) or f32)


@aten("ones")
def _ones(i: Import, shape: Sequence[Any], dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, 1, dtype_of(dtype) or f32)


@aten("full_like")
def _full_like(i: Import, x: Value, value: Any, dtype: Any = None, *rest: Any) -> Value:
    return _full(i, x.type.shape, value, dtype_of(dtype) or x.type.dtype)


@aten("zeros_like", "empty_like")
def _zeros_like(i: Import, x: Value, dtype: Any = None, *rest: Any) -> Value:
    return _full(i, x.type.shape, 0, dtype_of(dtype) or x.type.dtype)


@aten("ones_like")
def _ones_like(i: Import, x: Value, dtype: Any = None, *rest: Any) -> Value:
    return _full(i, x.type.shape, 1, dtype_of(dtype) or x.type.dtype)


@aten("new_full")
def _new_full(i: Import, x: Value, shape: Sequence[Any], value: Any, dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, value, dtype_of(dtype) or x.type.dtype)


@aten("new_zeros", "new_empty")
def _new_zeros(i: Import, x: Value, shape: Sequence[Any], dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, 0, dtype_of(dtype) or x.type.dtype)


@aten("new_ones")
def _new_ones(i: Import, x: Value, shape: Sequence[Any], dtype: Any = None, *rest: Any) -> Value:
    return _full(i, shape, 1, dtype_of(dtype) or x.type.dtype)


@aten("fill.Scalar", "fill.Tensor")
def _fill(i: Import, x: Value, value: Any) -> Value:
    return _full(i, x.type.shape, value, x.type.dtype)


@aten("scalar_tensor")
def _scalar_tensor(i: Import, value: Any, dtype: Any = None, *rest: Any) -> Value:
    return i.scalar(value, dtype_of(dtype) or f32)


# What sizes that were made tensors go through before they are numbers again.
_SIZES: dict[str, Callable[..., Dim]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "minimum": dim_min,
    "maximum": dim_max,
    "cast": lambda dim: dim,
    "stop_gradient": lambda dim: dim,
}


@aten("item", "_local_scalar_dense")
def _item(i: Import, x: Value) -> int | Dim:
    dim = _size(x)
    if dim is None:
        raise Unsupported("a number that depends on what is in a tensor")
    return dim if dim.value is None else dim.value


def _size(x: Value) -> Dim | None:
    """The size that a tensor without axes holds, if it is made of sizes (DeBERTa's spans)."""
    node = x.node
    if node is None or x.type.rank or x.type.dtype.kind != "int":
        return None
    if has(node, Trait.HOLDS):
        return as_dim(node.attrs["value"])
    parts = [None if v is None else _size(v) for v in node.inputs]
    known = [p for p in parts if p is not None]
    made = _SIZES.get(node.op.qualified)
    return made(*known) if made is not None and len(known) == len(parts) else None
