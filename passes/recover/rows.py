"""A batch taken apart into its rows and put together again, as `torch.cat(list(x))` is exported: one rearrange."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value


def rejoin_rows(graph: Graph) -> int:
    """Rewrite what joins all rows of a batch in their order; how many there were.

    before: `y = concat(squeeze(x[0:1], axis=[0]), squeeze(x[1:2], axis=[0]), axis=0)`    x [2, T, D]
    after:  `y = rearrange(x, "b t d -> (b t) d")`
    """
    count = 0
    for node in list(graph.nodes()):
        whole = _whole(node)
        if whole is not None:
            first, *others = tuple("tdefgh")[: whole.type.rank - 1]
            rest = " ".join(others)
            pattern = f"b {first} {rest} -> (b {first}) {rest}"
            node.output.replace_uses(Builder(graph).before(node).op("rearrange", whole, pattern=pattern, axes=()))
            count += 1
    return count


def _whole(node: Node) -> Value | None:
    """The batch whose rows a node joins."""
    if node.op.qualified != "concat" or node.attrs["axis"] != 0:
        return None
    rows = [_row(v) for v in node.inputs if v is not None]
    whole = rows[0][0] if rows[0] is not None else None
    if whole is None or whole.type.rank > 7 or whole.type.shape[0].value != len(rows):
        return None
    return whole if rows == [(whole, i) for i in range(len(rows))] else None


def _row(value: Value) -> tuple[Value, int] | None:
    """`squeeze(x[i:i + 1], axis=[0])` as x and i."""
    squeeze = value.node
    if squeeze is None or squeeze.op is None or squeeze.op.qualified != "squeeze" or squeeze.attrs["axis"] != (0,):
        return None
    taken = squeeze.inputs[0]
    cut = taken.node if taken is not None else None
    if cut is None or cut.op is None or cut.op.qualified != "slice" or cut.attrs["axis"] != 0:
        return None
    start, x = cut.attrs["start"], cut.inputs[0]
    if not isinstance(start, int) or start < 0 or x is None or x.type.rank < 2 or cut.output.type.shape[0].value != 1:
        return None
    return x, start
