"""What there is to say of a statement that is wrong: the names that it binds and mentions, and whether it returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from ..syntax import ast

_STATEMENTS = get_args(ast.Stmt)
# Where names are those of initialisers as well.
_DECLARING = (ast.ParamStmt, ast.StateStmt, ast.RandomStmt)


def rebound(s: ast.Stmt) -> Iterator[str]:
    """The names that may mean something else behind a statement."""
    if isinstance(s, ast.Assign):
        yield from s.targets
    elif isinstance(s, (ast.ParamStmt, ast.StateStmt, ast.RandomStmt, ast.LetStmt)):
        yield s.name
    elif isinstance(s, ast.FoldStmt):
        yield from (*s.carried, *s.stacked)
    elif isinstance(s, (ast.CondStmt, ast.WhileStmt)):
        yield from s.carried
    elif isinstance(s, ast.RepeatStmt):
        yield s.variable
    for body in _bodies(s):
        for inner in body:
            yield from rebound(inner)


def returns(s: ast.Stmt) -> bool:
    """Whether a ``return`` stands in a statement."""
    return isinstance(s, ast.ReturnStmt) or any(returns(inner) for body in _bodies(s) for inner in body)


def mentioned(node: Any) -> Iterator[ast.Name]:
    """The names in expressions of a statement that the scope around it must explain: none that it binds itself."""
    own = set(bound(node))
    return (name for name in _names(node) if name.id not in own)


def _names(node: Any) -> Iterator[ast.Name]:
    if isinstance(node, ast.Name):
        yield node
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from _names(item)
    elif isinstance(node, ast.Node) and not isinstance(node, (ast.TypeExpr, *_DECLARING)):
        for slot in type(node).__dataclass_fields__:
            yield from _names(getattr(node, slot))


def bound(node: Any) -> Iterator[str]:
    """Every name that is bound anywhere in a statement."""
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from bound(item)
        return
    if isinstance(node, _STATEMENTS):
        yield from rebound(node)
    if isinstance(node, ast.FoldStmt):
        yield node.variable
    if isinstance(node, ast.Node):
        for slot in ("body", "orelse", "branches"):
            yield from bound(getattr(node, slot, None))


def _bodies(s: ast.Stmt) -> list[list[ast.Stmt]]:
    """The bodies that run in the scope around a statement."""
    if isinstance(s, ast.RepeatStmt):
        return [s.body]
    return [*(body for _, body in s.branches), s.orelse or []] if isinstance(s, ast.IfStmt) else []
