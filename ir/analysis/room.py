"""How full a cache may be before rows are put into it, and how many of these may count."""

from __future__ import annotations

from collections.abc import Iterator

from ..dims.dim import Dim
from ..graph import Graph, Value
from ..op import Composite
from .bounds import inner_of

# Which operands are the slots, the length behind which is written, the rows, and how many of these count.
_WRITES = {
    "std.cache.append": (0, 2, 3, 5), "std.cache.narrow.half_append": (0, 2, 3, 5), "std.cache.narrow.narrow_append": (0, 4, 5, 7),
    "std.cache.write_rows": (0, 1, 2, None),
}  # fmt: skip


def count_limits(graph: Graph) -> dict[str, list[Dim]]:
    """For each integer input that counts rows of a cache, what it may be at most: the slots that S new rows leave where it is the
    length of a state behind which they are written as it is, and S where it says how many of them count."""
    given = [v for v in graph.inputs if v.type.dtype.kind == "int"]
    found = {v.name: list(dict.fromkeys(_most(v, v.role == "state"))) for v in given}
    return {name: most for name, most in found.items() if most}


def _most(value: Value, held: bool) -> Iterator[Dim]:
    for node, position in value.uses:
        op = node.op
        if not isinstance(op, Composite):
            continue
        if op.qualified in _WRITES:
            first, length, second, count = _WRITES[op.qualified]
            slots, rows = node.inputs[first], node.inputs[second]
            assert slots is not None
            assert rows is not None
            if held and position == length:
                yield slots.type.shape[2] - rows.type.shape[2]
            elif position == count:
                yield rows.type.shape[2]
        else:
            body, inner = inner_of(node, position)
            yield from (body.expand_lets(most) for most in _most(inner, held))
