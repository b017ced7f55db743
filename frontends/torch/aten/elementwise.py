"""Arithmetic, comparison, selection, conversion."""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from ....ir.op import Op, Trait, has, kept
from ....ir.signature import Pattern
from ....ir.types import DTYPES, DType, boolean, i64
from ..protocol import SCALAR_TYPES, Import, Unsupported, aten


def dtype_of(value: Any) -> DType | None:
    """A dtype operand: ours, torch's number of it, or None."""
    if value is None or isinstance(value, DType):
        return value
    if value not in SCALAR_TYPES:
        raise Unsupported(f"dtype number {value}")
    return SCALAR_TYPES[value]


def literal_of(value: Any) -> Any:
    """The number of a scalar that is known now: a Python number, a ``constant`` or a ``full``; else None."""
    if not isinstance(value, Value):
        return value
    node = value.node
    while node is not None and len(node.inputs) == 1 and (has(node, Trait.MOVES) or node.op.name == "cast"):
        value = node.inputs[0]
        assert value is not None
        node = value.node
    if node is not None and has(node, Trait.HOLDS) and not isinstance(node.attrs["value"], tuple):
        return node.attrs["value"]
    return None


def nonnegative(value: Value, depth: int = 8) -> bool:
    """Whether it is plain from how an index is made that no element is negative."""
    node = value.node
    if node is None or depth == 0:
        return False
    known = literal_of(value)
    if isinstance(known, (int, float)):
        return known >= 0
    name = node.op.name
    if name == "constant":
        return _least(node.attrs["value"]) >= 0
    if name == "iota" or _is_place(value):
        return True
    if name == "full":
        return True  # a size, since what is known now was looked at above
    operands = [v for v in node.inputs if v is not None]
    if name == "maximum":
        return any(nonnegative(v, depth - 1) for v in operands)
    if has(node, Trait.KEEPS):
        operands = [operands[i] for i in kept(node)]
        return all(v.type.dtype == boolean or nonnegative(v, depth - 1) for v in operands)
    if name in ("add", "mul", "floordiv"):
        return all(nonnegative(v, depth - 1) for v in operands)
    return name == "mod"


def _is_place(value: Value) -> bool:
    """Whether a core op always gives this result as i64: the places and counts of a selection."""
    node = value.node
    result = node.op.signature.results[value.index].type if node is not None and isinstance(node.op, Op) else None
    return isinstance(result, Pattern) and result.dtype == i64


def _least(value: Any) -> Any:
    return min(map(_least, value), default=0) if isinstance(value, tuple) else value


# One operand ---------------------------------------------------------------------------------------------------------


def _unary(name: str, op: str, *, floating: bool = True) -> None:
    @aten(name)
    def importer(i: Import, x: Any) -> Value:
        (x,) = i.together(x, floating=floating)
        return i.op(op, x)


for _name in ("exp", "log", "sqrt", "rsqrt", "sin", "cos", "atan", "tanh", "sigmoid", "erf"):
    _unary(_name, _name)
_unary("isnan", "is_nan")


def _of_the_library(name: str) -> None:
    @aten(name)
    def importer(i: Import, *operands: Any) -> Value:
        return i.call(f"std.math.{name}", *i.broadcast(*i.together(*operands, floating=True)))


for _name in ("acos", "asin", "atan2", "erfc"):
    _of_the_library(_name)
for _name in ("neg", "abs"):
    _unary(_name, _name, floating=False)


def _rounding(name: str, op: str) -> None:
    @aten(name)
    def importer(i: Import, x: Value) -> Value:
        return i.op(op, x) if x.type.dtype.kind == "float" else x


for _name in ("floor", "ceil", "round"):
    _rounding(_name, _name)


@aten("trunc", "fix")
def _trunc(i: Import, x: Value) -> Value:
    return i.foreign("trunc", x) if x.type.dtype.kind == "float" else x


@aten("sign", "sgn")
def _sign(i: Import, x: Value) -> Value:
    return x if x.type.dtype == boolean else i.op("sign", x)


@aten("logical_not")
def _not(i: Import, x: Value) -> Value:
    if x.type.dtype != boolean:
        return i.op("eq", x, i.scalar(0, x.type.dtype))
    return i.op("logical_not", x)


@aten("bitwise_not")
def _bitwise_not(i: Import, x: Value) -> Value:
    return i.op("logical_not" if x.type.dtype == boolean else "bitwise_not", x)


# Two operands --------------------------------------------------------------------------------------------------------


def _neutral(x: Any, y: Any, number: float) -> bool:
    """Whether ``y`` is that number, and adding or multiplying it leaves x what it is, dtype and shape included."""
    return (
        isinstance(x, Value)
        and not isinstance(y, bool)
        and not (isinstance(y, Value) and y.type.rank)
        and literal_of(y) == number
        and not (isinstance(y, float) and x.type.dtype.kind != "float")
        and not (isinstance(y, Value) and y.type.dtype.kind != x.type.dtype.kind)
        and x.type.dtype != boolean
    )


@aten("add.Tensor", "add.Scalar")
def _add(i: Import, x: Any, y: Any, alpha: Any = 1) -> Value:
    if _neutral(x, y, 0):
        return x
    if _neutral(y, x, 0) and alpha == 1:
        return y
    x, y = i.together(x, y)
    if x.type.dtype == boolean:
        return i.op("logical_or", x, y) if alpha else i.broadcast(x, y)[0]
    return i.op("add", x, _scaled(i, y, alpha))


def _scaled(i: Import, y: Value, alpha: Any) -> Value:
    return y if alpha == 1 else i.op("mul", y, i.scalar(alpha, y.type.dtype))


@aten("sub.Tensor", "sub.Scalar")
def _sub(i: Import, x: Any, y: Any, alpha: Any = 1) -> Value:
    if _neutral(x, y, 0):
        return x
    x, y = i.together(x, y)
    return i.op("sub", x, _scaled(i, y, alpha))


@aten("rsub.Tensor", "rsub.Scalar")
def _rsub(i: Import, x: Any, y: Any, alpha: Any = 1) -> Value:
    x, y = i.together(x, y)
    return i.op("sub", y, _scaled(i, x, alpha))


@aten("mul.Tensor", "mul.Scalar")
def _mul(i: Import, x: Any, y: Any) -> Value:
    if _neutral(x, y, 1):
        return x
    if _neutral(y, x, 1):
        return y
    x, y = i.together(x, y)
    return i.op("logical_and" if x.type.dtype == boolean else "mul", x, y)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor")
def _div(i: Import, x: Any, y: Any) -> Value:
    if _neutral(x, y, 1) and x.type.dtype.kind == "float":
        return x
    return i.op("div", *i.together(x, y, floating=True))


@aten("div.Tensor_mode", "div.Scalar_mode")
def _div_mode(i: Import, x: Any, y: Any, mode: Any) -> Value:
    if mode is None:
        return _div(i, x, y)
    x, y = i.together(x, y)
    if x.type.dtype.kind == "float":
        return i.foreign("floor_divide", x, y) if mode == "floor" else i.foreign("trunc", i.op("div", x, y))
    return i.op("floordiv", x, y) if mode == "floor" else i.foreign("whole_quotient", x, y)


@aten("floor_divide", "floor_divide.Scalar")
def _floor_divide(i: Import, x: Any, y: Any) -> Value:
    return _div_mode(i, x, y, "floor")


@aten("remainder.Tensor", "remainder.Scalar")
def _remainder(i: Import, x: Any, y: Any) -> Value:
    x, y = i.together(x, y)
    if x.type.dtype.kind == "float":
        return i.foreign("remainder", x, y)
    return i.op("mod", x, y)


@aten("fmod.Tensor", "fmod.Scalar")
def _fmod(i: Import, x: Any, y: Any) -> Value:
    x, y = i.together(x, y)
    return i.foreign("fmod" if x.type.dtype.kind == "float" else "whole_remainder", x, y)


@aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def _pow(i: Import, x: Any, y: Any) -> Value:
    exponent = literal_of(y)
    if isinstance(x, Value) and isinstance(exponent, (int, float)) and not (isinstance(y, Value) and y.type.rank):
        whole = isinstance(exponent, int) and exponent in (1, 2, 3, 4)
        if whole or isinstance(exponent, float) or x.type.dtype.kind == "float":
            (x,) = i.together(x, floating=not whole)
            return i.foreign("power", x, exponent=float(exponent))
    x, y = i.together(x, y)
    return i.op("pow", x, y) if x.type.dtype.kind == "float" else i.foreign("integer_power", *i.broadcast(x, y))


_OF_BOOLEANS = {"minimum": "logical_and", "maximum": "logical_or"}


def _extreme(i: Import, op: str, x: Value, y: Value) -> Value:
    return i.op(_OF_BOOLEANS[op] if x.type.dtype == boolean else op, x, y)


def _binary(op: str, *names: str) -> None:
    @aten(*names)
    def importer(i: Import, x: Any, y: Any) -> Value:
        return _extreme(i, op, *i.together(x, y))


_binary("minimum", "minimum", "min.other")
_binary("maximum", "maximum", "max.other")


def _without_nan(name: str, op: str) -> None:
    @aten(name)
    def importer(i: Import, x: Any, y: Any) -> Value:
        x, y = i.together(x, y)
        return i.foreign(name, x, y) if x.type.dtype.kind == "float" else _extreme(i, op, x, y)


_without_nan("fmin", "minimum")
_without_nan("fmax", "maximum")


def _compare(op: str) -> None:
    @aten(f"{op}.Tensor", f"{op}.Scalar")
    def importer(i: Import, x: Any, y: Any) -> Value:
        if op == "ge" and literal_of(y) == 0 and isinstance(x, Value) and nonnegative(x):
            # How masks are written that hide nothing: `position >= 0`.
            return i.expand(i.builder.constant(True, boolean), x.type.shape)
        x, y = i.together(x, y)
        if x.type.dtype == boolean and op not in ("eq", "ne"):
            x, y = i.cast(x, DTYPES["i32"]), i.cast(y, DTYPES["i32"])
        return i.op(op, x, y)


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _compare(_name)


def _logic(i: Import, op: str, x: Value, y: Value, identity: bool) -> Value:
    for a, b in ((x, y), (y, x)):
        if literal_of(a) is identity:
            return i.broadcast(b, a)[0]
    return i.op(op, x, y)


for _name in ("left", "right"):
    _shifts = [f"bitwise_{_name}_shift.{form}" for form in ("Tensor", "Tensor_Scalar", "Scalar_Tensor")]
    _binary(f"{_name}_shift", *_shifts, *(f"__{_name[0]}shift__.{form}" for form in ("Tensor", "Scalar")))

_LOGIC = {"and": ("logical_and", True), "or": ("logical_or", False), "xor": ("ne", False)}


def _logical(name: str) -> None:
    @aten(f"logical_{name}")
    def importer(i: Import, x: Any, y: Any) -> Value:
        return _logic(i, _LOGIC[name][0], i.tensor(x, boolean), i.tensor(y, boolean), _LOGIC[name][1])

    @aten(*(f"{op}.{form}" for op in (f"bitwise_{name}", f"__{name}__") for form in ("Tensor", "Scalar", "Scalar_Tensor")))
    def bits(i: Import, x: Any, y: Any) -> Value:
        x, y = i.together(x, y)
        if x.type.dtype != boolean:
            return i.op(f"bitwise_{name}", x, y)
        return _logic(i, _LOGIC[name][0], x, y, _LOGIC[name][1])


for _name in _LOGIC:
    _logical(_name)


# Selection and bounds ------------------------------------------------------------------------------------------------


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(i: Import, condition: Value, x: Any, y: Any) -> Value:
    x, y = i.together(x, y)
    return i.op("where", i.cast(condition, boolean), x, y)


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(i: Import, x: Value, mask: Value, value: Any) -> Value:
    return i.op("where", i.cast(mask, boolean), i.tensor(value, x.type.dtype), x)


@aten("hardtanh")
def _hardtanh(i: Import, x: Value, low: Any = -1, high: Any = 1) -> Value:
    """The bounds are numbers of x's own kind."""
    return _clamp(i, x, i.scalar(low, x.type.dtype), i.scalar(high, x.type.dtype))


@aten("relu6")
def _relu6(i: Import, x: Value) -> Value:
    return i.foreign("relu6", x) if x.type.dtype.kind == "float" else _hardtanh(i, x, 0, 6)


@aten("threshold")
def _threshold(i: Import, x: Value, threshold: Any, value: Any) -> Value:
    if x.type.dtype.kind == "float":
        return i.foreign("threshold", x, threshold=float(threshold), value=float(value))
    return i.op("where", i.op("le", x, i.scalar(threshold, x.type.dtype)), i.scalar(value, x.type.dtype), x)


@aten("clamp", "clamp.Tensor", "clip")
def _clamp(i: Import, x: Value, low: Any = None, high: Any = None) -> Value:
    bounds = [b for b in (low, high) if b is not None]
    x = i.together(x, *bounds)[0]
    if low is not None:
        x = _extreme(i, "maximum", x, i.tensor(low, x.type.dtype))
    if high is not None:
        x = _extreme(i, "minimum", x, i.tensor(high, x.type.dtype))
    return x


@aten("clamp_min", "clamp_min.Tensor")
def _clamp_min(i: Import, x: Value, low: Any) -> Value:
    return _clamp(i, x, low, None)


@aten("clamp_max", "clamp_max.Tensor")
def _clamp_max(i: Import, x: Value, high: Any) -> Value:
    return _clamp(i, x, None, high)


# Conversion and copies -----------------------------------------------------------------------------------------------


@aten("_to_copy")
def _to_copy(i: Import, x: Value, dtype: Any = None, *rest: Any) -> Value:
    return i.cast(x, dtype_of(dtype) or x.type.dtype)


@aten("to.dtype", "to.dtype_layout", "prims.convert_element_type.default")
def _to_dtype(i: Import, x: Value, dtype: Any = None, *rest: Any) -> Value:
    return i.cast(x, dtype_of(dtype) or x.type.dtype)


@aten("to.device")
def _to_device(i: Import, x: Value, device: Any, dtype: Any = None, *rest: Any) -> Value:
    return i.cast(x, dtype_of(dtype) or x.type.dtype)


@aten("to.other", "type_as")
def _type_as(i: Import, x: Value, other: Value, *rest: Any) -> Value:
    return i.cast(x, other.type.dtype)


@aten("copy")
def _copy(i: Import, x: Value, source: Any, *rest: Any) -> Value:
    return i.expand(i.tensor(source, x.type.dtype), x.type.shape)


_SAME = "clone alias detach contiguous lift_fresh_copy lift_fresh detach_copy positive resolve_conj resolve_neg"


@aten(*_SAME.split())
def _same(i: Import, x: Value, *rest: Any) -> Value:
    return x


@aten("dropout", "feature_dropout", "alpha_dropout")
def _dropout(i: Import, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise Unsupported("dropout that drops (call `model.eval()` first)")
    return x


_CHECKS = "_assert_tensor_metadata _assert_async _assert_async.msg _assert_scalar sym_constrain_range sym_constrain_range_for_size"


@aten(*_CHECKS.split())
def _nothing(i: Import, *rest: Any) -> None:
    return None
