"""Arithmetic, comparison, selection, conversion and activations, element by element."""

from __future__ import annotations

import math

import numpy as np

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim, const
from ....ir.graph import Value
from ....ir.signature import broadcast_shapes
from ....ir.types import DType, TensorType, boolean, f64
from ..call import Call
from ..narrow import NARROW, rounded
from ..registry import MICROSOFT, Result, imports
from ..tensors import dtype_of
from ..values import Tensor, known_tensor, short, weight_tensor

_UNARY = {
    "Abs": "abs", "Neg": "neg", "Sign": "sign", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Sin": "sin", "Cos": "cos",
    "Tanh": "tanh", "Sigmoid": "sigmoid", "Erf": "erf", "Floor": "floor", "Ceil": "ceil", "Round": "round",
    "Not": "logical_not", "IsNaN": "is_nan",
}  # fmt: skip
_BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "And": "logical_and", "Or": "logical_or", "Equal": "eq", "Less": "lt",
    "Greater": "gt", "LessOrEqual": "le", "GreaterOrEqual": "ge", "Xor": "ne",
}  # fmt: skip
# What the parts of a layer are called whose weight has no name of its own.
_PARTS = {"Add": "bias", "Mul": "scale", "Sub": "mean", "Div": "divisor"}


@imports(*_UNARY)
def unary(c: Call) -> Value:
    x = c.x()
    if x.type.dtype.kind != "float" and c.op_type in ("Floor", "Ceil", "Round"):
        return x
    return c.op(_UNARY[c.op_type], x)


def operands(c: Call, *indices: int) -> list[Value]:
    """Operands that broadcast together; one whose elements are equal is written as a scalar."""
    tensors = [c.tensor(i) for i in indices]
    shape = c.broadcast(*tensors)
    return [c.region.value(_bare(t, shape, tensors), c.hint(_PARTS.get(c.op_type, "constant"))) for t in tensors]


def _bare(tensor: Tensor, shape: tuple[Dim, ...], others: list[Tensor]) -> Tensor:
    """A tensor of equal elements without its axes, where the other operands have those of the result."""
    number = single(tensor)
    if number is None or not tensor.type.rank:
        return tensor
    others = [t for t in others if t is not tensor and single(t) is None]
    if not others or _common(others) != shape:
        return tensor
    return Tensor(TensorType(tensor.type.dtype, ()), known=np.array(number, tensor.type.dtype.numpy))


def _common(tensors: list[Tensor]) -> tuple[Dim, ...] | None:
    shape: tuple[Dim, ...] | None = ()
    for tensor in tensors:
        shape = None if shape is None else broadcast_shapes(shape, tensor.type.shape)
    return shape


def single(tensor: Tensor) -> float | int | bool | None:
    """The number that all elements of a tensor are, or None."""
    if tensor.fill is not None:
        return tensor.fill
    known = tensor.known
    return None if known is None or known.dtype == object or known.size != 1 else short(known.reshape(-1)[0])


# What leaves the other operand as it is.
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "And": True, "Or": False}


def neutral(c: Call) -> Tensor | None:
    """The other operand, where one changes nothing."""
    if c.op_type not in _NEUTRAL:
        return None
    a, b = c.tensor(0), c.tensor(1)
    for x, y in ((a, b), (b, a)) if c.op_type in ("Add", "Mul", "And", "Or") else ((a, b),):
        if single(y) == _NEUTRAL[c.op_type] and c.broadcast(x, y) == x.type.shape:
            return x
    return None


@imports(*_BINARY)
def binary(c: Call) -> Tensor:
    unchanged = neutral(c)
    if unchanged is not None:
        return unchanged
    a, b = operands(c, 0, 1)
    nonnegative = c.op_type in ("Add", "Mul") and c.tensor(0).nonnegative and c.tensor(1).nonnegative
    return c.tensor_of(c.op(_BINARY[c.op_type], a, b), nonnegative)


@imports("Div")
def div(c: Call) -> Result:
    unchanged = neutral(c)
    if unchanged is not None:
        return unchanged
    a, b = operands(c, 0, 1)
    if a.type.dtype.kind == "float":
        return c.op("div", a, b)
    known = c.known(1)
    positive = known is not None and known.dtype != object and bool((known > 0).all())
    if positive and c.tensor(0).nonnegative:
        return c.op("floordiv", a, b)
    if positive:
        return c.op("mul", c.op("floordiv", c.op("abs", a), b), c.op("sign", a))
    return c.foreign("whole_quotient", a, b)


@imports("Mod")
def mod(c: Call) -> Value:
    a, b = operands(c, 0, 1)
    if a.type.dtype.kind == "int" and not c.attr("fmod", 0):
        return c.op("mod", a, b)
    if not c.attr("fmod", 0):
        return c.foreign("remainder", a, b)
    return c.foreign("whole_remainder" if a.type.dtype.kind == "int" else "fmod", a, b)


@imports("Pow")
def power(c: Call) -> Value:
    x = c.x()
    exponent = single(c.tensor(1))
    if (
        exponent is not None
        and (x.type.dtype.kind == "float" or exponent in (1, 2, 3, 4))
        and c.broadcast(c.tensor(0), c.tensor(1)) == x.type.shape
    ):
        return c.foreign("power", x, exponent=float(exponent))
    x, y = operands(c, 0, 1)
    if x.type.dtype.kind == "float":
        return c.op("pow", x, c.cast(y, x.type.dtype))
    if y.type.dtype.kind == "int" or (exponent is not None and float(exponent).is_integer()):
        return c.foreign("whole_power", x, y)
    # A fractional power of an integer is cut off.
    return c.cast(c.op("pow", c.cast(x, f64), c.cast(y, f64)), x.type.dtype)


@imports("Min", "Max", "Sum", "Mean")
def variadic(c: Call) -> Value:
    name = {"Min": "minimum", "Max": "maximum"}.get(c.op_type, "add")
    values = operands(c, *range(len(c.inputs)))
    result = values[0]
    for value in values[1:]:
        result = c.op(name, result, value)
    return c.op("div", result, c.like(len(values), result)) if c.op_type == "Mean" else result


@imports("Where")
def where(c: Call) -> Result:
    condition = single(c.tensor(0))
    chosen = None if condition is None else c.tensor(1 if condition else 2)
    if chosen is not None and c.broadcast(*(c.tensor(i) for i in range(3))) == chosen.type.shape:
        return chosen
    return c.op("where", *operands(c, 0, 1, 2))


@imports("Cast")
def cast(c: Call) -> Tensor:
    if c.attr("to", 0) in NARROW:
        return rounded(c, c.x(), c.attr("to"))
    dtype = dtype_of(c.attr("to", 0), c.where)
    fill = c.tensor(0).fill
    if fill is not None:
        number = short(np.array(fill).astype(dtype.numpy)[()])
        return Tensor(TensorType(dtype, c.shape()), fill=number, nonnegative=number >= 0)
    return c.tensor_of(
        c.cast(_before_widening(c.x(), dtype), dtype), c.tensor(0).nonnegative or c.type().dtype == boolean
    )


# What holds every number of a dtype.
_WIDER = {"bool": "u8 i8 i16 i32 i64 f16 bf16 f32 f64", "f16": "f32 f64", "bf16": "f32 f64", "f32": "f64", "i32": "i64 f64",
          "u8": "i16 i32 i64 f16 f32 f64", "i8": "i16 i32 i64 f16 f32 f64", "i16": "i32 i64 f32 f64"}  # fmt: skip


def _before_widening(x: Value, dtype: DType) -> Value:
    """What was converted to a dtype that holds all its numbers, where it is to be converted back."""
    node = x.node
    before = node.inputs[0] if node is not None and node.op.name == "cast" else None
    if before is None or before.type.dtype != dtype:
        return x
    return before if x.type.dtype.name in _WIDER.get(dtype.name, "").split() else x


@imports("CastLike")
def cast_like(c: Call) -> Result:
    return rounded(c, c.x(), c.tensor(1).narrow) if c.tensor(1).narrow else c.cast(c.x(), c.type(1).dtype)


@imports("Identity")
def identity(c: Call) -> Result:
    return c.tensor(0)


@imports("Dropout")
def dropout(c: Call) -> list[Result | None]:
    mode = c.known(2) if c.has(2) else None
    if c.has(2) and (mode is None or bool(mode)):
        c.refuse(
            "dropout while training", help="export the model as it is used: `model.eval()` before `torch.onnx.export`"
        )
    return [c.tensor(0), Tensor(TensorType(boolean, c.shape()), fill=True)]


@imports("IsInf")
def is_inf(c: Call) -> Result:
    x = c.x()
    positive, negative = c.attr("detect_positive", 1), c.attr("detect_negative", 1)
    if positive and negative:
        return c.foreign("isinf", x)
    if not positive and not negative:
        return Tensor(TensorType(boolean, x.type.shape), fill=False)
    return c.op("eq", x, c.like(math.inf if positive else -math.inf, x))


@imports("Clip")
def clip(c: Call) -> Tensor:
    result = c.x()
    dtype = result.type.dtype
    bounds: dict[str, float] = {}
    for index, name in ((1, "maximum"), (2, "minimum")):
        if c.has(index):
            known = c.known(index)
            if known is not None and known.size == 1 and known.dtype != object:
                bounds[name] = known.reshape(()).item()
                bound = c.scalar(bounds[name], dtype)
            else:
                bound = c.x(index)
            result = c.op(name, result, bound)
    below = bounds.get("maximum", -1.0) >= 0 and (not c.has(2) or bounds.get("minimum", -1.0) >= 0)
    return c.tensor_of(result, nonnegative=below)


# Activations ---------------------------------------------------------------------------------------------------------


@imports("Relu")
def relu(c: Call) -> Value:
    x = c.x()
    return c.std("nn.relu", x) if x.type.dtype.kind == "float" else c.op("maximum", x, c.like(0, x))


@imports("Gelu")
@imports("Gelu", domain=MICROSOFT)
def gelu(c: Call) -> Value:
    mode = c.attr("approximate", "none")
    if mode not in ("none", "tanh"):
        c.refuse(f'approximate="{mode}"')
    return c.std("nn.gelu_tanh" if mode == "tanh" else "nn.gelu", c.x())


@imports("Softmax", "LogSoftmax")
def softmax(c: Call) -> Value:
    axis = c.axis(-1 if c.opset >= 13 else 1)
    name = "nn.softmax" if c.op_type == "Softmax" else "nn.log_softmax"
    x, last = c.x(), c.rank() - 1
    if axis != last and c.opset < 13:
        # All axes from there on were one.
        shape = x.type.shape
        rest = math.prod(shape[axis:], start=const(1))
        return c.reshape(c.std(name, c.reshape(x, [*shape[:axis], rest]), axis=-1), shape)
    return c.std(name, x, axis=-1 if axis == last else axis)


# Constants -----------------------------------------------------------------------------------------------------------


@imports("Constant")
def constant(c: Call) -> Tensor:
    proto = c.attr("value")
    if proto is not None:
        weight = c.importer.file.store.weight(proto)
        # The name of the result, not of the message: exporters leave that empty.
        weight.name = c.node.output[0] if c.node.output else weight.name
        found = weight_tensor(weight)
        if found.known is None and weight.size <= 16:
            found.known = weight.load()
        return found
    for name in ("value_int", "value_ints", "value_float", "value_floats"):
        value = c.attr(name)
        if value is not None:
            return known_tensor(np.array(value, dtype=np.int64 if "int" in name else np.float32))
    raise Diagnostic("E0757", f"{c.where}: a constant of text, or a sparse one, is not imported")
