"""Axes that a `rearrange` splits and the next one joins again, as a map of tokens behind SAM's attention: never split."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Node
from .opened import moved
from .streams import Groups, rejoin, sides_of, sizes_of


def close_split(graph: Graph) -> int:
    """Leave axes joined that are split only to be joined again; how many joins there were.

    before: `y = rearrange(x, "b h (u v) k -> b u v h k", v=4)   z = rearrange(y, "b u v h k -> b (u v) (h k)")`
    after:  `z = rearrange(x, "b h t k -> b t (h k)")`
    """
    return sum(_close(node) for node in list(graph.nodes()) if node.op.qualified == "rearrange")


def _close(last: Node) -> bool:
    """One join, if what it joins is an axis that was split just before."""
    middle = last.inputs[0]
    first = None if middle is None else middle.node
    if middle is None or first is None or first.op is None or first.op.qualified != "rearrange":
        return False
    source = first.inputs[0]
    assert source is not None
    left, between = sides_of(first)
    taken, right = sides_of(last)
    sizes = sizes_of(first, source, left)
    pairs = list(zip(taken, between, strict=True))
    if sizes is None or any(len(names) > 1 or (own and not names) for names, own in pairs):
        return False
    inside = {names[0]: own for names, own in pairs if names}
    sides: list[Groups] = [left, [tuple(n for name in group for n in inside[name]) for group in right]]
    split = sum(map(len, left))
    rejoin(sides, sizes)
    if sum(map(len, sides[0])) == split:
        return False
    builder = Builder(last.graph).before(last)  # type: ignore[arg-type]
    builder.span, builder.scope = last.span, last.scope
    made = moved(source, sides[0], sides[1], sizes, builder)
    if made is not source:
        made.name = last.output.name
    last.output.replace_uses(made)
    return True
