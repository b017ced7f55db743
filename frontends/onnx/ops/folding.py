"""Arithmetic on known numbers and sizes: what exporters compute shapes with."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np

from ....ir.dims.dim import Dim, as_dim, dim_max, dim_min, prove_ge
from ....ir.dims.ratio import Ratio, Unfoldable
from ....ir.types import DType, TensorType
from ...multiples import remainder
from ..call import Call
from ..limits import bounded, times
from ..narrow import NARROW
from ..registry import folds
from ..tensors import dtype_of
from ..values import Tensor, elementwise, settle

# A result of more elements is not text, and is left to the graph.
MOST_ELEMENTS = 4096


def limited(array: np.ndarray) -> np.ndarray:
    if array.size > MOST_ELEMENTS:
        raise Unfoldable
    return array


def _mixed(number: Callable[..., Any], symbolic: Callable[..., Any]) -> Callable[..., Any]:
    """A fold: ``number`` on arrays of numbers, ``symbolic`` on each element where sizes are symbols."""

    def fold(c: Call, *arrays: np.ndarray) -> np.ndarray:
        if any(a.dtype == object for a in arrays):
            return limited(elementwise(lambda *items: bounded(symbolic(*items)), *arrays))
        with np.errstate(all="ignore"):
            return limited(np.asarray(number(*arrays), dtype=_result_dtype(number, arrays)))

    return fold


_PREDICATES = (np.equal, np.less, np.greater, np.less_equal, np.greater_equal)


def _result_dtype(number: Callable[..., Any], arrays: tuple[np.ndarray, ...]) -> Any:
    return np.bool_ if number in _PREDICATES else arrays[0].dtype


@folds("Div")
def _fold_div(c: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def symbolic(x: Any, y: Any) -> Any:
        if isinstance(x, (Ratio, float)) or isinstance(y, (Ratio, float)):
            return Ratio.of(x) / Ratio.of(y)
        top, bottom = as_dim(x), as_dim(y)
        if y == 0 or not prove_ge(bottom, 1):
            raise Unfoldable
        return _toward_zero(c, top, bottom)

    return _mixed(_divide_numbers, symbolic)(c, a, b)


def _toward_zero(c: Call, top: Dim, bottom: Dim) -> Dim:
    """The quotient as ONNX rounds it. Sizes round down, which is the same where nothing is negative."""
    if bottom == 1:
        return top
    if prove_ge(0, top):
        return -(-top // bottom)
    c.importer.require(top, ">=", as_dim(0))
    return top // bottom


def _divide_numbers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "iu":
        return a / b
    if (b == 0).any():
        raise Unfoldable
    quotient = np.abs(a) // np.abs(b)
    return quotient * np.sign(a) * np.sign(b)


def _mod(a: Any, b: Any) -> Any:
    if isinstance(a, Ratio) or isinstance(b, Ratio) or b == 0:
        raise Unfoldable
    return remainder(as_dim(a), as_dim(b))


def _mod_numbers(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind not in "iu" or (b == 0).any():
        raise Unfoldable
    return a % b


def compare(a: Any, b: Any) -> int:
    """-1, 0 or 1. Raises Unfoldable where nothing is proved."""
    if isinstance(a, (Ratio, float)) or isinstance(b, (Ratio, float)):
        x, y = Ratio.of(a), Ratio.of(b)
        a, b = x.top * y.bottom, y.top * x.bottom
    a, b = as_dim(int(a) if isinstance(a, bool) else a), as_dim(int(b) if isinstance(b, bool) else b)
    if a == b:
        return 0
    if prove_ge(a, b + 1):
        return 1
    if prove_ge(b, a + 1):
        return -1
    raise Unfoldable


def _at_least(a: Any, b: Any) -> bool:
    try:
        return compare(a, b) >= 0
    except Unfoldable:
        if not isinstance(a, Ratio) and not isinstance(b, Ratio) and prove_ge(as_dim(a), as_dim(b)):
            return True
        raise


def _only_numbers(*items: Any) -> Any:
    raise Unfoldable


_TABLE: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "Add": (np.add, lambda a, b: a + b),
    "Sub": (np.subtract, lambda a, b: a - b),
    "Mul": (np.multiply, times),
    "Neg": (np.negative, lambda a: -a),
    "Abs": (np.abs, lambda a: a if prove_ge(as_dim(a), 0) else _only_numbers()),
    "Floor": (np.floor, lambda a: Ratio.of(a).floor()),
    "Ceil": (np.ceil, lambda a: Ratio.of(a).ceil()),
    "Sqrt": (np.sqrt, _only_numbers),
    "Reciprocal": (np.reciprocal, lambda a: Ratio(1) / a),
    "Exp": (np.exp, _only_numbers),
    "Log": (np.log, _only_numbers),
    "Pow": (np.power, _only_numbers),
    "Equal": (np.equal, lambda a, b: compare(a, b) == 0),
    "Less": (np.less, lambda a, b: not _at_least(a, b)),
    "Greater": (np.greater, lambda a, b: not _at_least(b, a)),
    "LessOrEqual": (np.less_equal, lambda a, b: _at_least(b, a)),
    "GreaterOrEqual": (np.greater_equal, _at_least),
    "And": (np.logical_and, lambda a, b: bool(a) and bool(b)),
    "Or": (np.logical_or, lambda a, b: bool(a) or bool(b)),
    "Xor": (np.logical_xor, lambda a, b: bool(a) != bool(b)),
    "Not": (np.logical_not, lambda a: not a),
}
for _name, (_number, _symbolic) in _TABLE.items():
    folds(_name)(_mixed(_number, _symbolic))


@folds("Min", "Max")
def _fold_extremum(c: Call, *arrays: np.ndarray) -> np.ndarray:
    smallest = c.op_type == "Min"

    def symbolic(*items: Any) -> Dim:
        if any(isinstance(i, (Ratio, float)) for i in items):
            raise Unfoldable
        kept = [as_dim(i) for i in items]
        # Sizes are at least 1, which canonical forms do not know.
        for dim in list(kept):
            others = [d for d in kept if d is not dim]
            if any(prove_ge(dim, d) if smallest else prove_ge(d, dim) for d in others):
                kept = others
        return c.importer.extremum((dim_min if smallest else dim_max)(*kept))

    number = np.minimum if smallest else np.maximum
    return _mixed(lambda *a: reduce(number, a), symbolic)(c, *arrays)


@folds("Mod")
def _fold_mod(c: Call, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if c.attr("fmod", 0):
        raise Unfoldable
    return _mixed(_mod_numbers, _mod)(c, a, b)


@folds("Where")
def _fold_where(c: Call, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype == object or b.dtype == object:
        return limited(elementwise(lambda p, x, y: x if p else y, condition, a, b))
    return limited(np.where(condition, a, b).astype(a.dtype, copy=False))


@folds("Cast")
def _fold_cast(c: Call, x: np.ndarray) -> Tensor:
    if c.attr("to", 0) in NARROW:
        raise Unfoldable
    return _cast_known(c, x, dtype_of(c.attr("to", 0), c.where))


@folds("CastLike")
def _fold_cast_like(c: Call, x: np.ndarray, other: np.ndarray) -> Tensor:
    if c.tensor(1).narrow:
        raise Unfoldable
    return _cast_known(c, x, c.type(1).dtype)


def _cast_known(c: Call, x: np.ndarray, dtype: DType) -> Tensor:
    type = TensorType.of(dtype, x.shape)
    if x.dtype != object:
        with np.errstate(all="ignore"):
            return Tensor(type, known=x.astype(dtype.numpy))

    def convert(item: Any) -> Any:
        if dtype.kind == "float":
            return item if isinstance(item, Ratio) else Ratio.of(item) if isinstance(item, float) else Ratio(item)
        if dtype.kind == "int":
            if isinstance(item, Ratio):
                return _toward_zero(c, item.top, item.bottom)
            return math.trunc(item) if isinstance(item, float) else item
        return compare(item, 0) != 0

    return Tensor(type, known=settle(elementwise(convert, x), type))
