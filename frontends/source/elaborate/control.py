"""Statements with regions: `fold`, `cond` and `while`. Names are carried into bodies of their own, and rebound behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....ir.diagnostics import Diagnostic, FollowUp, Span
from ....ir.dims.dim import Dim
from ....ir.graph import Value
from ....ir.ops import OPS
from ....ir.types import TensorType
from ..syntax import ast
from .mistaken import rebound
from .regions import Region, share_captured
from .values import POISON, Bundle, describe, like, same_structure, tensors_of

if TYPE_CHECKING:
    from .frame import Frame

Carried = dict[str, Value | Bundle]


def fold(frame: Frame, s: ast.FoldStmt) -> None:
    """``fold i in n from (a, b) stack (y) { … }``. Raises E0204, E0308, E0402, E0504."""
    count = _steps(frame, s.count, "fold")
    starts = _starts(frame, s.carried, "fold", s.span, s.variable)
    for i, name in enumerate(s.stacked):
        if name in starts or name == s.variable or name in s.stacked[:i]:
            raise Diagnostic("E0204", f"`{name}` is a name of this `fold` twice", s.span,
                             help="a carried value is stacked under another name: `y = h` in the body")  # fmt: skip
    region, inner = _enter(frame, "fold", {}, s.span)
    inner.env[s.variable] = region.argument(s.variable, TensorType.of("i64"))
    _carry(region, inner, starts)
    before = {name: inner.env.get(name) for name in s.stacked}
    _leave(region, inner, starts, s.body, s.span, (s.variable, *s.stacked))
    for name in s.stacked:
        value = inner.env.get(name)
        if value is POISON:
            raise FollowUp
        if value is before[name]:
            raise Diagnostic("E0308", f"`{name}` is stacked, but the body of the `fold` does not bind it", s.span)
        if not isinstance(value, Value):
            raise Diagnostic("E0308", f"`{name}` is stacked, and must be a tensor, but is {describe(value)}", s.span)
        region.graph.add_output(region.local(value), name)
    attrs = {"n": count, "carried": len(_tensors(starts)), "body": region.graph}
    _bind(frame, "fold", starts, [*_tensors(starts), *region.used()], attrs, s.span, s.stacked)


def cond(frame: Frame, s: ast.CondStmt) -> None:
    """``cond p from (a, b) { … } else { … }``. Raises E0204, E0308, E0504, E0506."""
    predicate = frame.local(_condition(frame, s.condition, "cond", "`if` chooses while compiling"))
    starts = _starts(frame, s.carried, "cond", s.span)
    branches = []
    for body in (s.body, s.orelse or []):
        region, inner = _enter(frame, "cond", starts, s.span)
        _leave(region, inner, starts, body, s.span)
        branches.append(region)
    captured = share_captured(branches)
    then, orelse = (region.graph for region in branches)
    attrs = {"carried": len(_tensors(starts)), "then": then, "orelse": orelse}
    _bind(frame, "cond", starts, [predicate, *_tensors(starts), *captured], attrs, s.span)


def while_(frame: Frame, s: ast.WhileStmt) -> None:
    """``while p from (a, b) limit n { … }``. Raises E0204, E0308, E0402, E0504, E0506."""
    limit = _steps(frame, s.limit, "limit")
    starts = _starts(frame, s.carried, "while", s.span)
    test, asking = _enter(frame, "while", starts, s.span)
    go = _condition(asking, s.condition, "while", "a loop that only its bound ends is `fold i in n from (…) { … }`")
    test.graph.add_output(test.local(go), "go")
    region, inner = _enter(frame, "while", starts, s.span)
    _leave(region, inner, starts, s.body, s.span)
    captured = share_captured([test, region])
    attrs = {"limit": limit, "carried": len(_tensors(starts)), "test": test.graph, "body": region.graph}
    _bind(frame, "while", starts, [*_tensors(starts), *captured], attrs, s.span)


def _steps(frame: Frame, expr: ast.Expr, word: str) -> int | Dim:
    count = frame.eval(expr)
    if isinstance(count, bool) or not isinstance(count, (int, Dim)):
        raise Diagnostic("E0402", f"`{word}` takes a number of steps, not {describe(count)}", expr.span)
    return count


def _condition(frame: Frame, expr: ast.Expr, word: str, help: str) -> Value:
    value = frame.eval(expr)
    if not isinstance(value, Value):
        raise Diagnostic(
            "E0506", f"the condition of `{word}` must be a tensor bool[], not {describe(value)}", expr.span, help=help
        )
    return value


def _starts(frame: Frame, names: Sequence[str], word: str, span: Span | None, variable: str | None = None) -> Carried:
    """What the carried names are before the statement, as values of the graph around it."""
    starts: Carried = {}
    for name in names:
        value = frame.eval(ast.Name(name, span=span))
        if not tensors_of(value):
            raise Diagnostic(
                "E0308", f"the carried value `{name}` must be a tensor or a record, but is {describe(value)}", span
            )
        if name in starts or name == variable:
            raise Diagnostic("E0204", f"`{name}` is a name of this `{word}` twice", span)
        starts[name] = like(value, map(frame.local, tensors_of(value)))
    return starts


def _tensors(carried: Carried) -> list[Value]:
    return [tensor for value in carried.values() for tensor in tensors_of(value)]


def _enter(frame: Frame, word: str, starts: Carried, span: Span | None) -> tuple[Region, Frame]:
    """A region whose first inputs are the carried values, and a frame in which their names mean these."""
    if frame.builder is None:
        raise Diagnostic("E0505", f"`{word}` makes tensors, but a static value is needed here", span)
    region = Region(word, frame.builder, frame.region)
    inner = frame.nested(region)
    _carry(region, inner, starts)
    return region, inner


def _carry(region: Region, inner: Frame, starts: Carried) -> None:
    for name, start in starts.items():
        inner.env[name] = like(start, (region.argument(name, v.type) for v in tensors_of(start)))


def _leave(
    region: Region, inner: Frame, starts: Carried, body: list[ast.Stmt], span: Span | None, own: Sequence[str] = ()
) -> None:
    """Run a body; what the carried names then mean are the region's results.

    ``own`` are the names that the statement itself explains. Raises E0507 for another of outside that the body rebinds.
    """
    word = region.graph.name
    before = dict(inner.env)
    if inner.block(body):
        behind = "`cond`" if word == "cond" else "loop"
        raise Diagnostic(
            "E0504", f"`return` inside of `{word}`", span, help=f"carry the value and return it after the {behind}"
        )
    for name, value in before.items():
        # What is called `_` is thrown away wherever it stands.
        if name == "_" or name in starts or name in own or inner.env[name] is value or inner.env[name] is POISON:
            continue
        raise Diagnostic(
            "E0507", f"`{name}` gets another value in this `{word}` and is not carried, so that it is lost behind it",
            next((s.span for s in body if name in rebound(s)), span),
            help=f"carry it, `from ({', '.join([*starts, name])})`, or choose another name for what only the body needs",
        )  # fmt: skip
    for name, start in starts.items():
        value = inner.env[name]
        if value is POISON:
            raise FollowUp
        if not same_structure(start, value):
            other = " with other static fields" if isinstance(start, Bundle) and isinstance(value, Bundle) else ""
            raise Diagnostic("E0308", f"the carried value `{name}` became {describe(value)}{other}", span)
        for tensor in tensors_of(value):
            region.graph.add_output(region.local(tensor), name)


def _bind(
    frame: Frame, word: str, starts: Carried, operands: list[Value], attrs: dict[str, Any], span: Span | None,
    stacked: Sequence[str] = (),
) -> None:  # fmt: skip
    """Emit the node, and let the carried names, and those that are stacked, mean its results."""
    outputs = iter(frame.emit(OPS[word], operands, attrs, span))
    for name, start in starts.items():
        frame.bind(name, like(start, outputs), span)
    for name in stacked:
        frame.bind(name, next(outputs), span)
