"""Hashable stand-ins for attributes and calls: equal keys mean interchangeable nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .op import FuncRef

if TYPE_CHECKING:
    from .graph import Node
    from .op import Attrs


def attr_key(value: Any) -> Any:
    """A key that tells apart what ``==`` does not: ``0.0`` and ``-0.0``, ``1`` and ``True``, ``1`` and ``1.0``.

    One NaN is another. A region (a graph) is itself.
    """
    if isinstance(value, tuple):
        return tuple(map(attr_key, value))
    if isinstance(value, FuncRef):
        return (value.module, value.name, attr_key(value.given))
    if isinstance(value, (float, bool)):
        return (type(value).__name__, repr(value))
    return value


def attrs_key(attrs: Attrs) -> tuple[tuple[str, Any], ...]:
    """The key of a node's attributes."""
    return tuple((name, attr_key(attrs[name])) for name in sorted(attrs))


def instance_key(node: Node) -> tuple[Any, ...]:
    """What the body of a composite depends on: its op, the types of its operands (None where none is passed), its attributes.

    Every cache of bodies, or of what was found out about them, goes by this key.
    """
    return (node.op, tuple(None if v is None else v.type for v in node.inputs), attrs_key(node.attrs))
