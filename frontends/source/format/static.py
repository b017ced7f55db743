"""What is static, as syntax: attribute values, types, initialisers."""

from __future__ import annotations

import math
from typing import Any

from ....ir.dims.dim import Dim
from ....ir.graph import Initializer
from ....ir.types import DType, TensorType
from ..syntax import ast
from ..syntax.parser import parse_expr


def literal(value: Any) -> ast.Expr:
    """A static value as an expression."""
    if isinstance(value, bool):
        return ast.Bool(value)
    if value is None:
        return ast.NoneValue()
    if isinstance(value, (int, float)):
        if math.copysign(1, value) < 0 and value == value:
            return ast.Unary("-", literal(-value))
        return ast.Int(value) if isinstance(value, int) else ast.Real(value, repr(value))
    if isinstance(value, str):
        return ast.Str(value)
    if isinstance(value, tuple):
        return ast.ListExpr([literal(v) for v in value])
    if isinstance(value, Dim):
        return parse_expr(str(value))
    if isinstance(value, DType):
        return ast.Name(str(value))
    raise TypeError(f"not a static value: {value!r}")


def type_expr(type: TensorType) -> ast.TypeExpr:
    """A tensor type as syntax."""
    return ast.TypeExpr(type.dtype.name, [literal(d if d.value is None else d.value) for d in type.shape])


def initialiser(init: Initializer) -> ast.Expr:
    """``zeros`` or ``normal(0.02)``."""
    name = ast.Name(init.name)
    return ast.Call(name, [ast.Arg(None, literal(a)) for a in init.args]) if init.args else name
