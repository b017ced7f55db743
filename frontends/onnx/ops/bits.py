"""Bits, angles, running products, and small ops that are a line or two of the library."""

from __future__ import annotations

from ....ir.dims.dim import Dim, const, dim_max
from ....ir.graph import Value
from ....ir.types import u8
from ..call import Call
from ..registry import Result, imports
from .contraction import plain
from .elementwise import operands
from .layout import cut

_BITS = {"BitwiseAnd": "bitwise_and", "BitwiseOr": "bitwise_or", "BitwiseXor": "bitwise_xor"}


@imports(*_BITS)
def bitwise(c: Call) -> Value:
    return c.op(_BITS[c.op_type], *operands(c, 0, 1))


@imports("BitwiseNot")
def bitwise_not(c: Call) -> Value:
    return c.op("bitwise_not", c.x())


@imports("BitShift")
def bit_shift(c: Call) -> Value:
    direction = c.attr("direction")
    if direction not in ("LEFT", "RIGHT"):
        c.misfit(f'direction="{direction}"')
    a, places = operands(c, 0, 1)
    name, width = "left_shift" if direction == "LEFT" else "right_shift", 8 * a.type.dtype.size
    known = c.known(1)
    if known is not None and known.dtype != object and ((known >= 0) & (known < width)).all():
        return c.op(name, a, places)
    # Beyond the width nothing is left but the sign.
    fits = c.op("lt", places, c.like(width, places))
    if places.type.dtype != u8:
        fits = c.op("logical_and", c.op("ge", places, c.like(0, places)), fits)
    shifted = c.op(name, a, c.op("where", fits, places, c.like(0, places)))
    rest = c.like(0, a)
    if direction == "RIGHT" and a.type.dtype != u8:
        rest = c.op("where", c.op("lt", a, c.like(0, a)), c.like(-1, a), rest)
    return c.op("where", fits, shifted, rest)


@imports("Atan")
def atan(c: Call) -> Value:
    return c.op("atan", c.x())


@imports("Asin", "Acos")
def arc(c: Call) -> Value:
    return c.std(f"math.{c.op_type.lower()}", c.x())


@imports("CumProd")
def cumprod(c: Call) -> Value:
    x, axis = c.x(), c.normal_axis(c.numbers(1, "the axis")[0], c.rank())
    reverse = c.attr("reverse", 0)
    if reverse:
        x = c.op("flip", x, axis=axis)
    if c.attr("exclusive", 0):
        rest = c.op("slice", x, axis=axis, start=0, stop=-1)
        x = c.op("pad", rest, axis=axis, before=1, value=1)
    y = c.std("math.cumprod", x, axis=axis)
    return c.op("flip", y, axis=axis) if reverse else y


@imports("Hardmax")
def hardmax(c: Call) -> Value:
    x, axis = c.x(), c.axis(-1)
    size = x.type.shape[axis]
    place = c.reshape(c.op("iota", n=size), [size if i == axis else const(1) for i in range(c.rank())])
    return c.cast(c.op("eq", c.op("argmax", x, axis=axis, keepdims=True), place), x.type.dtype)


@imports("SwiGLU")
def swiglu(c: Call) -> Value:
    gate = c.foreign("swish", c.x(), alpha=c.attr("alpha", 1.0))
    c.broadcast(c.tensor(0), c.tensor(1))
    return c.op("mul", gate, c.x(1))


@imports("CenterCropPad")
def center_crop_pad(c: Call) -> Result:
    """Each axis as long as is asked for: cut at both ends, or padded with zeros; what cannot be halved is behind."""
    wanted = c.dims(1, "the shape")
    axes = c.attr("axes")
    axes = list(range(c.rank())) if axes is None else [c.normal_axis(a, c.rank()) for a in axes]
    if len(axes) != len(wanted):
        c.misfit(f"{len(wanted)} sizes for {len(axes)} axes")
    x = c.x()
    for axis, size in zip(axes, wanted, strict=True):
        x = _centred(c, x, axis, size)
    return x


def _centred(c: Call, x: Value, axis: int, wanted: Dim) -> Value:
    size = x.type.shape[axis]
    more, less = (dim_max(d, const(0)) for d in (wanted - size, size - wanted))
    if more != 0:
        x = c.op("pad", x, axis=axis, before=plain(more // 2), after=plain(more - more // 2))
    return x if less == 0 else cut(c, x, axis, less // 2, less // 2 + wanted, 1)


@imports("LRN")
def local_response(c: Call) -> Value:
    """Divided by a power of the mean square of the channels around each one."""
    x, size = c.x(), c.attr("size", 1)
    square = c.op("mul", x, x)
    before, after = (size - 1) // 2, size - 1 - (size - 1) // 2
    padded = c.op("pad", square, axis=1, before=before, after=after) if size > 1 else square
    channels = x.type.shape[1]
    total: Value | None = None
    for start in range(size):
        part = cut(c, padded, 1, const(start), channels + start, 1)
        total = part if total is None else c.op("add", total, part)
    assert total is not None
    base = c.op("add", c.op("mul", total, c.like(c.attr("alpha", 1e-4) / size, x)), c.like(c.attr("bias", 1.0), x))
    return c.op("div", x, c.op("pow", base, c.like(c.attr("beta", 0.75), x)))
