"""Masks that were made numbers before they were moved about: they are moved as conditions, and made numbers where they are read."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph
from ...ir.op import Trait, has
from ...ir.types import boolean


def cast_late(graph: Graph) -> int:
    """Put casts of truth values behind what moves them; how many moved.

    before: `m = cast(t >= s, f32)   n = m[:, :, :T]`
    after:  `n = cast((t >= s)[:, :, :T], f32)`
    """
    count = 0
    for node in list(graph.nodes()):
        # What fills places (`pad`) fills them with a number.
        if not has(node, Trait.MOVES) or len(node.inputs) != 1 or "value" in node.attrs:
            continue
        (value,) = node.inputs
        made = value.node if value is not None else None
        if made is None or made.op.qualified != "cast":
            continue
        source = made.inputs[0]
        if source is None or source.type.dtype != boolean:
            continue
        builder = Builder(graph).before(node)
        moved = builder.op(node.op, source, **node.attrs)
        new = builder.op("cast", moved, dtype=made.attrs["dtype"])
        new.name = node.output.name
        node.output.replace_uses(new)
        graph.remove(node)
        count += 1
    return count
