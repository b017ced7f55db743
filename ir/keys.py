"""Hashable stand-ins for attributes: equal keys mean interchangeable nodes."""

from __future__ import annotations

from typing import Any

from .graph import Graph
from .op import Attrs


def attr_key(value: Any) -> Any:
    """A key that tells apart what ``==`` does not: ``0.0`` and ``-0.0``, ``1`` and ``True``; a body is itself."""
    if isinstance(value, tuple):
        return tuple(map(attr_key, value))
    if isinstance(value, Graph):
        return ("graph", id(value))
    if isinstance(value, (float, bool)):
        return (type(value).__name__, repr(value))
    return value


def attrs_key(attrs: Attrs) -> tuple[tuple[str, Any], ...]:
    """The key of a node's attributes."""
    return tuple((name, attr_key(attrs[name])) for name in sorted(attrs))
