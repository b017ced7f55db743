"""Expressions and types as documents of ``layout.py``, with as few parentheses as re-parse to the same tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.diagnostics import Span
from ....ir.notation import quote
from ..syntax import ast
from ..syntax.expressions import COMPARISON, POWER, PRECEDENCE, PREFIX
from .layout import HARD, LINE, SOFT, Doc, Group, IfBroken, Indent, Trailing

# Above the operators' strengths: what may be scoped, called, indexed.
_SCOPED = 9
_POSTFIX = 10

Place = tuple[int, int]


def start_of(span: Span | None) -> Place | None:
    return None if span is None else (span.line, span.column)


def end_of(span: Span | None) -> Place | None:
    return None if span is None else (span.end_line, span.end_column)


class Comments:
    """The comments of a file, in order, each taken once."""

    def __init__(self, comments: Sequence[ast.Comment] = ()) -> None:
        self._rest = sorted(comments, key=lambda c: (c.line, c.column), reverse=True)

    def peek(self, before: Place | None) -> ast.Comment | None:
        """The next comment, if it starts before the place."""
        if before is None or not self._rest:
            return None
        comment = self._rest[-1]
        return comment if (comment.line, comment.column) < before else None

    def take(self, before: Place | None) -> list[ast.Comment]:
        """All comments that start before the place."""
        taken = []
        while self.peek(before) is not None:
            taken.append(self._rest.pop())
        return taken

    def take_all(self) -> list[ast.Comment]:
        return self.take((1 << 60, 0))

    def take_trailing(self, line: int | None, before: Place | None) -> str | None:
        """The comment at the end of ``line``, if it starts before the place."""
        comment = self.peek(before)
        if comment is None or comment.own_line or comment.line != line:
            return None
        return tidy(self._rest.pop().text)


def tidy(text: str) -> str:
    """One `#` and a space: a `##` that documents nothing would become a doc where it moves before a declaration."""
    body = text.lstrip("#")
    marks = text[: len(text) - len(body)]
    if len(marks) == 2:
        marks = "#"
    return f"{marks} {body}".rstrip() if body and body[0] not in " !\t" else f"{marks}{body}".rstrip()


class ExpressionFormatter:
    """Makes documents. ``comments`` are those not yet written: a comment within a list breaks the list over lines."""

    def __init__(self, comments: Comments) -> None:
        self.comments = comments

    # Lists ----------------------------------------------------------------------------------------------------------

    def listed(
        self, open_: str, nodes: Sequence[Any], make: Callable[[Any], Doc], close: str, end: Place | None
    ) -> Doc:
        """``open_ a, b close`` on one line; else the items on the next line; else each on its own, with its comments.

        ``end`` is where the list ends in the source.
        """
        if self.comments.peek(end) is not None:
            return self._commented(open_, nodes, make, close, end)
        if not nodes:
            return open_ + close
        parts: list[Doc] = []
        for node in nodes:
            parts += [make(node), ",", LINE]
        parts[-2:] = [IfBroken(",")]
        return Group([open_, Indent([SOFT, Group(parts)]), SOFT, close])

    def _commented(
        self, open_: str, nodes: Sequence[Any], make: Callable[[Any], Doc], close: str, end: Place | None
    ) -> Doc:
        starts = [start_of(getattr(node, "span", None)) for node in nodes]
        parts: list[Doc] = []
        for index, node in enumerate(nodes):
            following = starts[index + 1] if index + 1 < len(nodes) else end
            place = end_of(getattr(node, "span", None))
            parts += self._own_lines(self.comments.take(starts[index]))
            item = make(node)
            # Comments within an item that no list of its own has taken.
            parts += self._own_lines(self.comments.take(place))
            parts += [HARD, item, ","]
            note = self.comments.take_trailing(place[0] if place else None, following)
            if note is not None:
                parts.append(Trailing(note))
        parts += self._own_lines(self.comments.take(end))
        return [open_, Indent(parts), HARD, close]

    def _own_lines(self, comments: list[ast.Comment]) -> list[Doc]:
        parts: list[Doc] = []
        for comment in comments:
            parts += [HARD, tidy(comment.text)]
        return parts

    # Types ----------------------------------------------------------------------------------------------------------

    def type(self, node: ast.TypeExpr) -> Doc:
        optional = "?" if node.optional else ""
        if node.dims is None:
            return node.name + optional
        return self.listed(f"{node.name}[", node.dims, self.expr, f"]{optional}", end_of(node.span))

    # Expressions ----------------------------------------------------------------------------------------------------

    def expr(self, node: Any) -> Doc:
        """An expression where any may stand."""
        return self._expr(node)

    def operand(self, node: Any, strength: int) -> Doc:
        """An expression where only what binds at least as tightly as ``strength`` may stand without parentheses."""
        if strength_of(node) >= strength:
            return self._expr(node)
        return parenthesised(self._expr(node))

    def _expr(self, node: Any) -> Doc:
        return _WRITERS[type(node)](self, node)

    def _name(self, node: ast.Name) -> Doc:
        return node.id

    def _int(self, node: ast.Int) -> Doc:
        return str(node.value)

    def _real(self, node: ast.Real) -> Doc:
        return node.text

    def _str(self, node: ast.Str) -> Doc:
        return quote(node.value)

    def _bool(self, node: ast.Bool) -> Doc:
        return "true" if node.value else "false"

    def _none(self, node: ast.NoneValue) -> Doc:
        return "none"

    def _ellipsis(self, node: ast.Ellipsis_) -> Doc:
        return "..."

    def _list(self, node: ast.ListExpr) -> Doc:
        return self.listed("[", node.items, self.expr, "]", end_of(node.span))

    def _call(self, node: ast.Call) -> Doc:
        function = self.operand(node.function, _POSTFIX)
        return [function, self.listed("(", node.args, self.arg, ")", end_of(node.span))]

    def arg(self, node: ast.Arg) -> Doc:
        value = self.expr(node.value)
        return value if node.name is None else [f"{node.name}=", value]

    def _index(self, node: ast.Index) -> Doc:
        value = self.operand(node.value, _POSTFIX)
        return [value, self.listed("[", node.items, self.expr, "]", end_of(node.span))]

    def _slice(self, node: ast.Slice) -> Doc:
        start, stop = ([] if part is None else self.expr(part) for part in (node.start, node.stop))
        step = [] if node.step is None else [":", self.expr(node.step)]
        return [start, ":", stop, step]

    def _attribute(self, node: ast.Attribute) -> Doc:
        # `3.size` would read as a number.
        bare = not isinstance(node.value, ast.Int | ast.Real)
        value = self.operand(node.value, _POSTFIX) if bare else parenthesised(self._expr(node.value))
        return [value, f".{node.name}"]

    def _scoped(self, node: ast.Scoped) -> Doc:
        return [self.operand(node.value, _POSTFIX), f" as {node.scope}"]

    def _unary(self, node: ast.Unary) -> Doc:
        if node.op == "not" and isinstance(node.operand, ast.Binary) and node.operand.op == "in":
            return self._binary(node.operand, "not in")
        sign = "not " if node.op == "not" else node.op
        return [sign, self.operand(node.operand, PREFIX[node.op])]

    def _binary(self, node: ast.Binary, shown: str = "") -> Doc:
        strength = PRECEDENCE[node.op]
        if strength == POWER:
            # The right operand of a power may carry a sign: `K ** -0.5`.
            right = self.operand(node.right, PREFIX["-"])
            return [self.operand(node.left, _SCOPED), " ** ", right]
        # `a + b - c` is one run of operands, broken before its operators.
        tails: list[tuple[str, Any]] = [(shown or node.op, node.right)]
        first = node.left
        while isinstance(first, ast.Binary) and PRECEDENCE[first.op] == strength != COMPARISON:
            tails.append((first.op, first.right))
            first = first.left
        head = self.operand(first, strength + (strength == COMPARISON))
        rest: list[Doc] = []
        for sign, operand in reversed(tails):
            rest += [LINE, f"{sign} ", self.operand(operand, strength + 1)]
        return Group([head, Indent(rest)])

    def _pipe(self, node: ast.Pipe) -> Doc:
        stages = [node.right]
        first = node.left
        while isinstance(first, ast.Pipe):
            stages.append(first.right)
            first = first.left
        head = self.operand(first, PRECEDENCE["|>"])
        rest: list[Doc] = []
        for stage in reversed(stages):
            rest += [LINE, "|> ", self.operand(stage, _SCOPED)]
        return Group([head, Indent(rest)])


def parenthesised(doc: Doc) -> Doc:
    return Group(["(", Indent([SOFT, doc]), SOFT, ")"])


def strength_of(node: Any) -> int:
    """How tightly the outermost operator of an expression binds."""
    if isinstance(node, ast.Pipe):
        return PRECEDENCE["|>"]
    if isinstance(node, ast.Binary):
        return PRECEDENCE[node.op]
    if isinstance(node, ast.Unary):
        return PREFIX[node.op]
    if isinstance(node, ast.Int | ast.Real) and (str(node.value)[0] == "-"):
        return PREFIX["-"]
    return _SCOPED if isinstance(node, ast.Scoped) else _POSTFIX


_WRITERS: dict[type, Callable[[ExpressionFormatter, Any], Doc]] = {
    ast.Name: ExpressionFormatter._name,
    ast.Int: ExpressionFormatter._int,
    ast.Real: ExpressionFormatter._real,
    ast.Str: ExpressionFormatter._str,
    ast.Bool: ExpressionFormatter._bool,
    ast.NoneValue: ExpressionFormatter._none,
    ast.Ellipsis_: ExpressionFormatter._ellipsis,
    ast.ListExpr: ExpressionFormatter._list,
    ast.Call: ExpressionFormatter._call,
    ast.Index: ExpressionFormatter._index,
    ast.Slice: ExpressionFormatter._slice,
    ast.Attribute: ExpressionFormatter._attribute,
    ast.Scoped: ExpressionFormatter._scoped,
    ast.Unary: ExpressionFormatter._unary,
    ast.Binary: ExpressionFormatter._binary,
    ast.Pipe: ExpressionFormatter._pipe,
}
