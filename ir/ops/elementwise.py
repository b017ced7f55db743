"""Arithmetic, comparison, selection and conversion, element by element; operands broadcast."""

from __future__ import annotations

import math
from typing import Any

from ..diagnostics import Span
from ..numeric import np
from ..op import Attrs, Bad, Sample, Trait
from ..types import TensorType
from . import define
from .meaning import Function, plain


def _unary(
    name: str, kind: str, meaning: Function, doc: str, low: float = -2.0, high: float = 2.0, traits: tuple[Trait, ...] = ()
) -> None:
    def samples(rng: Any) -> list[Sample]:
        return [Sample((rng.uniform(low, high, shape).astype(np.float32),)) for shape in [(3, 5), (2, 1, 4), ()]]

    define(f"{name}(x: {kind}[...]) -> {kind}[...]", doc, family="elementwise", samples=samples, meaning=plain(meaning),
           traits=traits, bad=(Bad((TensorType.of("bool", [2]),), {}, "E0303"),))  # fmt: skip


_unary("neg", "num", "negative", "`-x`.", traits=(Trait.SCALES, Trait.ADDS))
_unary("abs", "num", "abs", "The absolute value.")
_unary("sign", "num", "sign", "-1, 0 or 1.")
_unary("exp", "float", "exp", "`e ** x`.")
_unary("log", "float", "log", "The natural logarithm; -inf at 0.", 0.1, 4.0)
_unary("sqrt", "float", "sqrt", "The square root.", 0.1, 4.0)
_unary("rsqrt", "float", lambda x: 1 / np.sqrt(x), "`1 / sqrt(x)`.", 0.1, 4.0)
_unary("sin", "float", "sin", "The sine of radians.")
_unary("cos", "float", "cos", "The cosine of radians.")
_unary("atan", "float", "arctan", "The angle in radians whose tangent is x, between -pi/2 and pi/2.")
_unary("tanh", "float", "tanh", "The hyperbolic tangent.")
_unary("sigmoid", "float", lambda x: 1 / (1 + np.exp(-x)), "`1 / (1 + exp(-x))`.")
_unary("erf", "float", lambda x: np.vectorize(math.erf, [float])(x), "The error function.")
_unary("floor", "float", "floor", "The greatest integer not above x.")
_unary("ceil", "float", "ceil", "The least integer not below x.")
_unary("round", "float", "round", "The nearest integer; halves go to the even one.")


def _two(low: float, high: float, integer: bool = False) -> Any:
    def samples(rng: Any) -> list[Sample]:
        def draw(shape: tuple[int, ...]) -> Any:
            if integer:
                return rng.integers(1, 9, shape).astype(np.int64)
            return rng.uniform(low, high, shape).astype(np.float32)

        return [Sample((draw(a), draw(b))) for a, b in [((3, 5), (3, 5)), ((2, 1, 4), (3, 1)), ((4,), ())]]

    return samples


_CLASH = Bad((TensorType.of("f32", ["B", 3]), TensorType.of("f32", ["B", 4])), {}, "E0304")
_CLASH_INT = Bad((TensorType.of("i64", ["B", 3]), TensorType.of("i64", ["B", 4])), {}, "E0304")
_MIXED = Bad((TensorType.of("f32", [3]), TensorType.of("i64", [3])), {}, "E0303")


def _binary(
    name: str, kind: str, meaning: Function, doc: str, low: float = -2.0, high: float = 2.0,
    integer: bool = False, traits: tuple[Trait, ...] = (), neutral: float | None = None,
) -> None:  # fmt: skip
    define(f"{name}(a: {kind}[...], b: {kind}[...]) -> {kind}[...]", doc, family="elementwise", packs="broadcast",
           traits=traits, meaning=plain(meaning), neutral=neutral, samples=_two(low, high, integer),
           bad=(_CLASH, _MIXED) if kind != "int" else (_MIXED,))  # fmt: skip


_CHOICE = (Trait.COMMUTES, Trait.IDEMPOTENT, Trait.KEEPS)
_binary("add", "num", "add", "`a + b`.", traits=(Trait.COMMUTES, Trait.ADDS), neutral=0)
_binary("sub", "num", "subtract", "`a - b`.", traits=(Trait.ADDS,), neutral=0)
_binary("mul", "num", "multiply", "`a * b`.", traits=(Trait.COMMUTES, Trait.CONNECTS, Trait.MEETS), neutral=1)
_binary("div", "float", "divide", "`a / b`.", 0.5, 2.0, neutral=1)
_binary("floordiv", "int", "floor_divide", "`a // b`, rounded down; `b` is not 0.", integer=True, neutral=1)
_binary("mod", "int", "mod", "`a % b`, with the sign of `b`; `b` is not 0.", integer=True)
_binary("pow", "float", "power", "`a ** b`, for `a >= 0`.", 0.1, 2.0, neutral=1)
_binary("minimum", "num", "minimum", "The smaller of two elements.", traits=(*_CHOICE, Trait.MEETS))
_binary("maximum", "num", "maximum", "The larger of two elements.", traits=_CHOICE)


def _compare(name: str, kind: str, symbol: str, meaning: Function, *traits: Trait) -> None:
    define(f"{name}(a: {kind}[...], b: {kind}[...]) -> bool[...]", f"`a {symbol} b`.", family="elementwise",
           packs="broadcast", traits=(Trait.COMPARES, *traits), meaning=plain(meaning),
           samples=_two(0, 0, integer=True), bad=(_CLASH, _MIXED))  # fmt: skip


_compare("eq", "any", "==", "equal", Trait.COMMUTES)
_compare("ne", "any", "!=", "not_equal", Trait.COMMUTES)
_compare("lt", "num", "<", "less")
_compare("le", "num", "<=", "less_equal")
_compare("gt", "num", ">", "greater")
_compare("ge", "num", ">=", "greater_equal")


def _logical_samples(rng: Any) -> list[Sample]:
    return [Sample((rng.random(a) < 0.5, rng.random(b) < 0.5)) for a, b in [((3, 5), (3, 5)), ((2, 4), (4,))]]


_LOGICAL: list[tuple[str, str, bool, tuple[Trait, ...]]] = [
    ("logical_and", "`a and b`.", True, (Trait.MEETS,)), ("logical_or", "`a or b`.", False, ()),
]  # fmt: skip
for _name, _doc, _neutral, _meets in _LOGICAL:
    define(f"{_name}(a: bool[...], b: bool[...]) -> bool[...]", _doc, family="elementwise", packs="broadcast",
           traits=(Trait.COMMUTES, Trait.IDEMPOTENT, Trait.CONNECTS, *_meets), meaning=plain(_name), neutral=_neutral,
           samples=_logical_samples,
           bad=(Bad((TensorType.of("f32", [2]), TensorType.of("bool", [2])), {}, "E0303"),))  # fmt: skip

define("logical_not(x: bool[...]) -> bool[...]", "`not x`.", family="elementwise", meaning=plain("logical_not"),
       traits=(Trait.CONNECTS,),
       samples=lambda rng: [Sample((rng.random((3, 4)) < 0.5,))],
       bad=(Bad((TensorType.of("f32", [2]),), {}, "E0303"),))  # fmt: skip

def _bits_samples(below: int | None) -> Any:
    """Pairs of integers of each dtype; the second ones from 0 on and below a number, where there is one."""

    def samples(rng: Any) -> list[Sample]:
        def draw(dtype: Any, shape: tuple[int, ...], below: int | None = None) -> Any:
            info = np.iinfo(dtype)
            low, high = (info.min, info.max) if below is None else (0, min(below, info.bits) - 1)
            return rng.integers(low, high, shape, dtype, endpoint=True)

        pairs = [((3, 5), (3, 5)), ((2, 1, 4), (3, 1))]
        kinds = (np.int64, np.int32, np.int16, np.int8, np.uint8)
        return [Sample((draw(kind, a), draw(kind, b, below))) for kind in kinds for a, b in pairs]

    return samples


_BITS = (Trait.COMMUTES, Trait.IDEMPOTENT)
_BIT_OPS: list[tuple[str, str, tuple[Trait, ...], int]] = [
    ("bitwise_and", "The bits that are set in both.", (*_BITS, Trait.MEETS), -1),
    ("bitwise_or", "The bits that are set in one or both.", _BITS, 0),
    ("bitwise_xor", "The bits that are set in one of them only.", (Trait.COMMUTES,), 0),
    ("left_shift", "a with its bits moved up by b places, zeros behind them; b is from 0 to below the number of bits.", (), 0),
    ("right_shift", "a with its bits moved down by b places, its sign kept: `a // 2 ** b`; b is from 0 to below the number of bits.", (), 0),
]  # fmt: skip
for _name, _doc, _more, _zero in _BIT_OPS:
    define(f"{_name}(a: int[...], b: int[...]) -> int[...]", _doc, family="elementwise", packs="broadcast", traits=_more,
           meaning=plain(_name), neutral=_zero, samples=_bits_samples(64 if "shift" in _name else None),
           bad=(_CLASH_INT, Bad((TensorType.of("f32", [3]), TensorType.of("f32", [3])), {}, "E0303")))  # fmt: skip
define("bitwise_not(x: int[...]) -> int[...]", "Every bit flipped: `-1 - x` of a signed integer.", family="elementwise",
       meaning=plain("bitwise_not"), samples=lambda rng: [Sample((x.inputs[0],)) for x in _bits_samples(None)(rng)],
       bad=(Bad((TensorType.of("bool", [2]),), {}, "E0303"),))  # fmt: skip

define("is_nan(x: float[...]) -> bool[...]", "Whether the element is not a number.", family="elementwise",
       meaning=plain("isnan"),
       samples=lambda rng: [Sample((np.array([1.0, np.nan, np.inf], np.float32),))],
       bad=(Bad((TensorType.of("i64", [2]),), {}, "E0303"),))  # fmt: skip


def _where_samples(rng: Any) -> list[Sample]:
    a, b = rng.random((2, 3, 4)).astype(np.float32), rng.random((3, 1)).astype(np.float32)
    return [Sample((rng.random((3, 4)) < 0.5, a, b))]


define("where(condition: bool[...], a: any[...], b: any[...]) -> any[...]",
       "`a` where the condition holds, else `b`. A static condition picks while compiling.", family="elementwise",
       packs="broadcast", traits=(Trait.KEEPS,), meaning=plain("where"), samples=_where_samples,
       bad=(Bad((TensorType.of("f32", [2]), TensorType.of("f32", [2]), TensorType.of("f32", [2])), {}, "E0303"),))  # fmt: skip


def _cast_rule(types: list[TensorType], attrs: Attrs, span: Span | None) -> list[TensorType]:
    return [TensorType(attrs["dtype"], types[0].shape)]


def _cast(xs: list[Any], attrs: Attrs, types: list[TensorType]) -> list[Any]:
    dtype = attrs["dtype"]
    return [xs[0] != 0 if dtype.kind == "bool" else np.asarray(xs[0]).astype(dtype.numpy)]


def _cast_samples(rng: Any) -> list[Sample]:
    from ..types import boolean, f16, f32, i64

    x = (rng.random((3, 4)) * 8 - 4).astype(np.float32)
    pairs = [(x, i64), (x, f16), (np.arange(4), f32), (np.arange(3), boolean)]
    return [Sample((v,), {"dtype": d}) for v, d in pairs]


define("cast(x: any[...], *, dtype: dtype) -> any[...]",
       "Convert to another dtype; float to int rounds toward zero; anything but 0 is true.", family="elementwise",
       rule=_cast_rule, traits=(Trait.KEEPS, Trait.SCALES, Trait.CONNECTS, Trait.MEETS, Trait.STILL), meaning=_cast, samples=_cast_samples,
       bad=(Bad((TensorType.of("f32", [2]),), {}, "E0401"),))  # fmt: skip
