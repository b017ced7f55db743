"""Composites and rewrite rules by name. The frontend fills this in; passes ask here, and need not know any frontend."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .graph import Module
    from .op import Composite
    from .pattern import Rule

# The shipped modules whose rules recover composites, in the order in which they join in; known by their names alone.
RAISING = tuple(f"std.recover.{n}" for n in ("decomposed", "primitives", "variants", "scores", "masks", "attention"))

_resolver: Callable[[str, str], Composite] | None = None
_names: Callable[[str], bool] | None = None
_local_resolver: Callable[[str, str, Module | None], Composite] | None = None
_ops_resolver: Callable[[str], list[Composite]] | None = None
_rule_resolver: Callable[[str, Module], Rule] | None = None
_rules_resolver: Callable[[str], dict[str, Rule]] | None = None


def set_resolver(resolver: Callable[[str, str], Composite]) -> None:
    """Called once by the package: ``resolver("std.token.bipartite_merge", "op")`` returns the composite of an ``op`` or ``fn``."""
    global _resolver
    _resolver = resolver


def set_names(may: Callable[[str], bool]) -> None:
    """Called once by the package: whether a text may be what a size or an input is called in source, where every word of the
    language and everything built in means what it does."""
    global _names
    _names = may


def readable(name: str) -> bool:
    """Whether source in which a pass calls a size or an input so can be read again."""
    if _names is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _names(name)


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


def set_op_resolvers(
    local: Callable[[str, str, Module | None], Composite], of_module: Callable[[str], list[Composite]]
) -> None:
    """Called once by the package: ``local("mine.tess", "score", module)`` is an op of a user's file, ``of_module("std.token")``
    are all of a shipped module and of those below it."""
    global _local_resolver, _ops_resolver
    _local_resolver, _ops_resolver = local, of_module


def local_composite(path: str, name: str, module: Module | None) -> Composite:
    """The op of a user's file, looked for beside the module's and in the working directory; the module declares it from now on.

    Raises:
        Diagnostic: E0001 when there is no such file, E0201 when it declares no such op.
    """
    if _local_resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _local_resolver(path, name, module)


def written(name: str, module: Module | None) -> Composite | None:
    """The op that `mine.tess:name` or a qualified name means; None for a bare name, which each pass looks up among its own.

    Raises:
        Diagnostic: E0001 no such file, E0201 no such op.
    """
    path, colon, own = name.rpartition(":")
    if colon:
        return local_composite(path, own, module)
    return composite(name) if "." in name else None


def ops_of(qualified: str) -> list[Composite]:
    """The ops that a shipped module declares, and those below it (``std.token.merge``). Raises Diagnostic E0202 without it."""
    if _ops_resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _ops_resolver(qualified)


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
