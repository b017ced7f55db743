"""Sizes at which a part of a graph is evaluated, and values that it is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.graph import Graph, Value
from ...ir.op import Trait, has

# What free dimensions are tried at: the first at which all that the graph requires holds.
_TRIED = (4, 3, 8, 12, 16)
# Beyond this many rows nothing is drawn.
_LARGEST = 1 << 16


@dataclass(frozen=True)
class Drawn:
    """Numbers for the dimensions of a graph."""

    sizes: dict[str, int]

    @staticmethod
    def of(graph: Graph) -> Drawn | None:
        """The first sizes at which all that the graph requires holds."""
        for size in _TRIED:
            sizes = graph.sizes(dict.fromkeys(graph.symbols(), size))
            if all(require.holds(sizes) for require in graph.requires):
                return Drawn(sizes)
        return None

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape of a value. Raises ValueError for one of too many rows."""
        shape = tuple(d.evaluate(self.sizes) for d in value.type.shape)
        if shape and shape[0] > _LARGEST:
            raise ValueError("too many rows")
        return shape


def nearest(value: Value | None, wanted: Callable[[Value], bool], depth: int, *, moves: bool = False) -> Value | None:
    """The first of a value and what it was made of, nearest first, that is wanted; with ``moves`` through what moves elements."""
    ring = [value] if value is not None else []
    seen = set(ring)
    for _ in range(depth):
        for found in ring:
            if wanted(found):
                return found
        behind: list[Value] = []
        for near in ring:
            node = near.node
            if node is None or (moves and not (has(node, Trait.MOVES) or node.op.qualified in ("take", "cast"))):
                continue
            behind += (
                [v for v in node.inputs[:1] if v is not None] if moves else [v for v in node.inputs if v is not None]
            )
        ring = [v for v in dict.fromkeys(behind) if v not in seen]
        seen.update(ring)
    return None
