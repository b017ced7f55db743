"""Composites and rewrite rules by name. The frontend fills this in; passes ask here, and need not know any frontend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .op import Composite

if TYPE_CHECKING:
    from .graph import Module
    from .pattern import Rule

_resolver: Callable[[str], Composite] | None = None
_rule_resolver: Callable[[str, Module], Rule] | None = None


def set_resolver(resolver: Callable[[str], Composite]) -> None:
    """Called once by the package: ``resolver("std.token.bipartite_merge")`` returns the composite."""
    global _resolver
    _resolver = resolver


def composite(qualified: str) -> Composite:
    """The composite of that qualified name. Raises Diagnostic E0201 when there is none."""
    if _resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _resolver(qualified)


def set_rule_resolver(resolver: Callable[[str, Module], Rule]) -> None:
    """Called once by the package: ``resolver(name, module)`` is a ``rewrite`` of the module's file, or a shipped one."""
    global _rule_resolver
    _rule_resolver = resolver


def rule(name: str, module: Module) -> Rule:
    """The rewrite rule that ``name`` means in ``module``. Raises Diagnostic E0711 when there is none."""
    if _rule_resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _rule_resolver(name, module)
