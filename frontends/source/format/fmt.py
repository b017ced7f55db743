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
from .fmt_expr import Comments, Place, end_of, start_of
from .fmt_statements import StatementFormatter, outside
from .layout import LINE, STEP, WIDTH, Doc, Group, Indent


def format_file(file: ast.File) -> str:
    """The whole file, with its comments; ends with a line break unless it is empty."""
    with deep_recursion():
        formatter = _Formatter(Comments(file.comments))
        formatter.file(file)
    return formatter.text()


class _Formatter(StatementFormatter):
    """Writes declarations, and files of them."""

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
        self._body(node.body, end_of(node.span), self._step)
        self._close("}")

    def _params(self, node: ast.Function | ast.Rewrite, end: Place | None) -> Doc:
        star: list[Any] = ["*"] if node.statics else []
        return self.listed("(", [*node.params, *star, *node.statics], self._param, ")", end)

    def _param(self, node: ast.Param | str) -> Doc:
        if isinstance(node, str):
            return node
        default: Doc = "" if node.default is None else [" = ", self.expr(node.default)]
        return [f"{node.name}: ", self.type(node.type), default, outside(node.external)]

    def _results(self, results: list[ast.Result]) -> Doc:
        if len(results) == 1 and results[0].name is None and results[0].condition is None:
            return self.type(results[0].type)
        return self.listed("(", results, self._result, ")", end_of(results[-1].span) if results else None)

    def _result(self, node: ast.Result) -> Doc:
        name = "" if node.name is None else f"{node.name}: "
        condition: Doc = "" if node.condition is None else [" if ", self.expr(node.condition)]
        return [name, self.type(node.type), outside(node.external), condition]

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

    def _pipeline(self, node: ast.Pipeline) -> None:
        *hosts, flow = node.members
        assert isinstance(flow, ast.Function)
        # As they were written: comments stand between them.
        steps: list[Any] = sorted([*hosts, *node.clauses, *flow.body], key=lambda step: start_of(step.span) or (0, 0))
        self._function(ast.Function("pipeline", node.name, flow.params, node.statics, flow.results, steps, span=node.span))

    def _step(self, node: ast.Stmt | ast.Host | ast.StageFiles | ast.StageList) -> None:
        if isinstance(node, ast.Host):
            self._member(node)
        elif isinstance(node, (ast.StageFiles, ast.StageList)):
            self._stage(node)
        else:
            self.statement(node)

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

    def _tokenizer(self, node: ast.Tokenizer) -> None:
        params = self.listed("(", ["*", *node.statics], self._param, ")", _end_of_last(node.statics)) if node.statics else ""
        self._write([f"tokenizer {node.name}", params, " {"])
        self._body(node.stages, end_of(node.span), self._stage)
        self._close("}")

    def _stage(self, node: Any) -> None:
        end = end_of(node.span)
        if isinstance(node, ast.RequireStmt):
            self.statement(node)
        elif isinstance(node, ast.StageList):
            self._line([f"{node.word} ", self.listed("[", node.items, self.expr, "]", end)], end)
        else:
            args = self.listed("(", node.args, self.arg, ")", end) if node.args else ""
            if isinstance(node, ast.StagePart):
                self._line([f"{node.stage} {node.name}", args], end)
                return
            number = f" = {node.id}" if isinstance(node, ast.StageToken) and node.id is not None else ""
            text = node.text if isinstance(node, ast.StageToken) else node.path
            self._line([f"{node.word} {quote(text)}{number}", " " if node.args else "", args], end)

    def _weight_row(self, node: ast.Rename | ast.Recipe) -> None:
        if isinstance(node, ast.Rename):
            self._line(f"{quote(node.old)} => {quote(node.new)}", end_of(node.span))
        else:
            self._line([f"{quote(node.name)} = ", self.expr(node.value)], end_of(node.span))


def _end_of_last(nodes: Sequence[ast.Node]) -> Place | None:
    return end_of(nodes[-1].span) if nodes else None


_DECLARATIONS: dict[type, Callable[[_Formatter, Any], None]] = {
    ast.Use: _Formatter._use,
    ast.Const: _Formatter._const,
    ast.Record: _Formatter._record,
    ast.Function: _Formatter._function,
    ast.Rewrite: _Formatter._rewrite,
    ast.Program: _Formatter._program,
    ast.Pipeline: _Formatter._pipeline,
    ast.Tokenizer: _Formatter._tokenizer,
    ast.Compile: _Formatter._compile,
}
