"""Sizes that no tensor has: integers of more than 63 bits, and expressions that nobody could read."""

from __future__ import annotations

from math import prod
from typing import Any

from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.dims.ratio import Ratio
from ...ir.graph import Graph

_LARGEST = 1 << 62
_HEAVIEST = 400
# A product of sizes of more factors, or one that would have more terms, is no size either.
_HIGHEST = 64
_MOST_TERMS = 20_000


def bounded(item: Any) -> Any:
    """A size, or a quotient of sizes, as it is. Raises E0762 for one that nobody could read: before the next is made of it."""
    for dim in (item.top, item.bottom) if isinstance(item, Ratio) else (item,):
        if isinstance(dim, Dim) and (
            dim.weight > _HEAVIEST or any(sum(power for _, power in monomial) > _HIGHEST for monomial, _ in dim.terms)
        ):
            raise Diagnostic("E0762", "a size is computed from others by an expression that nobody could read")
    return item


def times(a: Any, b: Any) -> Any:
    """``a * b`` of sizes or numbers. Raises E0762 where that has too many terms to be computed."""
    terms = [
        len(dim.terms) for x in (a, b) for dim in ((x.top, x.bottom) if isinstance(x, Ratio) else (x,)) if isinstance(dim, Dim)
    ]
    if prod(terms) > _MOST_TERMS:
        raise Diagnostic("E0762", "a size is a product of others with too many terms")
    return a * b


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
