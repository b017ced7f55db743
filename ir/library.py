"""Composites by name. The source frontend fills this in; passes ask here, so that they need not know any frontend."""

from __future__ import annotations

from collections.abc import Callable

from .op import Composite

_resolver: Callable[[str], Composite] | None = None


def set_resolver(resolver: Callable[[str], Composite]) -> None:
    """Called once by the package: ``resolver("std.token.bipartite_merge")`` returns the composite."""
    global _resolver
    _resolver = resolver


def composite(qualified: str) -> Composite:
    """The composite of that qualified name. Raises Diagnostic E0201 when there is none."""
    if _resolver is None:
        raise RuntimeError("no frontend is loaded: import tessera first")
    return _resolver(qualified)
