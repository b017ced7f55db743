"""What is legal in a file and probably wrong: warnings. A comment ``# allow: CODE`` on the line, or above it, takes one back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ...ir.diagnostics import Diagnostic, Span, did_you_mean
from .elaborate.cycles import names_in
from .elaborate.mistaken import rebound
from .syntax import ast
from .unread import bodies_of, unread

_ALLOW = re.compile(r"#\s*allow:\s*([\w\s,]+)")


def lint(file: ast.File) -> list[Diagnostic]:
    """The warnings of a file that parses, without those that a comment allows."""
    declared = frozenset(alias or name for use in file.uses for name, alias in use.names)
    declared |= {item.name for item in file.items if not isinstance(item, ast.Compile)}
    found = [*unused_imports(file.uses, used_names(file)), *(w for item in file.items for w in of_item(item, declared))]
    return not_allowed(found, file)


def not_allowed(warnings: list[Diagnostic], file: ast.File) -> list[Diagnostic]:
    """The warnings that no comment of a file takes back."""
    allowed: dict[int, set[str]] = {}
    for comment in file.comments:
        match = _ALLOW.match(comment.text)
        if match is not None:
            codes = set(re.findall(r"\w+", match[1]))
            allowed.setdefault(comment.line + comment.own_line, set()).update(codes)
    return [w for w in warnings if w.span is None or w.code not in allowed.get(w.span.line, ())]


def beside(warnings: Iterable[Diagnostic], errors: Iterable[Diagnostic]) -> list[Diagnostic]:
    """The warnings that do not follow from an error: a name that is not defined may be a misspelt one that is brought in."""
    undefined = any(error.code == "E0201" for error in errors)
    return [w for w in warnings if not (undefined and w.code == "W0101")]


def used_names(file: ast.File) -> set[str]:
    """Every name that a file mentions behind its `use` lines."""
    used = set(names_in(file.items)) | {item.model for item in file.items if isinstance(item, ast.Compile)}
    for program in file.items:
        if isinstance(program, ast.Program):
            used |= {member.model for member in program.members if isinstance(member, ast.Entry)}
    return used


def unused_imports(uses: list[ast.Use], used: set[str]) -> Iterator[Diagnostic]:
    """W0101 for each name that is brought in and not among those ``used``."""
    for use in uses:
        for name, alias in use.names:
            if (alias or name) not in used:
                yield Diagnostic(
                    "W0101", f"`{alias or name}` is brought in and never used", use.span, help="take it out of the `use` line"
                )


def of_item(item: ast.Declaration, declared: frozenset[str]) -> Iterator[Diagnostic]:
    """The warnings of one declaration of a file that brings in or declares the names ``declared``."""
    yield from _constant_conditions(item)
    if isinstance(item, ast.Function):
        yield from _of_function(item, declared - {item.name})


def _of_function(node: ast.Function, declared: frozenset[str]) -> Iterator[Diagnostic]:
    params = [*node.params, *node.statics]
    inside = [node.body, [p.default for p in params], [r.condition for r in node.results]]
    read = set(names_in(inside))
    types = [*(p.type for p in params), *(r.type for r in node.results)]
    sizes = set(names_in([t.dims or [] for t in types]))
    for param in params:
        own = set(names_in(param.type.dims or []))
        others = set(names_in([p.type.dims or [] for p in params if p is not param]))
        # What is passed for its sizes alone, or for the record that it is, is used.
        if param.name in read | sizes or own - others or param.name.startswith("_"):
            continue
        yield Diagnostic(
            "W0102", f"the parameter `{param.name}` of `{node.name}` is never used", param.span,
            help="take it out, or begin its name with `_` where a caller needs the place",
        )  # fmt: skip
    yield from unread(node)
    yield from _compared_reals(node)
    yield from _shadowing(node, declared)
    yield from _nearly_sizes(node, sizes)


def _shadowing(node: ast.Function, declared: frozenset[str]) -> Iterator[Diagnostic]:
    """Names that hide a function, a record or a constant of the file."""
    places: list[tuple[str, Span | None]] = [(p.name, p.span) for p in (*node.params, *node.statics)]
    places += [(name, s.span) for s in _statements(node.body) for name in rebound(s) if not bodies_of(s)]
    told: set[str] = set()
    for name, span in places:
        if name in declared and name not in told:
            told.add(name)
            yield Diagnostic(
                "W0104", f"`{name}` hides what the file declares under this name", span, help="choose another name for the value"
            )


def _nearly_sizes(node: ast.Function, sizes: set[str]) -> Iterator[Diagnostic]:
    """Sizes that only a result or a state has, and that nearly are called as another."""
    known = set(names_in([p.type.dims or [] for p in node.params])) | {s.name for s in node.statics}
    known |= {s.name for s in _statements(node.body) if isinstance(s, ast.LetStmt)}
    types = [(r.type, "result") for r in node.results]
    types += [(s.type, "state") for s in _statements(node.body) if isinstance(s, ast.StateStmt)]
    for type, what in types:
        for name in dict.fromkeys(names_in(type.dims or [])):
            close = did_you_mean(name, known) if name not in known and len(name) > 1 else None
            if close is not None:
                yield Diagnostic("W0105", f"the size `{name}` is that of a {what} alone", type.span, help=close)


def _constant_conditions(node: Any) -> Iterator[Diagnostic]:
    """`if true`, `require 1 < 2`: a branch that is never reached, a requirement that says nothing."""
    for statement in _walk(node):
        conditions = []
        if isinstance(statement, ast.IfStmt):
            conditions = [(c, "`if`") for c, _ in statement.branches]
        elif isinstance(statement, ast.RequireStmt):
            conditions = [(statement.condition, "`require`")]
        for condition, what in conditions:
            if not list(names_in(condition)):
                yield Diagnostic(
                    "W0106", f"the condition of this {what} is always the same", condition.span or statement.span,
                    help="write what it depends on, or only the branch that is taken",
                )  # fmt: skip


def _compared_reals(node: ast.Function) -> Iterator[Diagnostic]:
    """Tensors that are compared with a number; a static parameter is what was written."""
    statics = {s.name for s in node.statics}
    for expr in _walk(node.body):
        if isinstance(expr, ast.Binary) and expr.op in ("==", "!=") and not set(names_in(expr)) <= statics:
            for side in (expr.left, expr.right):
                if isinstance(side, ast.Real) and side.value not in (0.0, float("inf")):
                    yield Diagnostic(
                        "W0107", f"`{expr.op}` compares reals, which are rounded", expr.span,
                        help=f"allow a difference: `abs(x - {side.value}) < 1e-6`",
                    )  # fmt: skip


def _statements(body: list[ast.Stmt]) -> Iterator[ast.Stmt]:
    """The statements of a body, those of inner bodies included."""
    for statement in body:
        yield statement
        for inner in bodies_of(statement):
            yield from _statements(inner)


def _walk(node: Any) -> Iterator[Any]:
    """Every node of a tree."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _walk(item)
    elif isinstance(node, ast.Node):
        yield node
        for slot in type(node).__dataclass_fields__:
            if "span" not in slot:
                yield from _walk(getattr(node, slot))
