"""What a declaration mentions, and whether a function ends up calling itself. The language has no recursion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...ir.diagnostics import Diagnostic, Span
from . import ast
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
        shadowed = {p.name for p in [*node.params, *node.statics]}
        # A function that is passed as a parameter counts as called.
        for name in dict.fromkeys(names_in(node.body)):
            target = at.unit.names.get(name) if name not in shadowed else None
            if target is not None:
                visit(target)
        path.pop()
        acyclic.add(id(node))

    visit(declared)


def recursion(node: ast.Function, path: list[str], span: Span | None) -> Diagnostic:
    """E0503: a function that calls itself along ``path``."""
    return Diagnostic(
        "E0503", f"`{node.name}` calls itself: {' -> '.join(path)}", span,
        help="the language has no recursion; `repeat` and `fold` are its loops",
    )  # fmt: skip


def names_in(node: Any) -> Iterator[str]:
    """Every identifier in a syntax tree: names, and the names of types."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.TypeExpr):
        yield node.name
    if isinstance(node, ast.Node):
        for slot in type(node).__dataclass_fields__:
            if slot not in ("span", "name_span", "target_spans"):
                yield from names_in(getattr(node, slot))
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from names_in(item)
