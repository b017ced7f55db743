"""Composites replaced by their bodies, and bodies put in the place of nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .dims.dim import Dim, sym
from .graph import Graph, Node, Require, Value, clone_node
from .keys import instance_key
from .op import Composite
from .types import TensorType


def inline_composites(graph: Graph, wants: Callable[[Node], bool]) -> int:
    """Inline every composite that ``wants`` names, in bodies too; returns how many call sites of ``graph`` changed."""
    bodies: dict[Any, Graph] = {}
    count = 0
    for node in graph.nodes():
        for region in node.bodies:
            count += inline_composites(region, wants)
        if isinstance(node.op, Composite) and wants(node):
            key = instance_key(node)
            body = bodies.get(key)
            if body is None:
                body = bodies[key] = instantiate(node)
                inline_composites(body, wants)
            splice(node, body)
            count += 1
    return count


def instantiate(node: Node, types: Sequence[TensorType | None] | None = None) -> Graph:
    """The body of a composite node, for its operand types (or others) and attributes; a graph of its own."""
    assert isinstance(node.op, Composite)
    if types is None:
        types = [None if v is None else v.type for v in node.inputs]
    # A frontend may hand out the same instance again; ours is about to be changed.
    return node.op.instantiate(types, dict(node.attrs)).clone()


def splice(node: Node, body: Graph) -> dict[Value, Value]:
    """Put a copy of ``body`` in the place of ``node``; returns value of the body -> value in the graph.

    The new nodes keep the place of the user's call.
    """
    graph = node.graph
    assert graph is not None
    given = [v for v in node.inputs if v is not None]
    copies: dict[Value, Value] = dict(zip(body.inputs, given, strict=True))
    renamed = _adopt_lets(graph, body)
    for inner in body.nodes():
        copy = clone_node(inner, copies)
        copy.span = node.span or inner.span
        copy.scope = node.scope
        if renamed:
            _rename_node(copy, renamed)
        graph.insert_before(node, copy)
    for old, new in zip(node.outputs, body.outputs, strict=True):
        if not copies[new].name:
            copies[new].name = old.name
        old.replace_uses(copies[new])
    if body.requires:
        wanted = [
            Require(r.left.subs(renamed), r.op, r.right.subs(renamed), r.message, node.span or r.span)
            for r in body.requires
        ]
        graph.requires = list(dict.fromkeys([*graph.requires, *wanted]))
    graph.remove(node)
    return copies


def _adopt_lets(graph: Graph, body: Graph) -> dict[str, Dim]:
    """Bring the body's ``let`` names into the graph under names that are free there."""
    renamed: dict[str, Dim] = {}
    taken = {*graph.lets, *graph.symbols()} if body.lets else set()
    for name, dim in body.lets.items():
        value = dim.subs(renamed)
        unique = name
        n = 0
        while unique in taken and graph.lets.get(unique) is not value:
            n += 1
            unique = f"{name}{n}"
        taken.add(unique)
        graph.lets[unique] = value
        if name in body.facts:
            graph.facts[unique] = body.facts[name]
        if unique != name:
            renamed[name] = sym(unique)
    return renamed


def _rename_node(node: Node, renamed: dict[str, Dim]) -> None:
    node.attrs = {name: _rename(value, renamed) for name, value in node.attrs.items()}
    for value in node.outputs:
        value.type = _rename_type(value.type, renamed)
    for region in node.bodies:
        for value in region.inputs:
            value.type = _rename_type(value.type, renamed)
        for inner in region.nodes():
            _rename_node(inner, renamed)


def _rename_type(type: TensorType, renamed: dict[str, Dim]) -> TensorType:
    return TensorType(type.dtype, tuple(d.subs(renamed) for d in type.shape))


def _rename(value: Any, renamed: dict[str, Dim]) -> Any:
    if isinstance(value, Dim):
        return value.subs(renamed)
    if isinstance(value, tuple):
        return tuple(_rename(v, renamed) for v in value)
    return value
