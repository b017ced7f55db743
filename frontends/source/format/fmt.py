"""The one style of Tessera source: four spaces, 120 columns, comments kept, as few parentheses as possible.

``parse(format_file(f)) == f``, and formatting what was formatted changes nothing. The printer of the IR writes with the
same functions: nodes without spans simply have no comments and no blank lines around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ....ir.notation import quote
from ..syntax import ast
from ..syntax.depth import deep_recursion
from .fmt_expr import Comments, ExpressionFormatter, Place, end_of, parenthesised, start_of, tidy
from .layout import LINE, STEP, WIDTH, Doc, Group, Indent, render


def format_file(file: ast.File) -> str:
    """The whole file, with its comments; ends with a line break unless it is empty."""
    with deep_recursion():
        formatter = _Formatter(Comments(file.comments))
        formatter.file(file)
    return formatter.text()


class _Formatter(ExpressionFormatter):
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

    # File -----------------------------------------------------------------------------------------------------------

    def file(self, file: ast.File) -> None:
        if file.doc is not None:
            self._write_comments(self.comments.take(start_of(file.span)))
            self._doc(file.doc)
            self._blank()
            self._last = None
        nodes: list[Any] = [*file.uses, *file.items]
        before: Any = None
        for index, node in enumerate(nodes):
            comments = self.comments.take(start_of(node.span))
            doc = getattr(node, "doc", None)
            first = None if node.span is None else node.span.line - (0 if doc is None else doc.count("\n") + 1)
            if before is not None and not (type(node) is type(before) and isinstance(node, ast.Use | ast.Const)):
                self._blank()
            self._write_comments(comments)
            self._keep_blank(first)
            self.declaration(node)
            self._finish(node, start_of(nodes[index + 1].span) if index + 1 < len(nodes) else None)
            before = node
        rest = self.comments.take_all()
        if rest and before is not None and not isinstance(before, ast.Use | ast.Const):
            self._blank()
        self._write_comments(rest)
        if not nodes and not rest and self._lines:
            self._lines.pop()

    def _doc(self, doc: str | None) -> None:
        if doc is not None:
            self._lines += [f"## {line}".rstrip() for line in doc.split("\n")]

    def declaration(self, node: ast.Declaration | ast.Use) -> None:
        self._doc(getattr(node, "doc", None))
        _DECLARATIONS[type(node)](self, node)

    def _use(self, node: ast.Use) -> None:
        path = quote(node.path) if node.quoted else node.path
        names = [name if alias is None else f"{name} as {alias}" for name, alias in node.names]
        self._line([f"use {path} ", self.listed("(", names, str, ")", None)], end_of(node.span))

    def _const(self, node: ast.Const) -> None:
        self._line([f"const {node.name} = ", self.expr(node.value)], end_of(node.span))

    def _record(self, node: ast.Record) -> None:
        dims = self.listed("[", node.dims, str, "]", None) if node.dims else ""
        self._write([f"record {node.name}", dims, " {"])
        self._body(node.fields, end_of(node.span), self._field)
        self._close("}")

    def _field(self, node: ast.Field) -> None:
        static = "static " if node.static else ""
        default = [] if node.default is None else [" = ", self.expr(node.default)]
        self._line([f"{static}{node.name}: ", self.type(node.type), *default], end_of(node.span))

    def _function(self, node: ast.Function) -> None:
        # Up to the results: a comment after the last parameter belongs to it.
        end = start_of(node.results[0].span) if node.results else None
        head = Group([f"{node.kind} {node.name}", self._params(node, end)])
        results = self._results(node.results)
        if head.hard or self._indent + head.width > WIDTH:
            self._write([head, " -> ", results, " {"])
        else:
            self._write([Group([head, Indent([LINE, "-> ", results])]), " {"])
        self._body(node.body, end_of(node.span), self.statement)
        self._close("}")

    def _params(self, node: ast.Function | ast.Rewrite, end: Place | None) -> Doc:
        star: list[Any] = ["*"] if node.statics else []
        return self.listed("(", [*node.params, *star, *node.statics], self._param, ")", end)

    def _param(self, node: ast.Param | str) -> Doc:
        if isinstance(node, str):
            return node
        default: Doc = "" if node.default is None else [" = ", self.expr(node.default)]
        return [f"{node.name}: ", self.type(node.type), default, _outside(node.external)]

    def _results(self, results: list[ast.Result]) -> Doc:
        if len(results) == 1 and results[0].name is None and results[0].condition is None:
            return self.type(results[0].type)
        return self.listed("(", results, self._result, ")", end_of(results[-1].span) if results else None)

    def _result(self, node: ast.Result) -> Doc:
        name = "" if node.name is None else f"{node.name}: "
        condition: Doc = "" if node.condition is None else [" if ", self.expr(node.condition)]
        return [name, self.type(node.type), _outside(node.external), condition]

    def _rewrite(self, node: ast.Rewrite) -> None:
        head = f"rewrite {node.contract} {node.name}"
        self._write([head, self._params(node, _end_of_last([*node.params, *node.statics])), " {"])
        self._indent += STEP
        for naming in node.named:
            self._write_inner_comments(end_of(naming.span))
            self._write([f"let {', '.join(naming.targets)} = ", self.expr(naming.value), " in"])
        self._write_inner_comments(start_of(node.pattern.span))
        pattern = self.expr(node.pattern)
        replacement: list[Doc] = [self.expr(node.replacement[0])]
        for value in node.replacement[1:]:
            replacement += [",", LINE, self.expr(value)]
        condition: Doc = [] if node.condition is None else [LINE, "where ", self.expr(node.condition)]
        self._write_inner_comments(end_of(node.span))
        self._write(Group([pattern, Indent([LINE, "=> ", *replacement, condition])]))
        if node.weights:
            self._write("weights {")
            self._body(node.weights, end_of(node.span), self._weight_row)
            self._close("}")
        self._indent -= STEP
        self._close("}")

    def _program(self, node: ast.Program) -> None:
        statics = (
            self.listed("(", ["*", *node.statics], self._param, ")", _end_of_last(node.statics)) if node.statics else ""
        )
        self._write([f"program {node.name}", statics, " {"])
        self._body(node.members, end_of(node.span), self._member)
        self._close("}")

    def _member(self, node: ast.Entry | ast.Host | ast.Function) -> None:
        if isinstance(node, ast.Function):
            self._function(node)
        elif isinstance(node, ast.Entry):
            args = self.listed("(", node.args, self.arg, ")", _end_of_last(node.args)) if node.args else ""
            scope = f" as {node.scope}" if node.scope else ""
            self._line([f"entry {node.name} = {node.model}", args, scope], end_of(node.span))
        else:
            params = self.listed("(", node.params, self._param, ")", start_of(node.results[0].span))
            head = [f"host {node.name} = {quote(node.reference)}", params]
            self._line(Group([*head, Indent([LINE, "-> ", self._results(node.results)])]), end_of(node.span))

    def _compile(self, node: ast.Compile) -> None:
        args = self.listed("(", node.args, self.arg, ")", _end_of_last(node.args)) if node.args else ""
        self._write([f"compile {node.model}", args, " {"])
        self._body(node.clauses, end_of(node.span), self._clause)
        self._close("}")

    def _clause(self, node: Any) -> None:
        end = end_of(node.span)
        if isinstance(node, ast.WeightsClause):
            file = "" if node.file is None else f" {quote(node.file)}"
            if not node.rows and file:
                self._line(f"weights{file}", end)
                return
            self._write(f"weights{file} {{")
            self._body(node.rows, end, self._weight_row)
            self._close("}")
            return
        word = "pass" if isinstance(node, ast.PassClause) else "target"
        args = self.listed("(", node.args, self.arg, ")", end) if node.args else ""
        self._line([f"{word} {node.name}", args], end)

    def _weight_row(self, node: ast.Rename | ast.Recipe) -> None:
        if isinstance(node, ast.Rename):
            self._line(f"{quote(node.old)} => {quote(node.new)}", end_of(node.span))
        else:
            self._line([f"{quote(node.name)} = ", self.expr(node.value)], end_of(node.span))

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
        self._line([f"{word} {node.name}: ", type_, value, _outside(node.external)], end_of(node.span))

    def _tap(self, node: ast.TapStmt) -> None:
        self._line([f"tap {node.name} = ", self.expr(node.value), _outside(node.external)], end_of(node.span))

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


def _outside(name: str | None) -> str:
    return "" if name is None else f" as {quote(name)}"


def _end_of_last(nodes: Sequence[ast.Node]) -> Place | None:
    return end_of(nodes[-1].span) if nodes else None


def _ends_scoped(node: Any) -> bool:
    """Whether the text of an expression ends with an `as` that is not in brackets."""
    while isinstance(node, ast.Binary | ast.Pipe | ast.Unary):
        node = node.operand if isinstance(node, ast.Unary) else node.right
    return isinstance(node, ast.Scoped)


_DECLARATIONS: dict[type, Callable[[_Formatter, Any], None]] = {
    ast.Use: _Formatter._use,
    ast.Const: _Formatter._const,
    ast.Record: _Formatter._record,
    ast.Function: _Formatter._function,
    ast.Rewrite: _Formatter._rewrite,
    ast.Program: _Formatter._program,
    ast.Compile: _Formatter._compile,
}
_STATEMENTS: dict[type, Callable[[_Formatter, Any], None]] = {
    ast.Assign: _Formatter._assign,
    ast.ParamStmt: _Formatter._weight,
    ast.StateStmt: _Formatter._state,
    ast.RandomStmt: _Formatter._random,
    ast.TapStmt: _Formatter._tap,
    ast.LetStmt: _Formatter._let,
    ast.RequireStmt: _Formatter._require,
    ast.RepeatStmt: _Formatter._repeat,
    ast.IfStmt: _Formatter._if,
    ast.FoldStmt: _Formatter._fold,
    ast.CondStmt: _Formatter._cond,
    ast.WhileStmt: _Formatter._while,
    ast.ReturnStmt: _Formatter._return,
}
