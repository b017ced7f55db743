"""Names while importing: scopes within scopes, and the nodes still to be imported in one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.diagnostics import Diagnostic
from .values import Region, Tensor, short


@dataclass(slots=True)
class Scope:
    """Names and what they stand for, inside those of ``parent``. ``bound``: the attributes that a function was given."""

    region: Region
    parent: Scope | None = None
    names: dict[str, Tensor] = field(default_factory=dict)
    bound: dict[str, Any] | None = None

    def find(self, name: str) -> Tensor | None:
        scope: Scope | None = self
        while scope is not None:
            found = scope.names.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def attributes(self, node: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for attribute in node.attribute:
            given = self.resolve(attribute)
            if given is not None:
                found[attribute.name] = python_value(given)
        return found

    def resolve(self, attribute: Any) -> Any:
        """The attribute, or that of the function's call which it stands for; None when the call has none."""
        if not attribute.ref_attr_name:
            return attribute
        scope: Scope | None = self
        while scope is not None and scope.bound is None:
            scope = scope.parent
        return scope.bound.get(attribute.ref_attr_name) if scope is not None and scope.bound is not None else None


def python_value(attribute: Any) -> Any:
    """An attribute message as numbers, text, lists of them, or the message within. Raises E0757 for other kinds."""
    kind = attribute.type
    if kind == 1:
        return short(np.float32(attribute.f))
    if kind in (2, 4, 5):
        return getattr(attribute, {2: "i", 4: "t", 5: "g"}[kind])
    if kind == 3:
        return attribute.s.decode("utf-8", "replace")
    if kind in (6, 7):
        return [short(np.float32(x)) for x in attribute.floats] if kind == 6 else list(attribute.ints)
    if kind == 8:
        return [s.decode("utf-8", "replace") for s in attribute.strings]
    raise Diagnostic("E0757", f"the attribute `{attribute.name[:100]}` is of a kind that is not imported (number {kind})")


@dataclass(slots=True)
class Frame:
    """Nodes still to be imported, and what to do afterwards."""

    scope: Scope
    nodes: Iterator[Any]
    finish: Callable[[], None]
