"""What the masks and biases of attention say: causal, padding, or nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..ir.builder import Builder
from ..ir.dims import Dim, as_dim
from ..ir.graph import Graph, Node, Value
from ..ir.types import DType, boolean, i64
from .cost import ATTENTION
from .raise_index import Apply, Element, Expr, Known, Place, element, linear, places, substituted

# A number that a masked score is replaced by, or that is added to it: exp of it is 0 next to any other score.
_LOWEST = -1e4
_ROWS, _HEADS, _QUERIES, _KEYS = range(4)


class _Unwritable(Exception):
    """An expression that is no product of ops on whole tensors."""


@dataclass
class _Meaning:
    """What a mask and a bias come to: factors that must all hold, and what is added to the scores."""

    causal: bool = False
    factors: list[Expr] = field(default_factory=list)
    terms: list[Value] = field(default_factory=list)
    lowest: bool = False


def raise_masks(graph: Graph, padding: bool) -> Counter[str]:
    """Write each mask by what it says; counts of ``mask_*``.

    A mask that holds for every pair of places is dropped, one that compares places is ``causal``, a bias of 0 and -inf (or the
    lowest number) is a mask, and a mask that depends on the key alone has one row.

    ``padding``: whether the lowest number is -inf even where a query may see no key, of which -inf makes another result;
    else only where every query sees its own place. The count of ``mask_from_lowest`` is that of the former.
    """
    counts: Counter[str] = Counter()
    writer = _Writer(graph)
    for node in list(graph.nodes()):
        if node.op.qualified == ATTENTION and (node.inputs[3] is not None or node.inputs[4] is not None):
            counts.update(_mask(node, writer, padding))
    return counts


def _mask(node: Node, writer: _Writer, padding: bool) -> Counter[str]:
    q, k, _, mask, bias = node.inputs
    assert q is not None
    assert k is not None
    shift = k.type.shape[2] - q.type.shape[2]
    found = _Meaning(node.attrs["causal"])
    if mask is not None:
        _factors(element(mask), found)
    masks = len(found.factors)
    if bias is not None:
        _terms(bias, found)
    masking = bias is not None and (not found.terms or len(found.factors) > masks)
    unseeing = found.lowest and not _see_themselves(found.factors, q.type.shape[2], k.type.shape[2])
    if unseeing and not padding:
        return Counter()
    kept = [f for f in found.factors if not _is_causal(f, shift)]
    causal = found.causal or len(kept) < len(found.factors)
    used = set().union(*map(places, kept)) if kept else set()
    gains = {
        "mask_from_bias": masking,
        "mask_causal": causal and not node.attrs["causal"],
        "mask_dropped": mask is not None and not kept,
        "mask_of_keys": mask is not None and bool(kept) and _QUERIES not in used and mask.type.shape[_QUERIES] != 1,
        "mask_from_lowest": unseeing,
    }
    if not any(gains.values()):
        return Counter()
    try:
        new_mask = writer.all_of(kept, node) if kept else None
        new_bias = writer.total(found.terms, node) if masking else bias
    except _Unwritable:
        return Counter()
    node.set_input(3, new_mask)
    node.set_input(4, new_bias)
    node.attrs["causal"] = causal
    return Counter(name for name, gained in gains.items() if gained)


def _see_themselves(factors: list[Expr], queries: Dim, keys: Dim) -> bool:
    """Whether every query is known to see the key of its own place."""
    own = Place(_QUERIES, queries)
    return queries == keys and all(substituted(f, _KEYS, own) == Known(True) for f in factors)


def _factors(expr: Expr, found: _Meaning) -> None:
    """The parts of a condition that must all hold."""
    if isinstance(expr, Apply) and expr.op == "logical_and":
        for arg in expr.args:
            _factors(arg, found)
    elif expr != Known(True) and expr not in found.factors:
        found.factors.append(expr)


def _terms(value: Value, found: _Meaning) -> None:
    """The parts of a bias; those that are masks become factors."""
    node = value.node
    if node is not None and node.op is not None and node.op.qualified == "add":
        operands = [v for v in node.inputs if v is not None and v.type.rank == value.type.rank]
        if len(operands) == len(node.inputs):
            for operand in operands:
                _terms(operand, found)
            return
    expr = element(value)
    if _zero(expr):
        return
    condition = _as_condition(expr, found)
    if condition is None:
        found.terms.append(value)
    else:
        _factors(condition, found)


def _as_condition(expr: Expr, found: _Meaning) -> Expr | None:
    """The condition that a bias of 0 and a very low number stands for."""
    if not isinstance(expr, Apply):
        return None
    if expr.op == "where":
        condition, yes, no = expr.args
        if _zero(yes) and _low(no, found):
            return condition
        return Apply("logical_not", (condition,)) if _low(yes, found) and _zero(no) else None
    if expr.op == "mul":
        for gap, low in (expr.args, expr.args[::-1]):
            # (1 - mask) * lowest, of a mask that holds 0 and 1.
            if isinstance(gap, Apply) and gap.op == "sub" and _one(gap.args[0]) and _low(low, found):
                inner = gap.args[1]
                if isinstance(inner, Apply) and inner.op == "cast" and inner.dtype.kind == "float":
                    inner = inner.args[0]
                    if isinstance(inner, Element) and inner.value.type.dtype.kind == "int":
                        return Apply("ne", (inner, Known(as_dim(0))))
                    return inner if _is_condition(inner) else None
    return None


def _is_condition(expr: Expr) -> bool:
    if isinstance(expr, Element):
        return expr.value.type.dtype == boolean
    if not isinstance(expr, Apply):
        return False
    return expr.op.startswith("logical_") or expr.op in ("eq", "ne", "lt", "le", "gt", "ge") or expr.dtype == boolean


def _number(expr: Expr) -> float | None:
    if not isinstance(expr, Known):
        return None
    value = expr.value
    return float(value) if isinstance(value, (bool, float)) else None if value.value is None else float(value.value)


def _zero(expr: Expr) -> bool:
    return _number(expr) == 0


def _one(expr: Expr) -> bool:
    return _number(expr) == 1


def _low(expr: Expr, found: _Meaning) -> bool:
    number = _number(expr)
    if number is None or number > _LOWEST:
        return False
    found.lowest |= number != float("-inf")
    return True


def _is_causal(factor: Expr, shift: object) -> bool:
    """Whether a condition is `s <= t + shift`: the last query sees every key."""
    if not isinstance(factor, Apply) or factor.op not in ("le", "lt", "ge", "gt"):
        return False
    first, second = factor.args if factor.op in ("le", "lt") else factor.args[::-1]
    terms = linear(Apply("sub", (second, first)))
    if terms is None:
        return False
    rest = terms.pop(None, as_dim(0)) - (1 if factor.op in ("lt", "gt") else 0)
    named = {atom.axis: factor.value for atom, factor in terms.items() if isinstance(atom, Place)}
    return len(named) == len(terms) and named == {_QUERIES: 1, _KEYS: -1} and rest == shift


def _fitting(value: Value, node: Node) -> Value:
    """A mask or bias of attention: four axes, the last of them the keys."""
    if value.type.rank != 4 or value.type.shape[_KEYS] != node.inputs[1].type.shape[2]:  # type: ignore[union-attr]
        raise _Unwritable
    return value


class _Writer:
    """Expressions of the four places of attention as tensors again."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._written: dict[Expr, Value] = {}

    def all_of(self, factors: list[Expr], node: Node) -> Value:
        """The mask that holds where all factors do, with four axes."""
        whole = factors[0]
        for factor in factors[1:]:
            whole = Apply("logical_and", (whole, factor))
        builder = Builder(self.graph).before(node)
        mask = self._write(whole, builder, boolean)
        keys = node.inputs[1].type.shape[2]  # type: ignore[union-attr]
        if mask.type.rank == 4 and mask.type.shape[_KEYS] != keys:
            mask = builder.op("expand", mask, shape=(*mask.type.shape[:_KEYS], keys))
        return _fitting(mask, node)

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
            number = _number(expr)
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
            raise _Unwritable
        if expr.op == "cast":
            return builder.op("cast", self._write(expr.args[0], builder, dtype), dtype=expr.dtype)
        inner = [self._dtype(arg, dtype) for arg in expr.args]
        compares = expr.op in ("eq", "ne", "lt", "le", "gt", "ge")
        common = next((d for d in inner if d is not None), None) if compares else dtype
        if common is None:
            raise _Unwritable
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
                raise _Unwritable
        if gone:
            value = builder.op("squeeze", value, axis=gone)
        if order != sorted(order):
            value = builder.op("transpose", value, perm=tuple(order.index(axis) for axis in sorted(order)))
        missing = tuple(axis for axis in range(4) if axis not in order)
        return builder.op("unsqueeze", value, axis=missing) if missing else value
