"""What an op does along an axis: walks it element by element, sums over it, cuts it, or mixes it.

A pass that reorders or merges the elements of an axis (tokens) asks this of every op behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from ..graph import Graph, Node, Value
from ..keys import attrs_key
from ..op import Composite, Trait, has
from ..ops.contraction import parse_einsum
from ..types import TensorType
from .axes import Axes, rearranged


class Along(Enum):
    """How an op treats an axis."""

    EACH = "each element by itself"
    SUM = "a sum over the elements"
    EXTREME = "a largest or smallest element"
    CUT = "a part of the axis"
    MIXED = "elements depend on their neighbours or places"
    INSIDE = "the body of a composite has to be asked"


AxesOf = Callable[[Value], Sequence[int]]


def along(node: Node, axes_of: AxesOf, classes: Axes) -> Along:
    """What ``node`` does along the given axes of its operands; ``classes`` knows those of its results."""
    if isinstance(node.op, Composite):
        return Along.INSIDE
    name, family = node.op.qualified, node.op.family
    operands = [(v, set(axes_of(v))) for v in node.inputs if v is not None]
    if family in ("elementwise", "gradient"):
        return Along.EACH
    if family == "reduction":
        given = node.attrs["axis"]
        if not operands[0][1] & set(given if isinstance(given, tuple) else (given,)):
            return Along.EACH
        return Along.SUM if has(node, Trait.SUMS) else Along.EXTREME if has(node, Trait.IDEMPOTENT) else Along.MIXED
    if name == "einsum":
        terms, out = parse_einsum(node.attrs["equation"])
        names = {term[axis] for term, (_, axes) in zip(terms, operands, strict=True) for axis in axes}
        return Along.EACH if names <= set(out) else Along.SUM
    if name == "matmul":
        (a, left), (b, right) = operands
        return Along.SUM if a.type.rank - 1 in left or b.type.rank - 2 in right else Along.EACH
    if name == "slice":
        return Along.CUT if node.attrs["axis"] in operands[0][1] else Along.EACH
    return Along.MIXED if _mixes(node, operands, classes) else Along.EACH


def _mixes(node: Node, operands: list[tuple[Value, set[int]]], classes: Axes) -> bool:
    name = node.op.qualified
    first, axes = operands[0] if operands else (None, set())
    if has(node, Trait.AXIS):
        return any(node.attrs["axis"] in a for _, a in operands)
    if name == "rearrange":
        return not axes <= {i for i, _ in rearranged(node)}
    if name == "reshape":
        assert first is not None
        kept = {classes.find(node.output, j) for j in range(node.output.type.rank)}
        return not all(classes.find(first, i) in kept for i in axes)
    if has(node, Trait.MOVES):
        return False  # whole axes are moved
    if name == "compact":
        assert first is not None
        return first.type.rank - 1 in axes
    if has(node, Trait.INDEXES) and "axis" in node.attrs:
        return node.attrs["axis"] in axes
    if has(node, Trait.INDEXES) or node.op.family == "segment":
        last = operands[1][0].type.rank - 1
        return any(last in a for _, a in operands)
    if name == "searchsorted":
        return bool(axes)
    if name == "conv":
        return bool(axes - {0}) or bool(operands[1][1])
    return any(a for _, a in operands)


class Bodies:
    """Whether composites treat each element by itself, remembered for each kind of call."""

    def __init__(self) -> None:
        self._known: dict[Any, bool] = {}

    def each(self, node: Node, types: Sequence[TensorType | None], axes_of: AxesOf) -> bool:
        """Whether everything in the body of a composite walks the given axes of its operands element by element.

        ``types`` are those of the operands; the answer holds for others of the same ranks.
        """
        given = [v for v in node.inputs if v is not None]
        chosen = tuple(tuple(axes_of(v)) for v in given)
        ranks = tuple(None if v is None else v.type.rank for v in node.inputs)
        key = (node.op, ranks, chosen, attrs_key(node.attrs))
        found = self._known.get(key)
        if found is None:
            assert isinstance(node.op, Composite)
            body = node.op.instantiate(types, dict(node.attrs))
            found = self._known[key] = self._body(body, chosen)
        return found

    def _body(self, body: Graph, chosen: Sequence[Sequence[int]]) -> bool:
        classes = Axes(body)
        roots = {classes.find(v, axis) for v, axes in zip(body.inputs, chosen, strict=True) for axis in axes}

        def axes_of(value: Value) -> list[int]:
            return [i for i in range(value.type.rank) if classes.find(value, i) in roots]

        for node in body.nodes():
            if not any(axes_of(v) for v in node.inputs if v is not None):
                # Numbers that the body makes itself along the axis belong to places.
                if has(node, Trait.MAKES) and node.op.qualified != "full" and axes_of(node.output):
                    return False
                continue
            kind = along(node, axes_of, classes)
            inner = [None if v is None else v.type for v in node.inputs]
            if kind is not Along.EACH and not (kind is Along.INSIDE and self.each(node, inner, axes_of)):
                return False
        return True
