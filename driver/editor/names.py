"""Every name in a piece of text: where it stands, what it is a name of, and whether it is bound there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ...frontends.source.syntax import ast
from ...ir.diagnostics import Span

if TYPE_CHECKING:
    from .piece import Piece


class Name(NamedTuple):
    """What a name means as far as its piece tells.

    ``space`` says where it is looked up: ``own`` is a name of the function ``owner``; ``dim`` a dimension of it, unless a constant
    of the file is called so; ``free`` is a declaration of the file or built in; ``arg`` a parameter of the function ``owner``;
    ``import`` a declaration of the module ``owner``; ``module``; ``field`` of a record; ``pass``, ``target`` and ``option`` (of
    the pass ``owner``) are words of a `compile` block; ``word`` is a value of one.
    """

    space: str
    owner: str
    text: str


class Occurrence(NamedTuple):
    """A name at a place. ``binds``: it gets its meaning here. ``of``: the expression whose field it is."""

    span: Span
    name: Name
    binds: bool = False
    of: Span | None = None


def bound_by(body: Iterable[ast.Stmt]) -> Iterator[tuple[str, ast.Stmt]]:
    """The names that statements bind, with those, in order, those within blocks included."""
    for s in body:
        if isinstance(s, ast.Assign):
            yield from ((target, s) for target in s.targets)
        elif isinstance(s, (ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.LetStmt)):
            yield s.name, s
        elif isinstance(s, (ast.RepeatStmt, ast.FoldStmt)):
            yield s.variable, s
        for block in blocks_of(s):
            yield from bound_by(block)


def blocks_of(s: ast.Stmt) -> list[list[ast.Stmt]]:
    """The statements within a statement."""
    if isinstance(s, ast.IfStmt):
        return [*(body for _, body in s.branches), *([s.orelse] if s.orelse is not None else [])]
    if isinstance(s, ast.CondStmt):
        return [s.body, *([s.orelse] if s.orelse is not None else [])]
    return [s.body] if isinstance(s, (ast.RepeatStmt, ast.FoldStmt, ast.WhileStmt)) else []


def dims_of(types: Iterable[ast.TypeExpr]) -> Iterator[str]:
    """The names in the dimensions of types."""
    for type in types:
        yield from (node.id for node in walk(type.dims or []) if isinstance(node, ast.Name))


def walk(node: Any) -> Iterator[ast.Node]:
    """A tree's nodes, in order."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from walk(item)
    elif isinstance(node, ast.Node):
        yield node
        for field in node.__dataclass_fields__:
            if field != "span":
                yield from walk(getattr(node, field))


def occurrences(piece: Piece) -> list[Occurrence]:
    """Every name of a piece, by place."""
    walker = _Walker(piece)
    for use in piece.file.uses:
        walker.use(use)
    for item in piece.file.items:
        walker.item(item)
    return sorted(walker.found, key=lambda o: o.span[1:3])


class _Walker:
    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.found: list[Occurrence] = []
        self.owner = ""
        self.bound: frozenset[str] = frozenset()
        self.dims: frozenset[str] = frozenset()

    # Places ---------------------------------------------------------------------------------------------------------

    def add(self, span: Span | None, name: Name, binds: bool = False, of: Span | None = None) -> None:
        if span is not None:
            self.found.append(Occurrence(span, name, binds, of))

    def within(self, span: Span | None, text: str, skip: int = 0) -> Span | None:
        """Where a name stands within a span, of which ``skip`` tokens are passed over."""
        if span is None:
            return None
        piece = self.piece
        at = piece.token_at(span.line, span.column) + skip
        tokens = piece.tokens
        while at < len(tokens.texts) - 1 and (tokens.lines[at], tokens.columns[at]) < (span.end_line, span.end_column):
            if tokens.texts[at] == text:
                return piece.token_span(at)
            at += 1
        return None

    def own(self, span: Span | None, text: str, binds: bool = True) -> None:
        self.add(span, Name("own", self.owner, text), binds)

    # Declarations ---------------------------------------------------------------------------------------------------

    def use(self, use: ast.Use) -> None:
        tokens, piece = self.piece.tokens, self.piece
        assert use.span is not None
        at = piece.token_at(use.span.line, use.span.column) + 1
        start = piece.token_span(at)
        while tokens.texts[at] != "(":
            at += 1
        self.add(start._replace(end_column=tokens.ends[at - 1]), Name("module", "", use.path))
        for name, alias in use.names:
            at += 1
            while tokens.texts[at] != name:
                at += 1
            self.add(piece.token_span(at), Name("import", use.path, name), binds=alias is None)
            if alias is not None:
                at += 1
                span = piece.token_span(at)
                self.add(span._replace(column=span.end_column - len(alias)), Name("free", "", alias), binds=True)

    def item(self, item: ast.Declaration) -> None:
        self.owner = item.model if isinstance(item, ast.Compile) else item.name
        self.bound = self.dims = frozenset()
        if isinstance(item, ast.Compile):
            self.compile(item)
            return
        self.add(self.within(item.span, item.name, 1), Name("free", "", item.name), binds=True)
        if isinstance(item, ast.Const):
            self.tree(item.value)
        elif isinstance(item, ast.Record):
            self.record(item)
        elif isinstance(item, ast.Function):
            self.function(item)
        elif isinstance(item, ast.Rewrite):
            self.rewrite(item)
        elif isinstance(item, ast.Tokenizer):
            for stage in item.stages:
                self.tree(stage)
        else:
            self.program(item)

    def record(self, item: ast.Record) -> None:
        self.dims = frozenset(item.dims)
        for dim in item.dims:
            self.add(self.within(item.span, dim, 2), Name("dim", self.owner, dim), binds=True)
        for field in item.fields:
            self.add(self.within(field.span, field.name), Name("field", item.name, field.name), binds=True)
            self.tree(field.type)
            self.tree(field.default)

    def signature(self, params: list[ast.Param], statics: list[ast.Param], results: list[ast.Result]) -> None:
        for param in [*params, *statics]:
            self.own(self.within(param.span, param.name), param.name)
            self.tree(param.type)
            self.tree(param.default)
        for result in results:
            self.tree(result)

    def scope(
        self, params: list[ast.Param], statics: list[ast.Param], body: list[ast.Stmt], outer: Iterable[str] = ()
    ) -> None:
        names = [p.name for p in (*params, *statics)]
        self.bound = frozenset([*names, *(name for name, _ in bound_by(body)), *outer])
        self.dims = frozenset(dims_of(p.type for p in params)) - self.bound

    def function(self, item: ast.Function, outer: Iterable[str] = ()) -> None:
        self.scope(item.params, item.statics, item.body, outer)
        self.signature(item.params, item.statics, item.results)
        for statement in item.body:
            self.statement(statement)

    def rewrite(self, item: ast.Rewrite) -> None:
        self.scope(item.params, item.statics, list(item.named))
        self.signature(item.params, item.statics, [])
        for naming in item.named:
            self.statement(naming)
        for part in (item.pattern, item.replacement, item.condition):
            self.tree(part)

    def program(self, item: ast.Program) -> None:
        members = [m.name for m in item.members]
        self.scope([], item.statics, [], members)
        self.signature([], item.statics, [])
        outer = self.bound
        for member in item.members:
            self.bound, self.dims = outer, frozenset()
            self.own(self.within(member.span, member.name, 1), member.name)
            if isinstance(member, ast.Entry):
                self.add(self.within(member.span, member.model, 3), Name("free", "", member.model))
                self.arguments(member.args, member.model)
            elif isinstance(member, ast.Host):
                self.dims = frozenset(dims_of(p.type for p in member.params))
                self.signature(member.params, [], member.results)
            else:
                self.function(member, outer)

    def compile(self, item: ast.Compile) -> None:
        self.add(self.within(item.span, item.model, 1), Name("free", "", item.model))
        self.arguments(item.args, item.model)
        for clause in item.clauses:
            if isinstance(clause, ast.WeightsClause):
                for row in clause.rows:
                    self.tree(row)
                continue
            space = "pass" if isinstance(clause, ast.PassClause) else "target"
            self.add(self.within(clause.span, clause.name, 1), Name(space, "", clause.name))
            for arg in clause.args:
                if arg.name is not None:
                    self.add(self.within(arg.span, arg.name), Name("option", f"{space} {clause.name}", arg.name))
                for node in walk(arg.value):
                    if isinstance(node, ast.Name):
                        self.add(node.span, Name("word", f"{space} {clause.name}", node.id))

    # Statements and expressions --------------------------------------------------------------------------------------

    def statement(self, s: ast.Stmt) -> None:
        if isinstance(s, ast.Assign):
            for target, span in zip(s.targets, s.target_spans, strict=True):
                self.own(span, target)
            self.tree(s.value)
            return
        if isinstance(s, (ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.LetStmt)):
            self.own(self.within(s.span, s.name, 1), s.name)
        elif isinstance(s, (ast.RepeatStmt, ast.FoldStmt)):
            self.own(self.within(s.span, s.variable, 1), s.variable)
        if isinstance(s, (ast.FoldStmt, ast.CondStmt, ast.WhileStmt)):
            head = self.within(s.span, "from")
            for name in (*s.carried, *(s.stacked if isinstance(s, ast.FoldStmt) else ())):
                self.own(
                    self.within(s.span and head and s.span._replace(line=head.line, column=head.column), name),
                    name,
                    False,
                )
        blocks = blocks_of(s)
        for field in s.__dataclass_fields__:
            value = getattr(s, field)
            if field == "branches":
                for condition, _ in value:
                    self.tree(condition)
            elif isinstance(value, ast.Node) or (field == "values"):
                self.tree(value)
        for block in blocks:
            for inner in block:
                self.statement(inner)

    def arguments(self, args: list[ast.Arg], callee: str) -> None:
        for arg in args:
            if arg.name is not None:
                self.add(self.within(arg.span, arg.name), Name("arg", callee, arg.name))
            self.tree(arg.value)

    def tree(self, node: Any) -> None:
        """The names in an expression, a type, or lists of such."""
        if isinstance(node, (list, tuple)):
            for item in node:
                self.tree(item)
        elif isinstance(node, ast.Name):
            self.add(node.span, self.meaning(node.id))
        elif isinstance(node, ast.TypeExpr):
            self.add(self.within(node.span, node.name), Name("free", "", node.name))
            for dim in node.dims or []:
                self.tree(dim)
        elif isinstance(node, ast.Call):
            self.tree(node.function)
            self.arguments(node.args, node.function.id if isinstance(node.function, ast.Name) else "")
        elif isinstance(node, ast.Attribute):
            self.tree(node.value)
            span = node.span
            if span is not None and node.value.span is not None:
                last = span._replace(line=span.end_line, column=span.end_column - len(node.name))
                self.add(last, Name("field", "", node.name), of=node.value.span)
        elif isinstance(node, ast.Node):
            for field in node.__dataclass_fields__:
                if field != "span":
                    self.tree(getattr(node, field))

    def meaning(self, text: str) -> Name:
        if text in self.bound:
            return Name("own", self.owner, text)
        return Name("dim", self.owner, text) if text in self.dims else Name("free", "", text)
