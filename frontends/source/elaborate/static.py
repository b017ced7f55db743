"""Operators of static values: numbers, sizes and reals of sizes, lists, functions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim, as_dim, prove_ge
from ....ir.dims.ratio import Exact, Ratio, Unfoldable, exactly
from ..syntax import ast
from .builtin import LONGEST, known
from .deciding import decide
from .partial import forgotten
from .values import FUNCTIONS, Bundle, Multi, describe, holds_tensors

if TYPE_CHECKING:

    from .evaluate import Evaluator

STATIC_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})
_FIELD = ("+", "-", "*", "/")
# What is exact of numbers as they are written: `0.7 // 0.1` is 7.
_RATIONAL = (*_FIELD, "//", "%")
# How long the denominator of a number may grow; what is longer is a float and nothing else.
_LONGEST = 1 << 256
# The highest power of a size.
_HIGHEST = 16


def static_binary(evaluator: Evaluator, e: ast.Binary, left: Any, right: Any) -> Any:
    """``left OP right``. Raises E0402 for what it cannot be applied to, E0407 where a comparison is not decided."""
    for side, expr in ((left, e.left), (right, e.right)):
        refused = isinstance(side, (Bundle, Multi)) or (holds_tensors(side) and e.op not in ("+", "*"))
        if refused or (isinstance(side, FUNCTIONS) and e.op not in ("==", "!=")):
            raise Diagnostic("E0402", f"`{e.op}` cannot be applied to {describe(side)}", expr.span, help=forgotten(side))
    # A function is one value, as a name or as the attribute that it becomes.
    left, right = (evaluator.elaborator.attribute(v) if isinstance(v, FUNCTIONS) else v for v in (left, right))
    sized = isinstance(left, (Dim, Ratio)) or isinstance(right, (Dim, Ratio))
    if sized and _numbers(left, right):
        made = _of_sizes(evaluator, e, left, right)
        if made is not None:
            return made
    if sized and (_numbers(left, right) or e.op in ("/", "**")):
        raise Diagnostic(
            "E0402", f"`{left} {e.op} {right}` needs a number, but the dimension is only known at run time", e.span
        )
    if e.op in ("==", "!=") and isinstance(left, tuple) and isinstance(right, tuple):
        return _same_lists(evaluator, replace(e, op="=="), left, right) == (e.op == "==")
    if e.op == "*" and any(isinstance(v, (tuple, str)) for v in (left, right)):
        items, times = (left, right) if isinstance(left, (tuple, str)) else (right, left)
        if isinstance(times, int) and len(items) * times > LONGEST:
            raise Diagnostic("E0402", f"`*` makes {len(items) * times:,} items, which are more than {LONGEST:,}", e.span)
    try:
        result = STATIC_OPERATORS[e.op](left, right)
    except (TypeError, KeyError):
        raise Diagnostic(
            "E0402", f"`{e.op}` cannot be applied to {describe(left)} and {describe(right)}", e.span
        ) from None
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        raise Diagnostic("E0402", f"`{left} {e.op} {right}`: {error}", e.span) from None
    if isinstance(result, complex) or (isinstance(result, int) and abs(result) >= 1 << 63):
        raise Diagnostic("E0402", f"`{left} {e.op} {right}` is out of range", e.span)
    return _exact(e.op, left, right, result) if isinstance(result, float) else result


def _same_lists(evaluator: Evaluator, equal: ast.Binary, left: tuple[Any, ...], right: tuple[Any, ...]) -> bool:
    """Whether lists are equal item by item. Raises E0407 where sizes in them leave that open."""
    if len(left) != len(right):
        return False
    undecided = None
    for a, b in zip(left, right, strict=True):
        try:
            if not static_binary(evaluator, equal, a, b):
                return False
        except Diagnostic as error:
            if error.code != "E0407":
                raise
            undecided = undecided or error
    if undecided is not None:
        raise undecided
    return True


def _numbers(*values: Any) -> bool:
    return all(isinstance(v, (int, float, Dim, Ratio)) and not isinstance(v, bool) for v in values)


def _of_sizes(evaluator: Evaluator, e: ast.Binary, left: Any, right: Any) -> Any:
    """What an operator makes of numbers and sizes: an integer of sizes, a real of sizes, a verdict; None for no such thing."""
    whole = all(isinstance(v, (int, Dim)) for v in (left, right))
    power = e.op == "**" and isinstance(right, int) and 0 <= right <= _HIGHEST
    if whole and (e.op in ("+", "-", "*", "//", "%") or power):
        try:
            return known(as_dim(STATIC_OPERATORS[e.op](as_dim(left), right)))
        except ZeroDivisionError as error:
            raise Diagnostic("E0402", f"`{left} {e.op} {right}`: {error}", e.span) from None
    try:
        a, b = Ratio.written(left), Ratio.written(right)
        if e.op in _FIELD:
            return STATIC_OPERATORS[e.op](a, b)
        if e.op not in COMPARISONS:
            return None
        over_one = _over_one_denominator(a, b)
    except Unfoldable:
        return None
    graph = evaluator.builder.graph if evaluator.builder else None
    verdict = decide(e.op, *over_one, graph)
    if verdict is None:
        raise Diagnostic(
            "E0407", f"`{left} {e.op} {right}` is not known when compiling", e.span,
            help="`require` may state it; `if` needs to know it",
        )  # fmt: skip
    return verdict


def _over_one_denominator(a: Ratio, b: Ratio) -> tuple[Dim, Dim]:
    """Two integers that compare as two ratios do. Raises Unfoldable for a denominator that may be negative, `T - 4`."""
    if not (prove_ge(a.bottom, 0) and prove_ge(b.bottom, 0)):
        raise Unfoldable
    return a.top * b.bottom, b.top * a.bottom


def comparable(left: Any, right: Any) -> tuple[Dim, Dim] | None:
    """Two integers that compare as two numbers do of which at least one depends on sizes; None for anything else."""
    if not _numbers(left, right) or not any(isinstance(v, (int, Dim, Ratio)) for v in (left, right)):
        return None
    try:
        return _over_one_denominator(Ratio.written(left), Ratio.written(right))
    except Unfoldable:
        return None


def _exact(op: str, left: Any, right: Any, result: float) -> float:
    """A computed real with its fraction, where it has a short one."""
    if op not in _RATIONAL:
        return result
    a, b = exactly(left), exactly(right)
    if a is None or b is None:
        return result
    fraction = type(a)(STATIC_OPERATORS[op](a, b))
    if op not in _FIELD:
        result = float(fraction)
    return Exact(result, fraction) if fraction.denominator < _LONGEST else result
