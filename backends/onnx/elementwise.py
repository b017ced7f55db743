"""Element by element: arithmetic, comparison, selection, conversion; gradient control, which inference drops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .registry import lower

if TYPE_CHECKING:
    import onnx_ir as ox

    from ...ir.graph import Node
    from .emit import Emitter

SAME = {
    "neg": "Neg", "abs": "Abs", "sign": "Sign", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos",
    "tanh": "Tanh", "sigmoid": "Sigmoid", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round",
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "mod": "Mod", "pow": "Pow",
    "minimum": "Min", "maximum": "Max",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "logical_and": "And", "logical_or": "Or", "logical_not": "Not", "is_nan": "IsNaN", "where": "Where",
}  # fmt: skip

for _name, _op_type in SAME.items():
    lower(_name)(lambda e, node, *xs, op_type=_op_type: e.op(op_type, *xs))


@lower("rsqrt")
def rsqrt(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.op("Reciprocal", e.op("Sqrt", x))


@lower("ne")
def ne(e: Emitter, node: Node, a: ox.Value, b: ox.Value) -> ox.Value:
    return e.op("Not", e.op("Equal", a, b))


@lower("floordiv")
def floordiv(e: Emitter, node: Node, a: ox.Value, b: ox.Value) -> ox.Value:
    # Div rounds toward zero; Mod has the divisor's sign, so that without it the division is exact.
    return e.op("Div", e.op("Sub", a, e.op("Mod", a, b)), b)


@lower("cast")
def cast(e: Emitter, node: Node, x: ox.Value) -> ox.Value:
    return e.cast(x, node.attrs["dtype"])


@lower("stop_gradient", "straight_through", "scale_gradient")
def identity(e: Emitter, node: Node, x: ox.Value, *soft: ox.Value) -> ox.Value:
    return x
