"""What torch's references are written in: ``prims.add`` is ``aten.add`` of operands that need no promotion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.dims.dim import const
from ....ir.graph import Value
from ..protocol import ATEN, Import, aten
from . import creation, reduction, resize  # noqa: F401  (they fill the table)

_SAME = {
    "default": """
        abs neg sqrt rsqrt exp exp2 expm1 log log1p log2 log10 sin cos tan tanh sinh cosh asin acos atan asinh acosh atanh erf
        floor ceil round trunc sign signbit reciprocal bitwise_not isfinite fmin fmax maximum minimum atan2 amax amin
        transpose_copy cat""",
    "Tensor": "add sub mul eq ne lt le gt ge bitwise_and bitwise_or bitwise_xor fmod remainder",
    "self": "where",
    "Tensor_Tensor": "pow",
}

for _form, _names in _SAME.items():
    for _name in _names.split():
        if f"{_name}.{_form}" in ATEN:
            aten(f"prims.{_name}.default")(ATEN[f"{_name}.{_form}"])


@aten("prims.div.default")
def _div(i: Import, x: Value, y: Value) -> Value:
    """Of integers it rounds toward 0."""
    return ATEN["div.Tensor_mode"](i, x, y, None if x.type.dtype.kind == "float" else "trunc")


@aten("prims.broadcast_in_dim.default")
def _broadcast_in_dim(i: Import, x: Value, shape: Sequence[Any], axes: Sequence[int]) -> Value:
    wide = [const(1)] * len(shape)
    for axis, dim in zip(axes, x.type.shape, strict=True):
        wide[axis] = dim
    return i.expand(i.reshape(x, wide), shape)


@aten("prims.sum.default")
def _sum(i: Import, x: Value, axes: Any = None, dtype: Any = None) -> Value:
    return ATEN["sum.dim_IntList"](i, x, axes, False, dtype)


@aten("prims.transpose.default")
def _transpose(i: Import, x: Value, order: Sequence[int]) -> Value:
    return i.transpose(x, order)


@aten("prims.view_of.default")
def _view_of(i: Import, x: Value) -> Value:
    return x


@aten("prims.collapse_view.default")
def _collapse(i: Import, x: Value, start: int, end: int) -> Value:
    return ATEN["flatten.using_ints"](i, x, start, end)


@aten("prims.reshape.default")
def _reshape(i: Import, x: Value, shape: Sequence[Any]) -> Value:
    return i.reshape(x, shape)


@aten("prims.empty_strided.default")
def _empty_strided(i: Import, shape: Sequence[Any], strides: Any, dtype: Any = None, *rest: Any) -> Value:
    return ATEN["zeros.default"](i, shape, dtype)


@aten("prims.iota.default")
def _iota(i: Import, count: Any, start: Any, step: Any, dtype: Any = None, *rest: Any) -> Value:
    return creation.stepped(i, count, start, step, dtype)
