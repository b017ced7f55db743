"""Lines, blocks and statements: what the formatter of files writes declarations with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.notation import quote
from ..syntax import ast
from .fmt_expr import Comments, ExpressionFormatter, Place, end_of, parenthesised, start_of, tidy
from .layout import LINE, STEP, Doc, Group, Indent, render


class StatementFormatter(ExpressionFormatter):
    """Writes lines. ``_last`` is the source line of what was written last, to keep a blank line that follows it."""

    def __init__(self, comments: Comments) -> None:
        super().__init__(comments)
        self._lines: list[str] = []
        self._indent = 0
        self._last: int | None = None

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    # Lines ----------------------------------------------------------------------------------------------------------

    def _write(self, doc: Doc) -> None:
        self._lines += render(doc, self._indent)

    def _blank(self) -> None:
        if self._lines and self._lines[-1]:
            self._lines.append("")

    def _keep_blank(self, line: int | None) -> None:
        """A blank line, if there was one in the source between what was written last and ``line``."""
        if line is not None and self._last is not None and line > self._last + 1:
            self._blank()

    def _write_comments(self, comments: list[ast.Comment]) -> None:
        for comment in comments:
            self._keep_blank(comment.line)
            self._lines.append(" " * self._indent + tidy(comment.text))
            self._last = comment.line

    def _finish(self, node: ast.Node, limit: Place | None) -> None:
        """After a statement or declaration: the comment that ends its last line, if that stands before ``limit``."""
        if node.span is None:
            self._last = None
            return
        self._last = node.span.end_line
        note = self.comments.take_trailing(node.span.end_line, limit or (node.span.end_line + 1, 0))
        if note is not None:
            self._lines[-1] += f"  {note}"

    def _close(self, text: str) -> None:
        self._lines.append(" " * self._indent + text)

    # Blocks ---------------------------------------------------------------------------------------------------------

    def _body(self, nodes: Sequence[Any], end: Place | None, write: Callable[[Any], None]) -> None:
        """The inside of braces whose header was just written: statements, fields or clauses, up to ``end``."""
        first = start_of(nodes[0].span) if nodes else end
        note = self.comments.peek(first)
        if note is not None and not note.own_line:
            self._lines[-1] += f"  {tidy(note.text)}"
            self.comments.take((note.line, note.column + 1))
        self._indent += STEP
        self._last = None
        self._sequence(nodes, end, write)
        self._write_comments(self.comments.take(end))
        self._indent -= STEP

    def _sequence(self, nodes: Sequence[Any], end: Place | None, write: Callable[[Any], None]) -> None:
        for index, node in enumerate(nodes):
            self._write_comments(self.comments.take(start_of(node.span)))
            self._keep_blank(node.span.line if node.span else None)
            write(node)
            following = start_of(nodes[index + 1].span) if index + 1 < len(nodes) else end
            self._finish(node, following)

    def _line(self, doc: Doc, end: Place | None) -> None:
        """One statement, which ends at ``end``."""
        self._write_inner_comments(end)
        self._write(doc)

    def _write_inner_comments(self, end: Place | None) -> None:
        """Comments within a statement that no list has taken go before it."""
        self._lines += [" " * self._indent + tidy(comment.text) for comment in self.comments.take(end)]

    # Statements -----------------------------------------------------------------------------------------------------

    def statements(self, nodes: Sequence[ast.Stmt], end: Place | None) -> None:
        self._sequence(nodes, end, self.statement)

    def statement(self, node: ast.Stmt) -> None:
        _STATEMENTS[type(node)](self, node)

    def _assign(self, node: ast.Assign) -> None:
        self._line([f"{', '.join(node.targets)} = ", self.expr(node.value)], end_of(node.span))

    def _weight(self, node: ast.ParamStmt) -> None:
        self._typed(node.kind, node, node.init)

    def _state(self, node: ast.StateStmt) -> None:
        self._typed("state", node, node.init)

    def _random(self, node: ast.RandomStmt) -> None:
        self._typed("random", node, node.distribution)

    def _typed(self, word: str, node: Any, init: ast.Expr | None) -> None:
        type_ = self.type(node.type)
        value: Doc = "" if init is None else [" = ", self.expr(init)]
        self._line([f"{word} {node.name}: ", type_, value, outside(node.external)], end_of(node.span))

    def _tap(self, node: ast.TapStmt) -> None:
        self._line([f"tap {node.name} = ", self.expr(node.value), outside(node.external)], end_of(node.span))

    def _let(self, node: ast.LetStmt) -> None:
        self._line([f"let {node.name} = ", self.expr(node.value)], end_of(node.span))

    def _require(self, node: ast.RequireStmt) -> None:
        condition = self.expr(node.condition)
        self._line(["require ", condition, Group([",", Indent([LINE, quote(node.message)])])], end_of(node.span))

    def _return(self, node: ast.ReturnStmt) -> None:
        parts: list[Doc] = ["return ", self.expr(node.values[0])]
        rest: list[Doc] = []
        for value in node.values[1:]:
            rest += [",", LINE, self.expr(value)]
        self._line(Group([*parts, Indent(rest)]), end_of(node.span))

    def _repeat(self, node: ast.RepeatStmt) -> None:
        iterable = self.expr(node.iterable)
        if _ends_scoped(node.iterable):
            # Without parentheses the scope would be the repeat's.
            iterable = parenthesised(iterable)
        scope = "" if node.scope is None else f" as {node.scope}"
        self._line([f"repeat {node.variable} in ", iterable, f"{scope} {{"], end_of(node.iterable.span))
        self._body(node.body, end_of(node.span), self.statement)
        self._close("}")

    def _fold(self, node: ast.FoldStmt) -> None:
        stacked = f" stack ({', '.join(node.stacked)})" if node.stacked else ""
        head = [f"fold {node.variable} in ", self.expr(node.count), f" from ({', '.join(node.carried)}){stacked} {{"]
        self._line(head, end_of(node.count.span))
        self._body(node.body, end_of(node.span), self.statement)
        self._close("}")

    def _cond(self, node: ast.CondStmt) -> None:
        self._line(
            ["cond ", self.expr(node.condition), f" from ({', '.join(node.carried)}) {{"], end_of(node.condition.span)
        )
        end = end_of(node.span)
        self._body(node.body, end if node.orelse is None else start_of(node.else_span), self.statement)
        if node.orelse is not None:
            self._close("} else {")
            self._body(node.orelse, end, self.statement)
        self._close("}")

    def _while(self, node: ast.WhileStmt) -> None:
        head = [
            "while ",
            self.expr(node.condition),
            f" from ({', '.join(node.carried)}) limit ",
            self.expr(node.limit),
            " {",
        ]
        self._line(head, end_of(node.limit.span))
        self._body(node.body, end_of(node.span), self.statement)
        self._close("}")

    def _if(self, node: ast.IfStmt) -> None:
        for index, (condition, body) in enumerate(node.branches):
            # What stands within the condition of an `else if` goes to the end of the branch before it.
            inner = STEP if index else 0
            test = self.expr(condition)
            self._indent += inner
            self._write_inner_comments(end_of(condition.span))
            self._indent -= inner
            self._write(["} else if " if index else "if ", test, " {"])
            self._body(body, self._branch_end(node, index), self.statement)
        if node.orelse is not None:
            self._close("} else {")
            self._body(node.orelse, end_of(node.span), self.statement)
        self._close("}")

    def _branch_end(self, node: ast.IfStmt, index: int) -> Place | None:
        """A place after the ``}`` of a branch and before the inside of the next."""
        if index + 1 < len(node.branches):
            return start_of(node.branches[index + 1][0].span)
        return end_of(node.span) if node.orelse is None else start_of(node.else_span)


def outside(name: str | None) -> str:
    return "" if name is None else f" as {quote(name)}"


def _ends_scoped(node: Any) -> bool:
    """Whether the text of an expression ends with an `as` that is not in brackets."""
    while isinstance(node, ast.Binary | ast.Pipe | ast.Unary):
        node = node.operand if isinstance(node, ast.Unary) else node.right
    return isinstance(node, ast.Scoped)


_STATEMENTS: dict[type, Callable[[StatementFormatter, Any], None]] = {
    ast.Assign: StatementFormatter._assign,
    ast.ParamStmt: StatementFormatter._weight,
    ast.StateStmt: StatementFormatter._state,
    ast.RandomStmt: StatementFormatter._random,
    ast.TapStmt: StatementFormatter._tap,
    ast.LetStmt: StatementFormatter._let,
    ast.RequireStmt: StatementFormatter._require,
    ast.RepeatStmt: StatementFormatter._repeat,
    ast.IfStmt: StatementFormatter._if,
    ast.FoldStmt: StatementFormatter._fold,
    ast.CondStmt: StatementFormatter._cond,
    ast.WhileStmt: StatementFormatter._while,
    ast.ReturnStmt: StatementFormatter._return,
}
