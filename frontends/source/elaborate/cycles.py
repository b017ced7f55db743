"""What a declaration mentions, and whether a function ends up calling itself. The language has no recursion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....ir.diagnostics import Diagnostic, Span
from ..syntax import ast
from .library import Declared


def check_acyclic(declared: Declared, acyclic: set[int]) -> None:
    """Raises E0503 when a function calls itself, directly or not.

    Args:
        acyclic: ids of the declarations known to be fine; those found fine are added.
    """
    path: list[Declared] = []

    def visit(at: Declared) -> None:
        node = at.node
        if id(node) in acyclic or not isinstance(node, ast.Function):
            return
        if any(p.node is node for p in path):
            first = next(i for i, p in enumerate(path) if p.node is node)
            raise recursion(node, [p.node.name for p in [*path[first:], at]], node.name_span or node.span)
        path.append(at)
        # A function that is passed as a parameter counts as called.
        for name in dict.fromkeys(free_names(node)):
            target = at.unit.names.get(name)
            if target is not None:
                visit(target)
        path.pop()
        acyclic.add(id(node))

    visit(declared)


def recursion(node: ast.Function, path: list[str], span: Span | None) -> Diagnostic:
    """E0503: a function that calls itself along ``path``."""
    return Diagnostic(
        "E0503", f"`{node.name}` calls itself: {' -> '.join(path)}", span,
        help="the language has no recursion; `repeat`, `fold` and `while` are its loops",
    )  # fmt: skip


def free_names(node: Any) -> Iterator[str]:
    """The identifiers of a declaration that are not bound within it where they stand."""
    if not isinstance(node, ast.Function):
        yield from names_in(node)
        return
    bound = {p.name for p in [*node.params, *node.statics]}
    # A size may be called as a parameter is: `-> float[B, slots, D]`.
    yield from (n for n in names_in([node.params, node.statics, node.results]) if n not in bound)
    yield from _free(node.body, bound)


def _free(body: list[ast.Stmt], bound: set[str]) -> Iterator[str]:
    """As :func:`free_names`, of statements, which add to ``bound`` what they bind or may bind."""
    for s in body:
        blocks, heads = _parts(s)
        if blocks:
            yield from (n for n in names_in(heads) if n not in bound)
            if isinstance(s, (ast.RepeatStmt, ast.FoldStmt)):
                bound.add(s.variable)
            for block in blocks:
                yield from _free(block, bound)
        else:
            yield from (n for n in names_in(s) if n not in bound)
            if isinstance(s, ast.Assign):
                bound.update(s.targets)
            elif isinstance(s, (ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.LetStmt)):
                bound.add(s.name)


def _parts(s: ast.Stmt) -> tuple[list[list[ast.Stmt]], list[ast.Expr]]:
    """The blocks of a statement, and the expressions before them."""
    if isinstance(s, ast.IfStmt):
        return [*(body for _, body in s.branches), s.orelse or []], [condition for condition, _ in s.branches]
    if isinstance(s, ast.CondStmt):
        return [s.body, s.orelse or []], [s.condition]
    if isinstance(s, ast.RepeatStmt):
        return [s.body], [s.iterable]
    if isinstance(s, ast.FoldStmt):
        return [s.body], [s.count]
    return ([s.body], [s.condition, s.limit]) if isinstance(s, ast.WhileStmt) else ([], [])


_PLACES = frozenset({"span", "name_span", "target_spans"})
# Where nodes of a class hold others, the last ones first.
_SLOTS: dict[type[ast.Node], list[str]] = {}


def names_in(node: Any) -> Iterator[str]:
    """Every identifier in a syntax tree: names, and the names of types."""
    left = [node]
    while left:
        at = left.pop()
        if isinstance(at, (list, tuple)):
            left.extend(reversed(at))
        elif isinstance(at, ast.Node):
            if isinstance(at, ast.Name):
                yield at.id
            elif isinstance(at, ast.TypeExpr):
                yield at.name
            kind = type(at)
            if kind not in _SLOTS:
                _SLOTS[kind] = [slot for slot in kind.__dataclass_fields__ if slot not in _PLACES][::-1]
            left.extend([getattr(at, slot) for slot in _SLOTS[kind]])
