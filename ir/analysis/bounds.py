"""Which values of an input mean something: indices stay within the table that they index, borders of groups ascend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dims.dim import Dim, as_dim
from ..graph import Graph, Input, Node, Value
from ..op import Composite, Trait, has, kept
from ..types import DType

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Bound:
    """Integers from 0 to ``limit - 1``; or ``ascending``: from 0 to ``limit``, none smaller than the one before it.

    ``limit`` is None where it is not known (values that a search compares may be anything).
    """

    limit: Dim | int | None
    ascending: bool = False

    def draw(self, shape: list[int], dtype: DType, sizes: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
        """Random contents of an input of integers, or of anything that ascends."""
        import numpy as np

        if dtype.kind == "float":
            return np.sort(rng.standard_normal(shape), axis=-1).astype(dtype.numpy)
        limit = self.limit.evaluate(dict(sizes)) if isinstance(self.limit, Dim) else self.limit
        if not self.ascending:
            high = min(limit or 1, int(np.iinfo(dtype.numpy).max))
            return rng.integers(0, max(1, high), shape).astype(dtype.numpy)
        drawn = rng.integers(0, (shape[-1] if limit is None else limit) + 1, shape)
        return np.sort(drawn, axis=-1).astype(dtype.numpy)


def index_bounds(graph: Graph) -> dict[Input, Bound | None]:
    """For each integer input, and each that must ascend, what its values may be: the length of the shortest table that it
    indexes; None when it indexes none."""
    bounds: dict[Input, Bound | None] = {}
    for value in graph.inputs:
        found = list(_bounds(value, set()))
        ascending = [b for b in found if b.ascending]
        if value.type.dtype.kind == "int":
            bounds[value] = _least(ascending or found)
        elif ascending:
            bounds[value] = ascending[0]
    return bounds


def index_limits(graph: Graph) -> dict[str, list[Dim]]:
    """For each integer input the lengths of the tables in which its elements are places as they are: moved about at most, with
    nothing that would keep them within."""
    given = [v for v in graph.inputs if v.role == "input" and v.type.dtype.kind == "int"]
    found = {v.name: list(dict.fromkeys(_lengths(v, set()))) for v in given}
    return {name: limits for name, limits in found.items() if limits}


def _lengths(value: Value, seen: set[Value]) -> Iterator[Dim]:
    if value in seen:
        return
    seen.add(value)
    for node, position in value.uses:
        if node.op is None:
            continue
        if isinstance(node.op, Composite):
            body, inner = inner_of(node, position)
            yield from (body.expand_lets(limit) for limit in _lengths(inner, set()))
        elif position == 1 and (has(node, Trait.INDEXES) or node.op.family == "segment"):
            yield from (as_dim(bound.limit) for bound in _bound(node, position) if bound.limit is not None)
        elif position in kept(node) and (has(node, Trait.MOVES) or node.op.name == "cast"):
            yield from _lengths(node.outputs[0], seen)


def inner_of(node: Node, position: int) -> tuple[Graph, Value]:
    """The body of a composite, and what an operand is called in it."""
    assert isinstance(node.op, Composite)
    types = [None if v is None else v.type for v in node.inputs]
    body = node.op.instantiate(types, dict(node.attrs))
    return body, body.inputs[sum(t is not None for t in types[:position])]


def _least(bounds: list[Bound]) -> Bound | None:
    known = {b.limit.value: b for b in bounds if isinstance(b.limit, Dim) and b.limit.value is not None}
    if known:
        return known[min(known)]
    return next((b for b in bounds if b.limit is not None), bounds[0] if bounds else None)


def _bounds(value: Value, seen: set[Value]) -> Iterator[Bound]:
    if value in seen:
        return
    seen.add(value)
    for node, position in value.uses:
        if node.op is None:
            continue
        yield from _bound(node, position)
        if isinstance(node.op, Composite):
            yield from _through_composite(node, position, seen)
        elif position in kept(node):
            yield from _bounds(node.outputs[0], seen)


def _bound(node: Node, position: int) -> Iterator[Bound]:
    name, target = node.op.qualified, node.inputs[0]
    if target is None:
        return
    if name == "searchsorted" and position == 0:
        made = node.inputs[1].node if node.inputs[1] is not None else None
        counted = made is not None and made.op.qualified == "iota"
        yield Bound(as_dim(made.attrs["n"]) if made is not None and counted else None, ascending=True)
    elif name == "grouped_matmul" and position == 2:
        yield Bound(target.type.shape[0], ascending=True)
    elif has(node, Trait.INDEXES) and position == 1:
        yield Bound(target.type.shape[node.attrs["axis" if "axis" in node.attrs else "batch"]])
    elif node.op.family == "segment" and position == 1:
        yield Bound(as_dim(node.attrs["segments"]))


def _through_composite(node: Node, position: int, seen: set[Value]) -> Iterator[Bound]:
    body, inner = inner_of(node, position)
    # A table's length is in the caller's symbols unless the body names it itself.
    for bound in _bounds(inner, set()):
        yield Bound(body.expand_lets(bound.limit) if isinstance(bound.limit, Dim) else bound.limit, bound.ascending)
    reached = _reaches(inner)
    for output, value in zip(body.outputs, node.outputs, strict=True):
        if output in reached and value.type.dtype.kind == "int":
            yield from _bounds(value, seen)


def _reaches(value: Value) -> set[Value]:
    """The values that hold the input's elements, moved about."""
    reached, queue = {value}, [value]
    while queue:
        for node, position in queue.pop().uses:
            if node.op is not None and position in kept(node) and node.outputs[0] not in reached:
                reached.add(node.outputs[0])
                queue.append(node.outputs[0])
    return reached
