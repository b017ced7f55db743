"""What the builder needs for every declaration, its docs and its parameters, and the declaration `program` with its members."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from ....ir.diagnostics import Diagnostic, did_you_mean
from . import ast
from .expressions import ExpressionBuilder, unescape
from .lexer import Tokens


class ProgramBuilder(ExpressionBuilder):
    """The part of :class:`.builder.AstBuilder` that makes programs."""

    def __init__(self, path: str, tokens: Tokens) -> None:
        super().__init__(path, tokens)
        # Comments that have become docs.
        self._used: set[int] = set()

    def _doc(self, i: int) -> str | None:
        """The last run of `##` lines before token ``i``, which starts a declaration."""
        lines = self.tokens.docs.get(i)
        if not lines:
            return None
        runs = self.tokens.runs
        run = runs[lines[-1].line]
        touching = runs.get(self._lines[i] - 1) == run
        if i == 0 and not touching and runs[lines[0].line] == run:
            return None
        return self._take([comment for comment in lines if runs[comment.line] == run])

    def _take(self, lines: list[ast.Comment]) -> str:
        self._used.update(map(id, lines))
        return "\n".join(comment.text[2:].removeprefix(" ").rstrip() for comment in lines)

    def refuse_outside(self, nodes: Iterable[ast.Param | ast.Result]) -> None:
        """Raise E0122 for an `as "name"` on what nobody calls from outside."""
        for node in nodes:
            if node.external is not None:
                raise Diagnostic(
                    "E0122", f"`{node.name}` has no other name outside: only an input or a result of a `model` has", node.span,
                    help=f"leave `as \"{node.external}\"` out",
                )  # fmt: skip

    def _split_params(self, items: list[Any]) -> tuple[list[ast.Param], list[ast.Param]]:
        """The parameters before and after the `*`, which arrives as the index of its token."""
        stars = [n for n, item in enumerate(items) if isinstance(item, int)]
        if not stars:
            return items, []
        first = stars[0]
        wrong = items[stars[1]] if len(stars) > 1 else items[first] if first == len(items) - 1 else None
        if wrong is not None:
            raise Diagnostic(
                "E0124",
                "a second `*` in one signature" if len(stars) > 1 else "no parameter follows this `*`",
                self.span(wrong, wrong),
                help="one `*` separates the tensors from the static parameters: `(x: float[B, D], *, heads: int)`",
            )
        return items[:first], items[first + 1 :]

    def program(self, i: int, j: int, _program: str, name: str, *rest: Any) -> ast.Program:
        tensors, statics = self._split_params(rest[1]) if len(rest) == 6 else ([], [])
        if tensors:
            raise Diagnostic(
                "E0130", f"`{tensors[0].name}` is no static parameter of the program `{name}`", tensors[0].span,
                help=f"tensors go into its entry points and flows; write `program {name}(*, layers: int)` for what is static",
            )  # fmt: skip
        node = ast.Program(
            name, statics, rest[-2], self._doc(i), name_span=self.span(i + 1, i + 1), span=self.span(i, j)
        )
        return self.checked(i, j, node)

    def entry(self, i: int, j: int, word: str, name: str, _equal: str, model: str, *rest: Any) -> ast.Entry:
        self._member(i, word, "entry")
        scope = rest[-1].removeprefix("as").strip() if rest and rest[-1] != ")" else None
        args = self.ordered(rest[1]) if len(rest) > 1 else []
        return ast.Entry(name, model, args, scope, span=self.span(i, j))

    def host(
        self, i: int, j: int, word: str, name: str, _equal: str, reference: str, _open: str, params: list[Any],
        _close: str, _arrow: str, results: list[ast.Result],
    ) -> ast.Host:  # fmt: skip
        self._member(i, word, "host")
        tensors = self._tensors(name, params)
        self.refuse_outside(chain(tensors, results))
        return ast.Host(name, unescape(reference), tensors, results, span=self.span(i, j))

    def flow(
        self, i: int, j: int, word: str, name: str, _open: str, params: list[Any], _close: str, _arrow: str,
        results: list[ast.Result], _brace: str, body: list[ast.Stmt], _end: str,
    ) -> ast.Function:  # fmt: skip
        self._member(i, word, "flow")
        tensors = self._tensors(name, params)
        self.refuse_outside(chain(tensors, results))
        return ast.Function(
            "flow", name, tensors, [], results, body, name_span=self.span(i + 1, i + 1), span=self.span(i, j)
        )

    def pipeline(
        self, i: int, j: int, _pipeline: str, name: str, _open: str, params: list[Any], _close: str, _arrow: str,
        results: list[ast.Result], _brace: str, steps: list[Any], _end: str,
    ) -> ast.Pipeline:  # fmt: skip
        tensors, statics = self._split_params(params)
        self.refuse_outside(chain(tensors, statics, results))
        place = self.span(i + 1, i + 1)
        hosts = [step for step in steps if isinstance(step, ast.Host)]
        kinds = (ast.StageFiles, ast.StageList, ast.RequireStmt)
        clauses = [step for step in steps if isinstance(step, kinds)]
        body = [step for step in steps if not isinstance(step, (ast.Host, *kinds))]
        flow = ast.Function("flow", name, tensors, [], results, body, name_span=place, span=self.span(i, j))
        node = ast.Pipeline(
            name, statics, [*hosts, flow], self._doc(i), clauses=clauses, name_span=place, span=self.span(i, j)
        )
        return self.checked(i, j, node)

    def measure(self, i: int, j: int, word: str, path: str) -> ast.StageFiles:
        self._clause(i, word, "measure")
        return ast.StageFiles(word, unescape(path), [], span=self.span(i, j))

    def metrics(self, i: int, j: int, word: str, _open: str, items: list[ast.Expr], *_close: str) -> ast.StageList:
        self._clause(i, word, "metrics")
        return self.checked(i, j, ast.StageList(word, items, span=self.span(i, j)))

    def _clause(self, i: int, word: str, form: str) -> None:
        """Raise E0130 where ``word`` does not introduce the clause of a pipeline that the grammar has recognised."""
        forms = {
            "measure": 'name the files that are measured as `measure "held/*.txt"`',
            "metrics": "name what is measured as `metrics [words.tokens_per_character, agree]`",
        }
        if word == form:
            return
        found = f"`{word}` is no clause of a pipeline" if word not in forms else f"this `{word}` is malformed"
        help_ = forms.get(word) or did_you_mean(word, forms) or "; ".join(forms.values())
        raise Diagnostic("E0130", found, self.span(i, i), help=help_)

    def _tensors(self, name: str, params: list[Any]) -> list[ast.Param]:
        """The parameters of a flow or host stage. Raises E0130 for static ones."""
        tensors, statics = self._split_params(params)
        if statics:
            raise Diagnostic(
                "E0130", f"`{name}` takes tensors, and `{statics[0].name}` is a static parameter", statics[0].span,
                help="what is static belongs to the program, and goes to its entry points: `entry a = m(layers=layers)`",
            )  # fmt: skip
        return tensors

    def _member(self, i: int, word: str, form: str) -> None:
        """Raise E0130 where ``word`` does not introduce the form that the grammar has recognised."""
        forms = {
            "entry": "write an entry point as `entry prefill = decoder(layers=2)`",
            "host": 'write a host stage as `host pick = "package.module:function"(x: float[B, V]) -> i64[B, 1]`',
            "flow": "write a flow as `flow answer(ids: i64[B, T]) -> i64[B, 1] { … }`",
        }
        if word == form:
            return
        found = f"`{word}` is no member of a program" if word not in forms else f"this `{word}` is malformed"
        help_ = forms.get(word) or did_you_mean(word, forms) or "its members are `entry`, `host` and `flow`"
        raise Diagnostic("E0130", found, self.span(i, i), help=help_)
