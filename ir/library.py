"""Composites and rewrite rules by name. The frontend fills this in; passes ask here, and need not know any frontend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .op import Composite

if TYPE_CHECKING:
    from .graph import Module
    from .pattern import Rule

# The shipped modules whose rules recover composites, in the order in which they join in; known by their names alone.
RAISING = tuple(f"std.recover.{n}" for n in ("decomposed", "primitives", "variants", "scores", "attention"))

_resolver: Callable[[str, str], Composite] | None = None
_rule_resolver: Callable[[str, Module], Rule] | None = None
_rules_resolver: Callable[[str], dict[str, Rule]] | None = None


def set_resolver(resolver: Callable[[str, str], Composite]) -> None:
    """Called once by the package: ``resolver("std.token.bipartite_merge", "op")`` returns the composite of an ``op`` or ``fn``."""
    global _resolver
    _resolver = resolver


def composite(qualified: str) -> Composite:
    """The composite of that qualified name. Raises Diagnostic E0201 when there is none."""
    if _resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _resolver(qualified, "op")


def function(qualified: str) -> Composite:
    """A shipped ``fn`` as if it were an ``op``, for its body to be inlined; its operands may broadcast. Raises Diagnostic E0201."""
    if _resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _resolver(qualified, "fn")


def set_rule_resolver(resolver: Callable[[str, Module], Rule], of_module: Callable[[str], dict[str, Rule]]) -> None:
    """Called once by the package: ``resolver(name, module)`` is a ``rewrite`` of the module's file, or a shipped one;
    ``of_module("std.recover.scores")`` are all of a shipped module by name."""
    global _rule_resolver, _rules_resolver
    _rule_resolver, _rules_resolver = resolver, of_module


def rule(name: str, module: Module) -> Rule:
    """The rewrite rule that ``name`` means in ``module``. Raises Diagnostic E0711 when there is none."""
    if _rule_resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _rule_resolver(name, module)


def rules_of(qualified: str) -> dict[str, Rule]:
    """The rewrite rules of a shipped module (``std.recover.scores``) by name. Raises Diagnostic E0202 when there is none."""
    if _rules_resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _rules_resolver(qualified)
