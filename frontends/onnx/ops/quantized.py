"""Quantized numbers and their products, as ops of ``std.quantized``, which are written as the same ONNX ops again."""

from __future__ import annotations

from collections.abc import Sequence

from ....ir.dims.dim import Dim, ceildiv, const
from ....ir.graph import Value
from ....ir.types import DType, TensorType, f32, i8, i16, i32, u8
from ..call import Call
from ..narrow import NARROW, rounded
from ..registry import MICROSOFT, Result, imports
from ..tensors import dtype_of
from ..values import Tensor

_ENDS = {i8: (-128, 127), u8: (0, 255), i16: (-32768, 32767)}


@imports("DequantizeLinear")
@imports("DequantizeLinear", domain=MICROSOFT)
def dequantize(c: Call) -> Value:
    y = dequantized(c, 0, 1, 2)
    return c.cast(y, dtype_of(c.attr("output_dtype"), c.where)) if c.attr("output_dtype", 0) else y


@imports("QuantizeLinear")
@imports("QuantizeLinear", domain=MICROSOFT)
def quantize(c: Call) -> Result:
    number = c.attr("output_dtype", 0) or (c.tensor(2).narrow if c.has(2) else 0)
    if number in NARROW:
        return _quantized_narrow(c, number)
    dtype = dtype_of(number, c.where) if number else c.type(2).dtype if c.has(2) else u8
    return quantized(c, c.x(), 1, 2, dtype)


def _quantized_narrow(c: Call, number: int) -> Result:
    """Reals as floats of 8 bits, or as integers of 4 or 2."""
    kind = NARROW[number]
    if kind.rounds is not None:  # the zero is 0
        return rounded(c, c.op("div", c.x(), _spread(c, c.cast(c.x(1, "scale"), c.type().dtype), c.shape())), number)
    y = quantized(c, c.x(), 1, 2, kind.dtype)
    low, high = (c.scalar(end, kind.dtype) for end in kind.ends)
    y = c.op("minimum", c.op("maximum", y, low), high)
    return Tensor(y.type, value=y, region=c.region, narrow=number)


def dequantized(c: Call, index: int, scale_at: int, zero_at: int) -> Value:
    """An operand as reals, with the scales and the zeros that other operands are."""
    x = c.x(index, "weight")
    if c.attr("block_size", 0) or x.type.dtype.kind == "float":
        y, scale = c.cast(x, f32), _spread(c, c.x(scale_at, "scale"), x.type.shape)
        if c.has(zero_at) and x.type.dtype.kind == "int":
            y = c.op("sub", y, c.cast(_spread(c, c.x(zero_at, "zero_point"), x.type.shape), f32))
        return c.cast(c.op("mul", y, c.cast(scale, f32)), scale.type.dtype)
    scale, zero, axis = _along(c, x, scale_at, zero_at)
    return c.std("quantized.dequantize", x, scale, zero, axis=axis)


def quantized(c: Call, x: Value, scale_at: int, zero_at: int, dtype: DType) -> Value:
    """Reals as whole numbers, with the scales and the zeros that operands are."""
    if dtype not in (i8, u8, i16):
        c.refuse(f"quantisation to {dtype}")
    if c.attr("block_size", 0):
        y = c.op("div", c.cast(x, f32), c.cast(_spread(c, c.x(scale_at, "scale"), x.type.shape), f32))
        y = c.op("round", y)
        if c.has(zero_at):
            y = c.op("add", y, c.cast(_spread(c, c.x(zero_at, "zero_point"), x.type.shape), f32))
        low, high = (c.scalar(float(end), f32) for end in _ENDS[dtype])
        return c.cast(c.op("minimum", c.op("maximum", y, low), high), dtype)
    scale, zero, axis = _along(c, x, scale_at, zero_at)
    if zero is None:
        zero = c.op("full", shape=scale.type.shape, value=0, dtype=dtype)
    return c.std("quantized.quantize", x, c.cast(scale, x.type.dtype), zero, axis=axis)


def _along(c: Call, x: Value, scale_at: int, zero_at: int) -> tuple[Value, Value | None, int]:
    """Scales and zeros with one axis, of one number or of one for each place along the axis that is returned."""
    scale, zero = vector(c, scale_at, "scale"), vector(c, zero_at, "zero_point") if c.has(zero_at) else None
    if zero is not None:
        c.equal(
            zero.type.shape[0], scale.type.shape[0], f"the scales {c.type(scale_at)} and the zeros {c.type(zero_at)}"
        )
    if scale.type.shape[0] == 1:
        return scale, zero, -1
    axis = c.normal_axis(c.attr("axis", 1), x.type.rank)
    c.equal(x.type.shape[axis], scale.type.shape[0], f"axis {axis} of {x.type} and the scale {scale.type}")
    return scale, zero, axis


def _spread(c: Call, x: Value, shape: Sequence[Dim]) -> Value:
    """Scales or zeros so that they broadcast to ``shape``: one for all, or one for each place or each block along the axis."""
    if not x.type.rank or x.type.numel == 1:
        return c.reshape(x, ())
    axis, block = c.normal_axis(c.attr("axis", 1), len(shape)), c.attr("block_size", 0)
    if not block:
        return c.reshape(x, [d if a == axis else const(1) for a, d in enumerate(shape)])
    for a, (d, e) in enumerate(zip(x.type.shape, shape, strict=True)):
        c.equal(d, ceildiv(e, block) if a == axis else e, f"axis {a} of the blocks {x.type}")
    blocks = x.type.shape[axis]
    wide = c.expand(c.op("unsqueeze", x, axis=axis + 1), (*x.type.shape[: axis + 1], block, *x.type.shape[axis + 1 :]))
    wide = c.reshape(wide, (*x.type.shape[:axis], blocks * block, *x.type.shape[axis + 1 :]))
    return wide if wide.type.shape[axis] == shape[axis] else c.op("slice", wide, axis=axis, start=0, stop=shape[axis])


def vector(c: Call, index: int, part: str) -> Value:
    """An operand of one number, or of one axis, with that axis."""
    known, type = c.known(index), c.type(index)
    if known is not None and known.size == 1:
        return c.constant(known.reshape(1))
    if type.rank > 1 and type.numel != type.shape[-1]:
        c.refuse(f"the {part} {type} of {c.op_type}, which has more than one axis,")
    x = c.x(index, part)
    return x if type.rank == 1 else c.reshape(x, (type.numel,))


def scalar(c: Call, index: int, part: str) -> Value | None:
    """An operand of one number without axes; None for one of more."""
    known = c.known(index)
    if known is not None and known.size == 1:
        return c.constant(known.reshape(()))
    if c.type(index).numel != 1:
        return None
    return c.reshape(c.x(index, part), ())


@imports("DynamicQuantizeLinear")
def dynamic_quantize(c: Call) -> list[Value]:
    """To u8 with the range of the tensor itself, 0 included."""
    return c.std_many("quantized.dynamic_quantize", c.x())


@imports("MatMulInteger")
def matmul_integer(c: Call) -> Value:
    a, b, whole = _operands(c, 0, 1)
    a_zero = scalar(c, 2, "zero_point") if c.has(2) else None
    if c.has(2) and a_zero is None:  # one for each row
        rows = c.cast(c.x(2, "zero_point"), i32)
        a, a_zero = c.op("sub", c.cast(a, i32), c.op("unsqueeze", rows, axis=-1) if rows.type.rank == 1 else rows), None
        whole = False
    b_zero = None
    if c.has(3) and c.rank(3) > 1:
        b = c.op("sub", c.cast(b, i32), c.cast(c.x(3, "zero_point"), i32))
    elif c.has(3):
        b_zero = columns(c, 3, b)
    return whole_product(c, a, b, a_zero, b_zero, whole)


def _operands(c: Call, first: int, second: int) -> tuple[Value, Value, bool]:
    """Both factors with at least two axes, and whether the second has two and is one for all rows of the first."""
    if c.rank(first) < 2 or c.rank(second) < 2:
        c.refuse(f"{c.op_type} of {c.type(first)} and {c.type(second)}")
    c.equal(c.shape(first)[-1], c.shape(second)[-2], f"the inner sizes of {c.type(first)} and {c.type(second)}")
    a, b = c.x(first), c.x(second, "weight")
    if b.type.rank == 2:
        return a, b, True
    lead = c.broadcast(*(Tensor(TensorType(i32, x.type.shape[:-2])) for x in (a, b)))
    a, b = (c.expand(x, (*lead, *x.type.shape[-2:])) for x in (a, b))
    return a, b, False


def columns(c: Call, index: int, b: Value) -> Value:
    found = vector(c, index, "zero_point")
    if found.type.shape[0] != 1:
        c.equal(found.type.shape[0], b.type.shape[-1], f"the columns of {b.type} and {c.type(index)}")
    return found


def whole_product(c: Call, a: Value, b: Value, a_zero: Value | None, b_zero: Value | None, weights: bool) -> Value:
    return c.std(f"quantized.integer_{'affine' if weights else 'matmul'}", a, b, a_zero, b_zero)


@imports("QLinearMatMul")
def qlinear_matmul(c: Call) -> Value:
    a, b, weights = _operands(c, 0, 3)
    single = {i: scalar(c, i, "scale") for i in (1, 2, 6, 7)}
    if None in single.values():
        c.refuse("a scale or a zero for each row of QLinearMatMul")
    b_scale, b_zero = columns(c, 4, b), columns(c, 5, b)
    c.equal(b_scale.type.shape[0], b_zero.type.shape[0], f"the scales {c.type(4)} and the zeros {c.type(5)}")
    name = "quantized_affine" if weights else "quantized_matmul"
    return c.std(f"quantized.{name}", a, single[1], single[2], b, b_scale, b_zero, single[6], single[7])
