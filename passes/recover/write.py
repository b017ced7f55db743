"""Expressions of the places of attention as tensors again."""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.types import DType, boolean, i64
from .index import COMPARISONS, Apply, Element, Expr, Known, Place, number_of

KEYS = 3


class Unwritable(Exception):
    """An expression that is no product of ops on whole tensors."""


def _fitting(value: Value, node: Node) -> Value:
    """A mask or bias of attention: four axes, the last of them the keys."""
    if value.type.rank != 4 or value.type.shape[KEYS] != node.inputs[1].type.shape[2]:  # type: ignore[union-attr]
        raise Unwritable
    return value


class Writer:
    """Expressions of the four places of attention as tensors again."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._written: dict[Expr, Value] = {}
        self._soft: dict[tuple[Value, float, DType], Value] = {}

    def all_of(self, factors: list[Expr], node: Node) -> Value:
        """The mask that holds where all factors do, with four axes."""
        whole = factors[0]
        for factor in factors[1:]:
            whole = Apply("logical_and", (whole, factor))
        builder = Builder(self.graph).before(node)
        mask = self._write(whole, builder, boolean)
        keys = node.inputs[1].type.shape[2]  # type: ignore[union-attr]
        if mask.type.rank == 4 and mask.type.shape[KEYS] != keys:
            mask = builder.op("expand", mask, shape=(*mask.type.shape[:KEYS], keys))
        return _fitting(mask, node)

    def soft(self, factors: list[Expr], low: float, dtype: DType, node: Node) -> Value:
        """The bias that is 0 where all factors hold, and a very low number elsewhere."""
        mask = self.all_of(factors, node)
        key = mask, low, dtype
        if key not in self._soft:
            builder = Builder(self.graph).before(node)
            zero, number = builder.constant(0.0, dtype), builder.constant(low, dtype)
            self._soft[key] = builder.op("where", mask, zero, number)
        return self._soft[key]

    def total(self, terms: list[Value], node: Node) -> Value | None:
        """The bias that is left."""
        if not terms:
            return None
        whole = terms[0]
        for term in terms[1:]:
            whole = Builder(self.graph).before(node).op("add", whole, term)
        return _fitting(whole, node)

    def _write(self, expr: Expr, builder: Builder, dtype: DType) -> Value:
        if isinstance(expr, Known):
            number = number_of(expr)
            if number is None:
                return builder.dim_value(expr.value)
            return builder.constant(bool(number) if dtype.kind == "bool" else number, dtype)
        if expr in self._written:
            return self._written[expr]
        if isinstance(expr, Place):
            others = tuple(axis for axis in range(4) if axis != expr.axis)
            made = builder.op("unsqueeze", builder.op("iota", n=expr.size), axis=others)
        else:
            made = self._element(expr, builder) if isinstance(expr, Element) else self._apply(expr, builder, dtype)
        self._written[expr] = made
        return made

    def _apply(self, expr: Expr, builder: Builder, dtype: DType) -> Value:
        if not isinstance(expr, Apply):
            raise Unwritable
        if expr.op == "cast":
            return builder.op("cast", self._write(expr.args[0], builder, dtype), dtype=expr.dtype)
        inner = [self._dtype(arg, dtype) for arg in expr.args]
        compares = expr.op in COMPARISONS
        common = next((d for d in inner if d is not None), None) if compares else dtype
        if common is None:
            raise Unwritable
        args = [
            self._write(arg, builder, boolean if expr.op == "where" and i == 0 else common)
            for i, arg in enumerate(expr.args)
        ]
        return builder.op(expr.op, *args)

    def _dtype(self, expr: Expr, dtype: DType) -> DType | None:
        """The dtype that an operand of a comparison has by itself."""
        if isinstance(expr, Element):
            return expr.value.type.dtype
        if isinstance(expr, Place):
            return i64
        if isinstance(expr, Apply):
            return expr.dtype or next((d for d in (self._dtype(a, dtype) for a in expr.args) if d is not None), None)
        return None

    def _element(self, expr: Element, builder: Builder) -> Value:
        """A tensor whose axes are some of the four places, each once, as a tensor with all four."""
        order: list[int] = []
        value = expr.value
        gone = tuple(axis for axis, at in enumerate(expr.index) if isinstance(at, Known))
        for axis, at in enumerate(expr.index):
            if isinstance(at, Place) and at.axis not in order and at.size == value.type.shape[axis]:
                order.append(at.axis)
            elif axis not in gone or value.type.shape[axis] != 1:
                raise Unwritable
        if gone:
            value = builder.op("squeeze", value, axis=gone)
        if order != sorted(order):
            value = builder.op("transpose", value, perm=tuple(order.index(axis) for axis in sorted(order)))
        missing = tuple(axis for axis in range(4) if axis not in order)
        return builder.op("unsqueeze", value, axis=missing) if missing else value
