"""What must hold for the sizes of a call, beyond what could be proved when the program was compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .dims.dim import Dim, as_dim, const, prove_ge
from .graph import Graph, Node, Require, Value
from .op import Trait, has
from .ops.shape import slice_bounds


def requirements(graph: Graph) -> list[Require]:
    """What must hold for the sizes of a call: what the program states, and what its selections and shapes need.

    Only what could not be proved is in the list.
    """
    found = dict.fromkeys(graph.requires)
    for node in graph.nodes():
        for left, right, message in _needs(node):
            if not prove_ge(left, right, graph.facts):
                found.setdefault(Require(left, ">=", right, message, node.span))
    return list(found)


def _needs(node: Node) -> Iterator[tuple[Dim, Dim, str]]:
    for value in node.outputs:
        for dim in value.type.shape:
            if dim.value is None:
                yield dim, const(0), f"`{node.op.name}` would make an axis of a negative size"
    if node.op.qualified == "topk":
        first = node.inputs[0]
        assert first is not None
        yield first.type.shape[node.attrs["axis"]], as_dim(node.attrs["k"]), "`topk` cannot select more elements than there are"
    if has(node, Trait.NONEMPTY):
        first = node.inputs[0]
        assert first is not None
        axes = node.attrs["axis"]
        for axis in axes if isinstance(axes, tuple) else (axes,):
            yield first.type.shape[axis], const(1), f"`{node.op.name}` needs at least one element"
    if has(node, Trait.INDEXES):
        first, index = node.inputs[:2]
        assert first is not None
        size = first.type.shape[node.attrs["axis" if "axis" in node.attrs else "batch"]]
        for place in _extremes(index):
            message = f"the index {place} of `{node.op.name}` is outside its axis"
            yield (size, const(place + 1), message) if place >= 0 else (const(place), const(0), message)
    if node.op.qualified == "slice":
        first = node.inputs[0]
        assert first is not None
        size = first.type.shape[node.attrs["axis"]]
        start, stop = slice_bounds(node.attrs, size)
        message = f"the slice {start}:{stop} reaches outside its axis"
        yield start, const(0), message
        yield stop, start, message
        yield size, stop, message


def _extremes(index: Value | None) -> tuple[int, ...]:
    """The least and the greatest element of indices that the program states; none of others."""
    made = index.node if index is not None else None
    if made is None or made.op is None or made.op.qualified != "constant":
        return ()
    elements = list(_flat(made.attrs["value"]))
    return (min(elements), max(elements)) if elements else ()


def _flat(value: Any) -> Iterator[int]:
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield int(value)
