"""Expressions in brackets: `x[:, 1:]` of a tensor, `xs[2]` of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic
from ....ir.dims.dim import Dim
from ....ir.graph import Value
from ....ir.ops import OPS
from ..syntax import ast
from .partial import forgotten
from .values import describe, is_tensor

if TYPE_CHECKING:
    from .evaluate import Evaluator


def index(frame: Evaluator, e: ast.Index) -> Any:
    """A part of a tensor or of a list. Raises E0303, E0305, E0402, E0506."""
    value = frame.one(e.value)
    if isinstance(value, tuple):
        return _of_list(frame, e, value)
    if not is_tensor(value):
        raise Diagnostic("E0506", f"{describe(value)} cannot be indexed", e.span, help=forgotten(value))
    items = list(e.items)
    dots = [i for i, item in enumerate(items) if isinstance(item, ast.Ellipsis_)]
    if len(dots) > 1 or len(items) - len(dots) > value.type.rank:
        raise Diagnostic("E0305", f"{len(items)} indices for the {value.type.rank} axes of {value.type}", e.span)
    if dots:
        fill: list[ast.Expr] = [ast.Slice(None, None, None)] * (value.type.rank - len(items) + 1)
        items[dots[0] : dots[0] + 1] = fill
    axis = 0
    for item in items:
        value, kept = _of_axis(frame, value, item, axis)
        axis += kept
    return value


def _of_axis(frame: Evaluator, value: Value, item: ast.Expr, axis: int) -> tuple[Value, int]:
    """What one item leaves of a tensor, and of how many axes."""
    span = item.span
    if isinstance(item, ast.Slice):
        start, stop, step = (None if x is None else frame.eval(x) for x in (item.start, item.stop, item.step))
        if start is None and stop is None and step is None:
            return value, 1
        for bound in (start, stop, step):
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, (int, Dim))):
                raise Diagnostic("E0402", f"a slice is made of integers, not {describe(bound)}", span)
        attrs = {"axis": axis, "start": start, "stop": stop, "step": 1 if step is None else step}
        return frame.emit(OPS["slice"], [value], attrs, span)[0], 1
    at = frame.eval(item)
    if is_tensor(at):
        if at.type.dtype.kind == "bool":
            raise Diagnostic(
                "E0303", f"a mask {at.type} cannot be an index: how many elements it picks is known at run time only", span,
                help="`where(mask, x, 0.0)` keeps the size; `compact(mask, capacity=n)` gives the indices of the first n",
            )  # fmt: skip
        return frame.emit(OPS["take"], [value, at], {"axis": axis, "batch": 0}, span)[0], at.type.rank
    if isinstance(at, bool) or not isinstance(at, (int, Dim)):
        raise Diagnostic(
            "E0402", f"an index is an integer, a slice or an integer tensor, not {describe(at)}", span, help=_instead(at, axis)
        )  # fmt: skip
    stop = None if at == -1 else at + 1
    one = frame.emit(OPS["slice"], [value], {"axis": axis, "start": at, "stop": stop}, span)[0]
    return frame.emit(OPS["squeeze"], [one], {"axis": axis}, span)[0], 0


def _instead(at: Any, axis: int) -> str | None:
    if at is None:
        return f"a new axis is made by `unsqueeze(x, axis={axis})`"
    if isinstance(at, tuple):
        return f"join what you pick: `stack(x[0], x[2], axis={axis})`, or pass the indices in as an integer tensor"
    return None


def _of_list(frame: Evaluator, e: ast.Index, value: tuple[Any, ...]) -> Any:
    if len(e.items) == 1 and isinstance(e.items[0], ast.Slice):
        item = e.items[0]
        bounds = [None if x is None else frame.eval(x) for x in (item.start, item.stop, item.step)]
        wrong = next((b for b in bounds if b is not None and (isinstance(b, bool) or not isinstance(b, int))), None)
        if wrong is not None or bounds[2] == 0:
            found = "the step 0" if wrong is None else describe(wrong)
            raise Diagnostic("E0402", f"a slice of a list is made of integers known when compiling, not {found}", item.span)
        return value[slice(*bounds)]
    at = frame.eval(e.items[0]) if len(e.items) == 1 else None
    if isinstance(at, bool) or not isinstance(at, int) or not -len(value) <= at < len(value):
        raise Diagnostic("E0402", f"a list of {len(value)} items has no item {describe(at)}", e.span)
    return value[at]
