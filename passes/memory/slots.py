"""Reading a part of a cache: methods that choose slots, and attentions that read what was chosen."""

from __future__ import annotations

from typing import Any

from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.library import ops_of
from ...ir.op import Composite
from ...ir.signature import Pattern

STD = "std.token.slots"
_APPEND = "std.cache.append"
# What a method is given, in this order.
_OPERANDS = ["q", "keys", "length"]


def is_choice(op: Composite) -> bool:
    """Whether an op chooses slots of a cache: `op m(q, keys, length, *, k: int, …) -> i64[B, N]`."""
    results = op.signature.results
    first = results[0].type if len(results) == 1 else None
    numbers = isinstance(first, Pattern) and getattr(first.dtype, "kind", first.dtype) == "int" and len(first.shape) == 2
    return numbers and [o.name for o in op.signature.operands] == _OPERANDS and op.signature.static("k") is not None


def shipped() -> dict[str, Composite]:
    """The shipped methods that choose slots."""
    return {op.name: op for op in ops_of(STD) if is_choice(op)}


def cached(graph: Graph) -> list[Node]:
    """The attentions that read a cache behind which tokens were just put."""
    return [
        node
        for node in graph.nodes()
        if node.op.qualified == ATTENTION and not node.attrs["causal"] and _is_appended(node.inputs[1])
    ]


def appends(graph: Graph) -> bool:
    """Whether tokens are put into a cache, whoever reads it."""
    return any(node.op.qualified == _APPEND for node in graph.nodes())


def _is_appended(keys: Value | None) -> bool:
    return keys is not None and keys.node is not None and keys.node.op.qualified == _APPEND and keys.index == 0


def read_chosen(graph: Graph, node: Node, op: Composite, attrs: dict[str, Any]) -> None:
    """Let an attention of :func:`cached` read the slots that a method chooses. Raises what the method requires."""
    q, keys, values = node.inputs[:3]
    assert q is not None
    assert keys is not None
    assert keys.node is not None
    builder = Builder(graph).before(node)
    length = keys.node.outputs[2]
    index = builder.op(op, q, keys, length, **attrs)
    assert index.node is not None
    # What it requires of the budget is told now.
    op.instantiate([q.type, keys.type, length.type], index.node.attrs)
    batch, heads = keys.type.shape[:2]
    # One index a head: its keys lie side by side, so that nothing else of the cache is moved.
    each = builder.op("expand", builder.op("unsqueeze", index, axis=(1,)), shape=(batch, heads, index.type.shape[1]))
    for i, value in ((1, keys), (2, values)):
        node.set_input(i, builder.op("take", value, each, axis=2, batch=2))
    for i in (3, 4):
        value = node.inputs[i]
        if value is not None:
            shape = (batch, *value.type.shape[1:])
            whole = value if value.type.shape == shape else builder.op("expand", value, shape=shape)
            node.set_input(i, builder.op("take", whole, index, axis=3, batch=1))
    if node.inputs[3] is None:
        filled = builder.op("lt", index, builder.op("unsqueeze", length, axis=(1,)))
        node.set_input(3, builder.op("unsqueeze", filled, axis=(1, 2)))
