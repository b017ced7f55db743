"""Attention whose weights are read by others too: the product with the values gets a softmax of its own, which rules may take."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.op import Trait, has

PRODUCTS = frozenset({"matmul", "einsum", "std.recover.scores.scores"})
_SOFTMAX = "std.nn.softmax"
# How many ops lie between the product with the values and that of queries and keys.
_DEPTH = 12


def split_shared(graph: Graph) -> int:
    """Give each product with values that reads a softmax of scores, which somebody else reads too, both of its own.

    before: `p = softmax(scores)   y = p @ v   map = mean(p)`
    after:  `p = softmax(scores)   y = softmax(scores) @ v   map = mean(p)`

    Equal nodes become one again where no attention is found.
    """
    count = 0
    order = {node: i for i, node in enumerate(graph.nodes())}
    for product in list(order):
        first = product.inputs[0] if product.op.qualified in ("matmul", "einsum") else None
        chain: set[Node] = set()
        if first is None or not _chain(first, chain, _DEPTH) or not any(n.op.qualified == _SOFTMAX for n in chain):
            continue
        inside = {*chain, product}
        if all(user in inside for node in chain for user in _readers(graph, node)):
            continue
        builder, copies = Builder(graph).before(product), dict[Value, Value]()
        for node in sorted(chain, key=order.__getitem__):
            builder.span, builder.scope = node.span, node.scope
            made = builder.multi(
                node.op, *(copies.get(v, v) if v is not None else None for v in node.inputs), **node.attrs
            )
            copies.update(zip(node.outputs, made, strict=True))
        for i, value in enumerate(product.inputs):
            if value in copies:
                product.set_input(i, copies[value])
        # What is looked at next may share what was copied.
        order = {node: i for i, node in enumerate(graph.nodes())}
        count += 1
    return count


def _readers(graph: Graph, node: Node) -> list[Node]:
    """Who reads a node's results. A tap shows them as they are."""
    uses = (use for value in node.outputs for use in value.uses)
    return [user for user, i in uses if user is not graph.end or graph.output_info[i].role != "tap"]


def _chain(value: Value, found: set[Node], depth: int) -> bool:
    """Add the nodes between a product of queries and keys and ``value``, that product with them; whether there is one."""
    node = value.node
    if node is None or node.op is None or not depth:
        return False
    if node.op.qualified in PRODUCTS:
        found.add(node)
        return True
    between = node.op.family == "elementwise" or node.op.qualified == _SOFTMAX or has(node, Trait.MOVES)
    led = [_chain(v, found, depth - 1) for v in node.inputs if v is not None] if between else []
    if not any(led):
        return False
    found.add(node)
    return True
