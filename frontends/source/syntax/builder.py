"""What the parser does on each reduction: the methods that ``tess.lark`` names, which make the nodes of ``ast.py``.

A method gets the indices of the first and the last token of its alternative, then the value of each of its symbols;
the value of a token is its text. Spans come from the two indices.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from ....ir.diagnostics import Diagnostic, Span, did_you_mean
from . import ast
from .expressions import ExpressionBuilder, unescape
from .lexer import RESERVED
from .members import ProgramBuilder
from .stages import TokenizerBuilder


class AstBuilder(TokenizerBuilder):
    """Makes the nodes of one file.

    Raises ``Diagnostic`` (E01xx) for what the grammar lets through: ``f(a=1, b)``, ``a < b < c``, ``w as "name"``
    outside of a parameter, an expression nested too deep.
    """

    # File and declarations ------------------------------------------------------------------------------------------

    def file(self, i: int, j: int, uses: list[ast.Use], items: list[ast.Declaration]) -> ast.File:
        self.refuse_quoted()
        doc, first_line = self._file_doc()
        last = len(self._lines) - 1
        # The span starts with the file's doc, so that the formatter knows which comments stand before it.
        span = Span(self.path, first_line, 1, self._lines[last], self._ends[last])
        used = self._used
        comments = [comment for comment in self.tokens.comments if id(comment) not in used]
        return ast.File(self.path, uses, items, comments, doc, span=span)

    def _file_doc(self) -> tuple[str | None, int]:
        """The first run of `##` lines, if it stands before everything else and documents no declaration."""
        lines = self.tokens.docs.get(0, [])
        runs = self.tokens.runs
        first = [comment for comment in lines if runs[comment.line] == runs[lines[0].line]]
        if not first or id(first[0]) in self._used:
            return None, 1
        return self._take(first), first[0].line

    def use(self, i: int, j: int, _use: str, path: str, _open: str, names: list[Any], _close: str) -> ast.Use:
        return ast.Use(path, names, span=self.span(i, j))

    def use_quoted(self, i: int, j: int, _use: str, path: str, _open: str, names: list[Any], _close: str) -> ast.Use:
        return ast.Use(unescape(path), names, True, span=self.span(i, j))

    def dotted(self, i: int, j: int, name: str) -> str:
        return name

    def dotted_more(self, i: int, j: int, path: str, _dot: str, name: str) -> str:
        return f"{path}.{name}"

    def use_name(self, i: int, j: int, name: str, scope: str | None = None) -> tuple[str, str | None]:
        if scope is None:
            return name, None
        alias = scope[2:].lstrip()
        if not alias.isidentifier() or alias in RESERVED:
            raise Diagnostic(
                "E0109",
                f"`{alias}` cannot be a name for `{name}`",
                self.span(j, j),
                help="a name is made of letters, digits and `_`, and is no reserved word",
            )
        return name, alias

    def const(self, i: int, j: int, _const: str, name: str, _equal: str, value: ast.Expr) -> ast.Const:
        return self.checked(i, j, ast.Const(name, value, self._doc(i), span=self.span(i, j)))

    def record(self, i: int, j: int, _record: str, name: str, *rest: Any) -> ast.Record:
        dims = rest[1] if len(rest) == 6 else []
        return ast.Record(name, dims, rest[-2], self._doc(i), span=self.span(i, j))

    def field(self, i: int, j: int, name: str, _colon: str, type_: ast.TypeExpr) -> ast.Field:
        return ast.Field(name, type_, span=self.span(i, j))

    def field_static(
        self, i: int, j: int, _static: str, name: str, _colon: str, type_: ast.TypeExpr, *default: Any
    ) -> ast.Field:
        return ast.Field(name, type_, True, default[-1] if default else None, span=self.span(i, j))

    def function(
        self,
        i: int,
        j: int,
        kind: str,
        name: str,
        _open: str,
        params: list[Any],
        _close: str,
        _arrow: str,
        results: list[ast.Result],
        _brace: str,
        body: list[ast.Stmt],
        _end: str,
    ) -> ast.Function:
        tensors, statics = self._split_params(params)
        self.refuse_outside(statics if kind == "model" else chain(tensors, statics, results))
        return ast.Function(
            kind,
            name,
            tensors,
            statics,
            results,
            body,
            self._doc(i),
            name_span=self.span(i + 1, i + 1),
            span=self.span(i, j),
        )

    def rewrite(
        self,
        i: int,
        j: int,
        _rewrite: str,
        contract: str,
        name: str,
        _open: str,
        params: list[Any],
        _close: str,
        _brace: str,
        named: list[ast.Assign],
        pattern: ast.Expr,
        _arrow: str,
        replacement: list[ast.Expr],
        *rest: Any,
    ) -> ast.Rewrite:
        tensors, statics = self._split_params(params)
        self.refuse_outside([*tensors, *statics])
        weights = rest[-2] if len(rest) > 1 and isinstance(rest[-2], list) else []
        condition = rest[1] if rest[0] == "where" else None
        node = ast.Rewrite(
            name, contract, tensors, statics, pattern, replacement, condition, self._doc(i), named, weights,
            span=self.span(i, j),
        )  # fmt: skip
        return self.checked(i, j, node)

    def made_of(self, i: int, j: int, word: str, _open: str, rows: list[Any], _close: str) -> list[ast.Recipe]:
        if word != "weights" or any(isinstance(row, ast.Rename) for row in rows):
            raise Diagnostic(
                "E0101", f"found `{word} {{ … }}` where a rule says what its new weights are made of", self.span(i, j),
                help='write `weights { "moe.up" = stack(w, w) }`, a recipe for each parameter',
            )  # fmt: skip
        return rows

    def naming(
        self,
        i: int,
        j: int,
        _let: str,
        targets: tuple[list[str], list[Span | None]],
        _equal: str,
        value: ast.Expr,
        _in: str,
    ) -> ast.Assign:
        return ast.Assign(targets[0], value, targets[1], span=self.span(i, j))

    def where(self, i: int, j: int, word: str) -> str:
        return self._word(i, word, "where", "}", "a rewrite holds `pattern => replacement` and perhaps `where condition`")

    def _word(self, i: int, word: str, wanted: str, other: str, help: str) -> str:
        """A name that is a keyword in its place. Raises E0101 for another one."""
        if word != wanted:
            raise Diagnostic("E0101", f"found `{word}`, expected `{wanted}` or `{other}`", self.span(i, i), help=help)
        return word

    def star(self, i: int, j: int, _star: str) -> int:
        return i

    def param(
        self,
        i: int,
        j: int,
        name: str,
        _colon: str,
        type_: ast.TypeExpr,
        _equal: str = "",
        default: ast.Expr | None = None,
    ) -> ast.Param:
        return self.checked(i, j, ast.Param(name, type_, default, span=self.span(i, j)))

    def param_outside(
        self, i: int, j: int, name: str, _colon: str, type_: ast.TypeExpr, external: str
    ) -> ast.Param:  # fmt: skip
        return ast.Param(name, type_, None, external, span=self.span(i, j))

    def outside(self, i: int, j: int, _as: str, name: str) -> str:
        return unescape(name)

    def result_only(self, i: int, j: int, type_: ast.TypeExpr) -> list[ast.Result]:
        return [ast.Result(type_, span=self.span(i, j))]

    def result(self, i: int, j: int, type_: ast.TypeExpr) -> ast.Result:
        return ast.Result(type_, span=self.span(i, j))

    def result_if(self, i: int, j: int, type_: ast.TypeExpr, _if: str, condition: ast.Expr) -> ast.Result:
        return self.checked(i, j, ast.Result(type_, None, condition, span=self.span(i, j)))

    def result_named(
        self,
        i: int,
        j: int,
        name: str,
        _colon: str,
        type_: ast.TypeExpr,
        _if: str = "",
        condition: ast.Expr | None = None,
    ) -> ast.Result:
        return self.checked(i, j, ast.Result(type_, name, condition, span=self.span(i, j)))

    def result_outside(
        self, i: int, j: int, name: str, _colon: str, type_: ast.TypeExpr, external: str, _if: str = "",
        condition: ast.Expr | None = None,
    ) -> ast.Result:  # fmt: skip
        return self.checked(i, j, ast.Result(type_, name, condition, external, span=self.span(i, j)))

    def type(self, i: int, j: int, name: str, *rest: Any) -> ast.TypeExpr:
        dims = rest[1] if len(rest) >= 3 else None
        optional = bool(rest) and rest[-1] == "?"
        return self.checked(i, j, ast.TypeExpr(name, dims, optional, span=self.span(i, j)))

    def compile(self, i: int, j: int, _compile: str, model: str, *rest: Any) -> ast.Compile:
        args = self.ordered(rest[1]) if len(rest) == 6 else []
        return self.checked(i, j, ast.Compile(model, args, rest[-2], self._doc(i), span=self.span(i, j)))

    def clause(self, i: int, j: int, word: str, *rest: Any) -> ast.WeightsClause | ast.PassClause | ast.TargetClause:
        span = self.span(i, j)
        named = isinstance(rest[0], str) and not rest[0].startswith(('"', "{"))
        if word in ("pass", "target") and named:
            args = self.ordered(rest[2]) if len(rest) == 4 else []
            make = ast.PassClause if word == "pass" else ast.TargetClause
            return self.checked(i, j, make(rest[0], args, span=span))
        if word == "weights" and not named:
            file = unescape(rest[0]) if rest[0] != "{" else None
            return ast.WeightsClause(file, rest[-2] if rest[-1] == "}" else [], span=span)
        forms = {
            "pass": "write a pass as `pass merge_tokens(r=8)`",
            "target": "write a target as `target onnx(opset=24)`",
            "weights": 'write the weights as `weights "file.safetensors"`, with quotes',
        }
        found = f"`{word}` is no clause of `compile`" if word not in forms else f"this `{word}` clause is malformed"
        help_ = forms.get(word) or did_you_mean(word, forms) or "the clauses are `weights`, `pass` and `target`"
        raise Diagnostic("E0123", found, self.span(i, i), help=help_)

    def rename(self, i: int, j: int, old: str, _arrow: str, new: str) -> ast.Rename:
        return ast.Rename(unescape(old), unescape(new), span=self.span(i, j))

    def recipe(self, i: int, j: int, name: str, _equal: str, value: ast.Expr) -> ast.Recipe:
        return self.checked(i, j, ast.Recipe(unescape(name), value, span=self.span(i, j)))

    # Statements -----------------------------------------------------------------------------------------------------

    def target(self, i: int, j: int, name: str) -> tuple[list[str], list[Span | None]]:
        return [name], [self.span(i, i)]

    def target_more(
        self, i: int, j: int, targets: tuple[list[str], list[Span | None]], _comma: str, name: str
    ) -> tuple[list[str], list[Span | None]]:
        targets[0].append(name)
        targets[1].append(self.span(j, j))
        return targets

    def assign(
        self, i: int, j: int, targets: tuple[list[str], list[Span | None]], _equal: str, value: ast.Expr
    ) -> ast.Assign:
        return self.checked(i, j, ast.Assign(targets[0], value, targets[1], span=self.span(i, j)))

    def weight(
        self,
        i: int,
        j: int,
        kind: str,
        name: str,
        _colon: str,
        type_: ast.TypeExpr,
        _equal: str = "",
        init: ast.Expr | None = None,
    ) -> ast.ParamStmt:
        return self.checked(i, j, ast.ParamStmt(kind, name, type_, init, self.claim_quoted(j), span=self.span(i, j)))

    def weight_named(
        self, i: int, j: int, kind: str, name: str, _colon: str, type_: ast.TypeExpr, _as: str, external: str
    ) -> ast.ParamStmt:
        return ast.ParamStmt(kind, name, type_, None, unescape(external), span=self.span(i, j))

    def state(
        self,
        i: int,
        j: int,
        _state: str,
        name: str,
        _colon: str,
        type_: ast.TypeExpr,
        _equal: str = "",
        init: ast.Expr | None = None,
    ) -> ast.StateStmt:
        return self.checked(i, j, ast.StateStmt(name, type_, init, self.claim_quoted(j), span=self.span(i, j)))

    def state_outside(
        self, i: int, j: int, _state: str, name: str, _colon: str, type_: ast.TypeExpr, external: str
    ) -> ast.StateStmt:
        return ast.StateStmt(name, type_, None, external, span=self.span(i, j))

    def random(
        self, i: int, j: int, _random: str, name: str, _colon: str, type_: ast.TypeExpr, _equal: str, init: ast.Expr
    ) -> ast.RandomStmt:
        return self.checked(i, j, ast.RandomStmt(name, type_, init, self.claim_quoted(j), span=self.span(i, j)))

    def tap(self, i: int, j: int, _tap: str, name: str, _equal: str, value: ast.Expr) -> ast.TapStmt:
        return self.checked(i, j, ast.TapStmt(name, value, self.claim_quoted(j), span=self.span(i, j)))

    def let(self, i: int, j: int, _let: str, name: str, _equal: str, value: ast.Expr) -> ast.LetStmt:
        return self.checked(i, j, ast.LetStmt(name, value, span=self.span(i, j)))

    def require(self, i: int, j: int, _require: str, condition: ast.Expr, _comma: str, message: str) -> ast.RequireStmt:
        return self.checked(i, j, ast.RequireStmt(condition, unescape(message), span=self.span(i, j)))

    def repeat_head(
        self, i: int, j: int, _repeat: str, variable: str, _in: str, iterable: ast.Expr
    ) -> tuple[str, ast.Expr, str | None]:
        self.checked(i, j, iterable)
        if self._scoped_end != j:
            return variable, iterable, None
        # `repeat i in n + 1 as blocks`: the scope is the repeat's, not that of the `1` before it.
        if isinstance(iterable, ast.Scoped):
            return variable, iterable.value, iterable.scope
        holder: Any = iterable
        while True:
            slot = "operand" if isinstance(holder, ast.Unary) else "right"
            last = getattr(holder, slot)
            if isinstance(last, ast.Scoped):
                setattr(holder, slot, last.value)
                return variable, iterable, last.scope
            holder = last

    def repeat(self, i: int, j: int, head: tuple[str, ast.Expr, str | None], body: list[ast.Stmt]) -> ast.RepeatStmt:
        return ast.RepeatStmt(*head, body, span=self.span(i, j))

    def if_(self, i: int, j: int, _if: str, condition: ast.Expr, body: list[ast.Stmt]) -> ast.IfStmt:
        return ast.IfStmt([(self.checked(i, j, condition), body)], span=self.span(i, j))

    def if_else(
        self, i: int, j: int, _if: str, condition: ast.Expr, body: list[ast.Stmt], orelse: tuple[list[ast.Stmt], Span]
    ) -> ast.IfStmt:
        return ast.IfStmt([(self.checked(i, j, condition), body)], *orelse, span=self.span(i, j))

    def orelse(self, i: int, j: int, _else: str, body: list[ast.Stmt]) -> tuple[list[ast.Stmt], Span]:
        return body, self.span(i, i)

    def if_chain(
        self, i: int, j: int, _if: str, condition: ast.Expr, body: list[ast.Stmt], _else: str, rest: ast.IfStmt
    ) -> ast.IfStmt:
        rest.branches.insert(0, (self.checked(i, j, condition), body))
        rest.span = self.span(i, j)
        return rest

    def fold(self, i: int, j: int, *parts: Any) -> ast.FoldStmt:
        _fold, variable, _in, count, _from, _open, carried, _close, *stacking, body = parts
        stacked = stacking[2] if stacking else []
        return ast.FoldStmt(variable, self.checked(i, j, count), carried, body, stacked, span=self.span(i, j))

    def stack(self, i: int, j: int, word: str) -> str:
        return self._word(i, word, "stack", "{", "the values of every step: `fold i in n from (h) stack (y) { … }`")

    def cond(self, i: int, j: int, *parts: Any) -> ast.CondStmt:
        _cond, condition, _from, _open, carried, _close, body, *orelse = parts
        branches = (body, *orelse[0]) if orelse else (body,)
        return ast.CondStmt(self.checked(i, j, condition), carried, *branches, span=self.span(i, j))

    def while_(self, i: int, j: int, *parts: Any) -> ast.WhileStmt:
        _while, test, _from, _open, carried, _close, _limit, most, body = parts
        return ast.WhileStmt(self.checked(i, j, test), carried, self.checked(i, j, most), body, span=self.span(i, j))

    def limit(self, i: int, j: int, word: str) -> str:
        if word != "limit":
            raise Diagnostic(
                "E0101",
                f"found `{word}`, expected `limit`",
                self.span(i, i),
                help="a loop has a bound: `while i < n from (i, x) limit 64 { … }`",
            )
        return word

    def return_(self, i: int, j: int, _return: str, values: list[ast.Expr]) -> ast.ReturnStmt:
        return self.checked(i, j, ast.ReturnStmt(values, span=self.span(i, j)))


# The methods by the names that the grammar uses.
METHODS: dict[str, Callable[..., Any]] = {
    name: method
    for cls in (ExpressionBuilder, ProgramBuilder, TokenizerBuilder, AstBuilder)
    for name, method in vars(cls).items()
    if callable(method) and not name.startswith("_") and name not in (
        "span", "ordered", "checked", "claim_quoted", "refuse_quoted", "refuse_outside",
    )
}
