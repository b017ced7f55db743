"""Complex numbers as pairs of tensors: what moves elements moves both, a sum is the sum of each, and products are worked out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....ir.graph import Value
from ..protocol import ATEN, Complex, ComplexOf, Import, Importer, Unsupported, aten, of_complex
from . import boundary, contraction, diagonals, indexing, order, prims, reduction, shape  # noqa: F401  (they fill the table)

# What does to both parts what it does to a real tensor.
_BY_PARTS = """
    alias broadcast_to cat chunk clone concat constant_pad_nd contiguous cumsum detach detach_copy diagonal expand expand_as
    expand_copy flip gather index_select lift_fresh lift_fresh_copy mT narrow neg new_zeros pad permute permute_copy positive repeat
    reshape resolve_neg roll select_scatter slice_scatter squeeze split_with_sizes stack t tile tril triu unsqueeze
    unsqueeze_copy view view_copy zeros_like _reshape_alias _reshape_copy _unsafe_view
    flatten.using_ints index.Tensor mean mean.dim movedim.int prims.transpose.default prims.view_of.default
    repeat_interleave.self_int select.int select_copy.int slice.Tensor slice_copy.Tensor split.Tensor squeeze.dim squeeze.dims sum
    sum.dim_IntList swapaxes transpose.int unbind.int unflatten.int
"""


def _by_parts(importer: Importer) -> Importer:
    def both(i: Import, *operands: Any) -> Any:
        re, im = (importer(i, *(_part(i, v, imaginary) for v in operands)) for imaginary in (False, True))
        return [Complex(*pair) for pair in zip(re, im, strict=True)] if isinstance(re, list) else Complex(re, im)

    return both


def _part(i: Import, operand: Any, imaginary: bool) -> Any:
    """One part of an operand; a real tensor beside complex ones has the imaginary part 0."""
    if isinstance(operand, Complex):
        return operand.im if imaginary else operand.re
    if isinstance(operand, ComplexOf):
        return operand.part
    if isinstance(operand, tuple) and any(isinstance(v, Complex) for v in operand):
        return tuple(_part(i, _pair(i, v), imaginary) for v in operand)
    return operand


for _name in _BY_PARTS.split():
    of_complex(_name)(_by_parts(ATEN[_name if "." in _name else f"{_name}.default"]))


def _zero(i: Import, x: Value) -> Value:
    return i.expand(i.scalar(0.0, x.type.dtype), x.type.shape)


def _pair(i: Import, operand: Any) -> Complex:
    """A complex or real tensor, or a number, as a pair."""
    if isinstance(operand, Complex):
        return operand
    if isinstance(operand, complex):
        return Complex(i.tensor(operand.real), i.tensor(operand.imag))
    re = i.tensor(operand)
    return Complex(re, _zero(i, re))


def _is_complex(operand: Any) -> bool:
    return isinstance(operand, (Complex, complex))


def _real(name: str, i: Import, *operands: Any) -> Value:
    made: Value = ATEN[name if "." in name else f"{name}.default"](i, *operands)
    return made


def _times(i: Import, a: Any, b: Any) -> Value:
    return _real("mul.Tensor", i, a, b)


# Arithmetic ----------------------------------------------------------------------------------------------------------


@of_complex("add.Tensor", "add.Scalar")
def _add(i: Import, a: Any, b: Any, alpha: Any = 1) -> Complex:
    return _sum(i, a, b, alpha)


@of_complex("sub.Tensor", "sub.Scalar")
def _sub(i: Import, a: Any, b: Any, alpha: Any = 1) -> Complex:
    return _sum(i, a, b, -alpha)


@of_complex("rsub.Tensor", "rsub.Scalar")
def _rsub(i: Import, a: Any, b: Any, alpha: Any = 1) -> Complex:
    return _sum(i, b, a, -alpha)


def _sum(i: Import, a: Any, b: Any, alpha: Any) -> Complex:
    a, b = _pair(i, a), _pair(i, b)
    return Complex(_real("add.Tensor", i, a.re, b.re, alpha), _real("add.Tensor", i, a.im, b.im, alpha))


@of_complex("mul.Tensor", "mul.Scalar")
def _mul(i: Import, a: Any, b: Any) -> Complex:
    if not _is_complex(a) or not _is_complex(b):
        z, x = (a, b) if _is_complex(a) else (b, a)
        z = _pair(i, z)
        return Complex(_times(i, z.re, x), _times(i, z.im, x))
    return _product(i, a, b, _times)


def _product(i: Import, a: Any, b: Any, times: Any) -> Complex:
    """The product of two, for any ``times`` that is linear in both of its operands."""
    a, b = _pair(i, a), _pair(i, b)
    re = _real("sub.Tensor", i, times(i, a.re, b.re), times(i, a.im, b.im))
    return Complex(re, _real("add.Tensor", i, times(i, a.re, b.im), times(i, a.im, b.re)))


def _products(name: str) -> None:
    @of_complex(name)
    def importer(i: Import, a: Any, b: Any) -> Complex:
        return _product(i, a, b, lambda i, x, y: _real(name, i, x, y))


for _name in ("matmul", "mm", "bmm", "mv", "dot", "outer"):
    _products(_name)


@of_complex("einsum")
def _einsum(i: Import, equation: str, tensors: Sequence[Any], path: Any = None) -> Complex:
    if len(tensors) == 1:
        return _by_parts(ATEN["einsum.default"])(i, equation, tensors)
    if len(tensors) > 2:
        raise Unsupported("an einsum of more than two complex tensors")
    return _product(i, tensors[0], tensors[1], lambda i, x, y: _real("einsum", i, equation, (x, y)))


@of_complex("div.Tensor", "div.Scalar", "true_divide.Tensor")
def _div(i: Import, a: Any, b: Any) -> Complex:
    if not _is_complex(b):
        return Complex(_real("div.Tensor", i, a.re, b), _real("div.Tensor", i, a.im, b))
    return _mul(i, a, _reciprocal(i, _pair(i, b)))


@of_complex("reciprocal")
def _reciprocal(i: Import, z: Complex) -> Complex:
    size = _squared(i, z)
    return Complex(_real("div.Tensor", i, z.re, size), _real("div.Tensor", i, _real("neg", i, z.im), size))


def _squared(i: Import, z: Complex) -> Value:
    return _real("add.Tensor", i, _times(i, z.re, z.re), _times(i, z.im, z.im))


@of_complex("square")
def _square(i: Import, z: Complex) -> Complex:
    return _mul(i, z, z)


@of_complex("pow.Tensor_Scalar")
def _power(i: Import, z: Complex, exponent: Any) -> Complex:
    if not isinstance(exponent, int) or not 1 <= exponent <= 8:
        raise Unsupported(f"a complex number to the power {exponent}")
    result = z
    for _ in range(exponent - 1):
        result = _mul(i, result, z)
    return result


@of_complex("exp")
def _exp(i: Import, z: Complex) -> Complex:
    return _polar(i, i.op("exp", z.re), z.im)


@of_complex("log")
def _log(i: Import, z: Complex) -> Complex:
    return Complex(i.op("log", _abs(i, z)), _angle(i, z))


@of_complex("eq.Tensor", "eq.Scalar")
def _eq(i: Import, a: Any, b: Any) -> Value:
    a, b = _pair(i, a), _pair(i, b)
    return _real("logical_and", i, _real("eq.Tensor", i, a.re, b.re), _real("eq.Tensor", i, a.im, b.im))


@of_complex("ne.Tensor", "ne.Scalar")
def _ne(i: Import, a: Any, b: Any) -> Value:
    return i.op("logical_not", _eq(i, a, b))


@of_complex("where.self", "where.ScalarOther", "where.ScalarSelf")
def _where(i: Import, condition: Value, a: Any, b: Any) -> Complex:
    a, b = _pair(i, a), _pair(i, b)
    return Complex(*(_real("where.self", i, condition, x, y) for x, y in ((a.re, b.re), (a.im, b.im))))


@of_complex("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(i: Import, z: Complex, mask: Value, value: Any) -> Complex:
    return _where(i, mask, value, z)


# Parts ---------------------------------------------------------------------------------------------------------------


@of_complex("abs")
def _abs(i: Import, z: Complex) -> Value:
    return i.foreign("hypot", *i.broadcast(z.re, z.im))


@of_complex("angle")
def _angle(i: Import, z: Complex) -> Value:
    return _real("atan2", i, z.im, z.re)


@of_complex("real")
def _real_part(i: Import, z: Complex) -> Value:
    return z.re


@of_complex("imag")
def _imaginary_part(i: Import, z: Complex) -> Value:
    return z.im


@of_complex("_conj", "conj", "conj_physical", "_conj_physical", "_conj_copy")
def _conjugate(i: Import, z: Complex) -> Complex:
    return Complex(z.re, _real("neg", i, z.im))


@of_complex("resolve_conj")
def _resolved(i: Import, z: Complex) -> Complex:
    return z


@of_complex("view_as_real", "view_as_real_copy")
def _as_real(i: Import, z: Complex) -> Value:
    return _real("stack", i, (z.re, z.im), -1)


@aten("view_as_complex", "view_as_complex_copy")
def _as_complex(i: Import, x: Value) -> Complex:
    return Complex(*(_real("select.int", i, x, -1, at) for at in (0, 1)))


@aten("complex")
def _complex(i: Import, re: Value, im: Value) -> Complex:
    return Complex(*i.broadcast(re, im))


@aten("polar")
def _polar(i: Import, size: Value, angle: Value) -> Complex:
    return Complex(_times(i, size, i.op("cos", angle)), _times(i, size, i.op("sin", angle)))


# Conversions, and tensors of one number --------------------------------------------------------------------------------


def _converted(i: Import, x: Any, dtype: Any) -> Any:
    if isinstance(dtype, ComplexOf):
        z = _pair(i, x if isinstance(x, Complex) else i.cast(x, dtype.part))
        return Complex(i.cast(z.re, dtype.part), i.cast(z.im, dtype.part))
    return x if dtype is None else _real("_to_copy", i, x.re, dtype)


@of_complex("_to_copy", "to.dtype", "to.dtype_layout", "prims.convert_element_type.default")
def _to(i: Import, x: Any, dtype: Any = None, *rest: Any) -> Any:
    return _converted(i, x, dtype)


@of_complex("to.device")
def _to_device(i: Import, x: Any, device: Any, dtype: Any = None, *rest: Any) -> Any:
    return _converted(i, x, dtype)


@of_complex("ones_like")
def _ones_like(i: Import, z: Complex, *rest: Any) -> Complex:
    return Complex(i.expand(i.scalar(1.0, z.re.type.dtype), z.re.type.shape), _zero(i, z.re))


def _filled(name: str, number: float) -> None:
    @of_complex(name)
    def importer(i: Import, sizes: Sequence[Any], dtype: ComplexOf, *rest: Any) -> Complex:
        re = i.expand(i.scalar(number, dtype.part), sizes)
        return Complex(re, _zero(i, re))


_filled("zeros", 0.0)
_filled("ones", 1.0)


@of_complex("full")
def _full(i: Import, sizes: Sequence[Any], value: Any, dtype: Any = None, *rest: Any) -> Complex:
    part = dtype.part if isinstance(dtype, ComplexOf) else None
    z = _pair(i, value)
    return Complex(*(i.expand(x if part is None else i.cast(x, part), sizes) for x in (z.re, z.im)))
