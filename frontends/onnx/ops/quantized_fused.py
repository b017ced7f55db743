"""What ONNX Runtime writes for a quantized model: elementwise ops, convolutions and products between whole numbers and reals.

Ops without an integer form of their own here become ones of reals between `dequantize` and `quantize`, which ONNX Runtime
fuses again.
"""

from __future__ import annotations

from ....ir.dims.dim import product
from ....ir.graph import Value
from ....ir.types import f32, i32
from ..call import Call
from ..registry import MICROSOFT, imports
from .contraction import convolution, padding, spatial
from .quantized import columns, dequantized, quantized, scalar, vector, whole_product

# A sum of so many products of 8-bit numbers is exact in f32.
_EXACT = 2**24 // (255 * 255)
_BINARY = {"QLinearAdd": "add", "QLinearMul": "mul"}


@imports(*_BINARY, domain=MICROSOFT)
def binary(c: Call) -> Value:
    a, b = dequantized(c, 0, 1, 2), dequantized(c, 3, 4, 5)
    c.broadcast(c.tensor(0), c.tensor(3))
    return quantized(c, c.op(_BINARY[c.op_type], a, b), 6, 7, c.type().dtype)


@imports("QLinearSigmoid", domain=MICROSOFT)
def sigmoid(c: Call) -> Value:
    return quantized(c, c.op("sigmoid", dequantized(c, 0, 1, 2)), 3, 4, c.type().dtype)


@imports("QLinearSoftmax", domain=MICROSOFT)
def softmax(c: Call) -> Value:
    x, axis = dequantized(c, 0, 1, 2), c.axis(-1)
    if c.attr("opset", 13) < 13 and axis != c.rank() - 1:
        x = c.reshape(x, (*c.shape()[:axis], product(c.shape()[axis:])))
    y = c.std("nn.softmax", x, axis=-1 if axis == x.type.rank - 1 else axis)
    return quantized(c, c.reshape(y, c.shape()), 3, 4, c.type().dtype)


@imports("QLinearLeakyRelu", domain=MICROSOFT)
def leaky_relu(c: Call) -> Value:
    y = c.foreign("leaky_relu", dequantized(c, 0, 1, 2), alpha=c.attr("alpha", 0.01))
    return quantized(c, y, 3, 4, c.type().dtype)


@imports("QLinearConcat", domain=MICROSOFT)
def concat(c: Call) -> Value:
    parts = [dequantized(c, i, i + 1, i + 2) for i in range(2, len(c.inputs), 3)]
    axis = c.normal_axis(c.attr("axis", 0), parts[0].type.rank)
    for part in parts[1:]:
        for i, (d, e) in enumerate(zip(parts[0].type.shape, part.type.shape, strict=True)):
            if i != axis:
                c.equal(d, e, f"axis {i} of what is joined along axis {axis}")
    return quantized(c, c.op("concat", *parts, axis=axis), 0, 1, c.type(2).dtype)


@imports("QLinearConv")
def qlinear_conv(c: Call) -> Value:
    x, weight = dequantized(c, 0, 1, 2), _kernel(c)
    parts = [c.tensor_of(x), c.tensor_of(weight)]
    if c.has(8):
        step = c.op("mul", vector(c, 1, "scale"), vector(c, 4, "scale"))
        parts.append(c.tensor_of(c.op("mul", c.cast(c.x(8, "bias"), f32), step)))
    y = convolution(Call(c.importer, c.node, list(parts), c.scope))
    return quantized(c, y, 6, 7, c.type(7).dtype)


def _kernel(c: Call) -> Value:
    """The weight as reals; scales and zeros may be one for each channel that it makes."""
    scale, zero = vector(c, 4, "scale"), vector(c, 5, "zero_point")
    for found, index in ((scale, 4), (zero, 5)):
        if found.type.shape[0] != 1:
            c.equal(found.type.shape[0], c.shape(3)[0], f"the channels of {c.type(3)} and {c.type(index)}")
    return c.std("quantized.dequantize", c.x(3, "weight"), scale, zero, axis=-1 if scale.type.shape[0] == 1 else 0)


@imports("ConvInteger")
def conv_integer(c: Call) -> Value:
    """As an op of whole numbers; with other paddings or numbers of axes in f32, whose short sums of them are exact."""
    whole = _whole_convolution(c)
    if whole is not None:
        return whole
    parts, terms = [], product(c.shape(1)[1:]).value
    if terms is None or terms > _EXACT:
        c.refuse(f"a convolution of integers with {product(c.shape(1)[1:])} terms in a sum")
    for i, name in ((0, ""), (1, "weight")):
        x = c.cast(c.x(i, name), f32)
        if c.has(i + 2):
            zero = c.cast(vector(c, i + 2, "zero_point"), f32)
            if zero.type.shape[0] != 1:  # one for each channel that the weight makes
                zero = c.op("unsqueeze", zero, axis=tuple(range(1, x.type.rank)))
            x = c.op("sub", x, zero)
        parts.append(c.tensor_of(x))
    return c.cast(convolution(Call(c.importer, c.node, list(parts), c.scope)), i32)


def _whole_convolution(c: Call) -> Value | None:
    x, weight = c.x(), c.x(1, "weight")
    zeros = [scalar(c, i, "zero_point") if c.has(i) else None for i in (2, 3)]
    if c.rank() != 4 or any(c.has(i) and zeros[i - 2] is None for i in (2, 3)):
        return None
    kernel, groups = [d.value for d in weight.type.shape[2:]], c.attr("group", 1)
    strides, dilations = spatial(c, "strides", 2), spatial(c, "dilations", 2)
    if None in kernel:
        return None
    pairs = padding(c, c.shape()[2:], [d or 1 for d in kernel], strides, dilations)
    if any(before != after or not isinstance(before, int) for before, after in pairs):
        return None
    c.equal(c.shape()[1], weight.type.shape[1] * groups, f"the channels of {c.type()} and of {weight.type}")
    names = ("stride", strides), ("padding", [p for p, _ in pairs]), ("dilation", dilations)
    options = {f"{name}_{way}": row[i] for name, row in names for i, way in enumerate(("down", "across"))}
    return c.std("quantized.integer_conv", x, weight, *zeros, **options, groups=groups)


# Products between whole numbers and reals ------------------------------------------------------------------------------


@imports("MatMulIntegerToFloat", domain=MICROSOFT)
def product_to_float(c: Call) -> Value:
    zero = _single(c, 4) if c.has(4) else None
    return _real_product(c, c.x(), _single(c, 2), zero, (1, 3, 5 if c.has(5) else None, 6))


@imports("DynamicQuantizeMatMul", domain=MICROSOFT)
def dynamic_product(c: Call) -> Value:
    x, scale, zero = c.std_many("quantized.dynamic_quantize", c.x())
    return _real_product(c, x, scale, zero, (1, 2, 3 if c.has(3) else None, 4))


def _single(c: Call, index: int) -> Value:
    found = scalar(c, index, "scale")
    return found if found is not None else c.refuse(f"{c.type(index)}, one number for each row,")


def _real_product(
    c: Call, x: Value, scale: Value, zero: Value | None, places: tuple[int, int, int | None, int]
) -> Value:
    """x times a weight in whole numbers, then scaled. ``places`` of the weight, its scales, its zeros and the bias."""
    at, scale_at, zero_at, bias_at = places
    if c.rank(at) != 2:
        c.refuse(f"a weight {c.type(at)}")
    weight = c.x(at, "weight")
    c.equal(x.type.shape[-1], weight.type.shape[0], f"the inner sizes of {x.type} and {c.type(at)}")
    whole = whole_product(c, x, weight, zero, None if zero_at is None else columns(c, zero_at, weight), weights=True)
    y = c.op("mul", c.cast(whole, f32), c.op("mul", scale, columns(c, scale_at, weight)))
    if not c.has(bias_at):
        return y
    c.equal(c.shape(bias_at)[-1], y.type.shape[-1], f"the bias {c.type(bias_at)} of {y.type}")
    return c.op("add", y, c.x(bias_at, "bias"))
