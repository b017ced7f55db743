"""A map for each stream: a program may have written one for the tokens of several towers that are as many."""

from __future__ import annotations

from ...ir.analysis.axes import Axes, Axis
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from .stream import fields_of, makes_map, map_leaves, reductions


def give_own_maps(graph: Graph) -> None:
    """Let reductions of tokens that are not the same take maps that are not the same, made as the one that they share."""
    takers: dict[Node, list[Node]] = {}
    for node in reductions(graph):
        maker = fields_of(node).source.node
        if maker is not None and makes_map(maker.op) and map_leaves(maker.op) is None:
            takers.setdefault(maker, []).append(node)
    for maker, nodes in takers.items():
        if len(nodes) > 1:
            _divide(graph, maker, nodes)


def _divide(graph: Graph, maker: Node, nodes: list[Node]) -> None:
    """A map of their own for the later ones of ``nodes``, as far as their tokens are others: that is seen while each has one."""
    made = {node: Builder(graph).before(node).multi(maker.op, *maker.inputs, **maker.attrs) for node in nodes[1:]}
    for node, fields in made.items():
        _take(node, fields)
    axes = Axes(graph)
    kept: dict[Axis, list[Value]] = {}
    for node in nodes:
        x = node.inputs[0]
        assert x is not None
        own = made.get(node, list(maker.outputs))
        first = kept.setdefault(axes.find(x, 1), own)
        if first is not own:
            _take(node, first)
            assert own[0].node is not None
            graph.remove(own[0].node)


def _take(node: Node, fields: list[Value]) -> None:
    first = map_leaves(node.op)
    assert first is not None
    for i, value in enumerate(fields):
        node.set_input(first + i, value)
