"""Options of passes, targets and stages as values; a bare word that is no constant is a string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, Span
from ....ir.types import DTYPES
from ..syntax import ast
from .library import Unit

if TYPE_CHECKING:
    from .elaborate import Elaborator


def options(
    args: list[ast.Arg], elaborator: Elaborator, unit: Unit | None, statics: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Arguments as values by name; ``statics`` are names that stand for values. Raises Diagnostic E0405, E0406."""
    values: dict[str, Any] = {}
    for arg in args:
        if arg.name is None:
            raise Diagnostic("E0405", "options are given by name: `name=value`", arg.span)
        if arg.name in values:
            raise Diagnostic("E0406", f"`{arg.name}` is given twice", arg.span)
        values[arg.name] = _option(arg.value, elaborator, unit, statics or {})
    return values


def _option(expr: ast.Expr, elaborator: Elaborator, unit: Unit | None, statics: dict[str, Any]) -> Any:
    if isinstance(expr, ast.ListExpr):
        return tuple(_option(item, elaborator, unit, statics) for item in expr.items)
    if isinstance(expr, ast.Attribute) and (word := dotted(expr)):
        return word
    if isinstance(expr, ast.Name):
        declared = unit.find(expr.id) if unit is not None else None
        if expr.id in DTYPES:
            return DTYPES[expr.id]
        if expr.id not in statics and (declared is None or not isinstance(declared.node, ast.Const)):
            return expr.id
    return elaborator.static(unit or elaborator.library.text("", "<options>"), expr, statics)


def dotted(expr: ast.Expr) -> str | None:
    """``std.nn.gelu`` as the word that it is; None for another expression."""
    if isinstance(expr, ast.Attribute):
        head = dotted(expr.value)
        return f"{head}.{expr.name}" if head else None
    return expr.id if isinstance(expr, ast.Name) else None


def places(args: list[ast.Arg]) -> dict[str, Span]:
    """Where the value of each option stands."""
    return {arg.name: arg.value.span for arg in args if arg.name and arg.value.span}
