"""What must hold for the sizes of a call, beyond what could be proved when the program was compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .dims.dim import Dim, as_dim, const, divisors, prove_ge
from .graph import Graph, Node, Require, Value
from .op import Trait, has
from .ops.shape import slice_bounds


def requirements(graph: Graph) -> list[Require]:
    """What must hold for the sizes of a call: what the program states, and what its selections and shapes need.

    Only what could not be proved is in the list.
    """
    seen: set[Dim] = set()
    found: dict[Require, None] = {}
    for left, right, message in _divisions(set(graph.lets.values()), seen):
        if not prove_ge(left, right, graph.facts):
            found.setdefault(Require(left, ">=", right, message))
    for name, dim in graph.lets.items():
        least = const(graph.facts.get(name, (1, None))[0])
        if not prove_ge(dim, least, graph.facts):
            found.setdefault(Require(dim, ">=", least, f"`let {name}` names a size, which cannot be negative"))
    for stated in graph.requires:
        found |= dict.fromkeys((*_stated(stated, seen, graph), stated))
    for node in graph.nodes():
        for left, right, message in (*_divisions(_sizes(node), seen), *_needs(node)):
            if not prove_ge(left, right, graph.facts):
                found.setdefault(Require(left, ">=", right, message, node.span))
    return list(found)


def _sizes(node: Node) -> set[Dim]:
    """Every size that a node has or is told."""
    sizes = {d for value in node.outputs for d in value.type.shape}
    return sizes | {v for v in node.attrs.values() if isinstance(v, Dim)}


def _stated(need: Require, seen: set[Dim], graph: Graph) -> Iterator[Require]:
    """What the two sides of a requirement divide by: asked first."""
    for left, right, message in _divisions({need.left, need.right}, seen):
        if not prove_ge(left, right, graph.facts):
            yield Require(left, ">=", right, message, need.span)


def _divisions(sizes: set[Dim], seen: set[Dim]) -> Iterator[tuple[Dim, Dim, str]]:
    """What sizes divide by, unless they are among those ``seen``: a quotient of sizes has a positive divisor."""
    for size in sizes - seen:
        for divisor in divisors(size):
            yield divisor, const(1), f"`{size}` divides by `{divisor}`, which must be positive"
    seen |= sizes


def _needs(node: Node) -> Iterator[tuple[Dim, Dim, str]]:
    for value in node.outputs:
        for dim in value.type.shape:
            if dim.value is None:
                yield dim, const(0), f"`{node.op.name}` would make an axis of a negative size"
    if node.op.qualified == "topk":
        first = node.inputs[0]
        assert first is not None
        yield first.type.shape[node.attrs["axis"]], as_dim(node.attrs["k"]), "`topk` cannot select more elements than there are"
    if node.op.qualified == "pad":
        for side in ("before", "after"):
            yield as_dim(node.attrs[side]), const(0), f"`pad` cannot take elements away: `{side}` is negative"
    if node.op.qualified in ("fold", "while"):
        steps = as_dim(node.attrs["n" if "n" in node.attrs else "limit"])
        yield steps, const(0), f"`{node.op.name}` cannot take fewer than 0 steps"
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
