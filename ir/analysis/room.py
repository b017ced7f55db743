"""How full a cache may be before rows are put into it, and how many of these may count."""

from __future__ import annotations

from collections.abc import Iterator

from ..dims.dim import Dim
from ..graph import Graph, Value
from ..op import Composite
from .bounds import inner_of

_APPEND, _WRITE = "std.cache.append", "std.cache.write_rows"


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
        if op.qualified in (_APPEND, _WRITE):
            slots, rows = (node.inputs[i] for i in ((0, 3) if op.qualified == _APPEND else (0, 2)))
            assert slots is not None
            assert rows is not None
            if held and position == (2 if op.qualified == _APPEND else 1):
                yield slots.type.shape[2] - rows.type.shape[2]
            elif op.qualified == _APPEND and position == 5:
                yield rows.type.shape[2]
        else:
            body, inner = inner_of(node, position)
            yield from (body.expand_lets(most) for most in _most(inner, held))
