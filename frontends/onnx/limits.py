"""Sizes that no tensor has: integers of more than 63 bits, and expressions that nobody could read."""

from __future__ import annotations

from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.dims import Dim
from ...ir.graph import Graph

_LARGEST = 1 << 62
_HEAVIEST = 400


def check_numbers(graph: Graph) -> None:
    """Raises E0762 for an axis or an attribute beyond these limits, bodies of loops included."""
    sound: set[Dim] = set()
    for node in graph.nodes():
        for value in node.outputs:
            for dim in value.type.shape:
                if dim not in sound:
                    _check(dim, node.op.name)
                    sound.add(dim)
        for attribute in node.attrs.values():
            if isinstance(attribute, Graph):
                check_numbers(attribute)
            elif not isinstance(attribute, (str, bool, float)):
                _check(attribute, node.op.name)


def _check(value: Any, op: str) -> None:
    if isinstance(value, Dim):
        too_large = value.weight > _HEAVIEST or any(abs(c) > _LARGEST for _, c in value.terms)
    else:
        too_large = isinstance(value, int) and abs(value) > _LARGEST
    if too_large:
        raise Diagnostic("E0762", f"an operand of `{op}` has a size that no tensor has")
    if isinstance(value, tuple):
        for item in value:
            _check(item, op)
