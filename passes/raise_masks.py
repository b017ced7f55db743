"""What the masks and biases of attention say: causal, padding, or nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ..ir.builder import Builder
from ..ir.dims import Dim, as_dim, prove_ge
from ..ir.graph import Graph, Node, Value
from ..ir.types import DType, boolean, i64
from .cost import ATTENTION
from .raise_index import Apply, Element, Expr, Known, Place, element, linear, places, simplify, substituted

# A number that a masked score is replaced by, or that is added to it: exp of it is 0 next to any other score.
_LOWEST = -1e4
# With any score added, this is the same number still.
_SWALLOWS = -1e30
_ROWS, _HEADS, _QUERIES, _KEYS = range(4)


class _Unwritable(Exception):
    """An expression that is no product of ops on whole tensors."""


@dataclass
class _Meaning:
    """What a mask and a bias come to: factors that must all hold, and what is added to the scores.

    ``soft`` are the terms of the bias that say, with a very low number instead of -inf, that conditions must hold: where a
    query sees no key at all, the mean of those that are hidden equally is left. Each is a value, its condition and the number.
    """

    causal: bool = False
    factors: list[Expr] = field(default_factory=list)
    soft: list[tuple[Value, Expr, float]] = field(default_factory=list)
    terms: list[Value] = field(default_factory=list)
    dropped: bool = False


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


def leaves_scores(graph: Graph) -> int:
    """How many attentions have a mask of a number that, added to scores, leaves something of them (-1e9 in f32: all beyond
    32), and may have queries that see no key."""
    count = 0
    for node in graph.nodes():
        if node.op.qualified == ATTENTION and node.inputs[4] is not None:
            count += any(low > _SWALLOWS for _, _, low in _meaning(node).soft)
    return count


def sees_no_later(node: Node) -> bool:
    """Whether no query of an attention sees a key behind its place, whatever says so: the flag, the mask or the bias."""
    q, k = node.inputs[:2]
    assert q is not None
    assert k is not None
    found = _meaning(node)
    shift = k.type.shape[2] - q.type.shape[2]
    hidden = [*found.factors, *(condition for _, condition, _ in found.soft)]
    hidden += [shown for term in found.terms if (shown := _shown(element(term))) is not None]
    return found.causal or any(_implies_causal(f, shift) for f in hidden)


def _meaning(node: Node) -> _Meaning:
    mask, bias = node.inputs[3:]
    found = _Meaning(node.attrs["causal"])
    if mask is not None:
        _factors(element(mask), found.factors)
    if bias is not None:
        _terms(bias, found)
    return found


def _mask(node: Node, writer: _Writer, padding: bool) -> Counter[str]:
    q, k, _, mask, bias = node.inputs
    assert q is not None
    assert k is not None
    shift = k.type.shape[2] - q.type.shape[2]
    found = _meaning(node)
    hidden = list(found.factors)
    for _, condition, _ in found.soft:
        _factors(condition, hidden)
    unseeing = bool(found.soft) and not _see_themselves(hidden, q.type.shape[2], k.type.shape[2])
    terms = found.terms
    if unseeing and not padding:
        hidden = found.factors
        terms = [*terms, *(value for value, *_ in found.soft)]
    masking = found.dropped or len(terms) < len(found.terms) + len(found.soft)
    kept = [f for f in hidden if not _is_causal(f, shift)]
    causal = found.causal or len(kept) < len(hidden)
    used = set().union(*map(places, kept)) if kept else set()
    gains = {
        "mask_from_bias": masking,
        "mask_causal": causal and not node.attrs["causal"],
        "mask_dropped": mask is not None and not kept,
        "mask_of_keys": mask is not None and bool(kept) and _QUERIES not in used and mask.type.shape[_QUERIES] != 1,
        "mask_from_lowest": unseeing and padding,
    }
    if not any(gains.values()):
        return Counter()
    try:
        new_mask = writer.all_of(kept, node) if kept else None
        new_bias = writer.total(terms, node) if masking else bias
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


def _factors(expr: Expr, found: list[Expr]) -> None:
    """Add the parts of a condition that must all hold."""
    if isinstance(expr, Apply) and expr.op == "logical_and":
        for arg in expr.args:
            _factors(arg, found)
    elif expr != Known(True) and expr not in found:
        found.append(expr)


def _terms(value: Value, found: _Meaning) -> None:
    """The parts of a bias: those that hide are factors, or soft."""
    node = value.node
    if node is not None and node.op is not None and node.op.qualified == "add":
        operands = [v for v in node.inputs if v is not None and v.type.rank == value.type.rank]
        if len(operands) == len(node.inputs):
            for operand in operands:
                _terms(operand, found)
            return
    expr = element(value)
    if _zero(expr):
        found.dropped = True
        return
    condition, low = _as_condition(expr)
    if condition is None:
        found.terms.append(value)
    elif low == float("-inf"):
        found.dropped = True
        _factors(condition, found.factors)
    else:
        found.soft.append((value, condition, low))


def _as_condition(expr: Expr) -> tuple[Expr | None, float]:
    """The condition that a bias of 0 and a very low number stands for, and that number."""
    if not isinstance(expr, Apply):
        return None, 0.0
    if expr.op == "where":
        condition, yes, no = expr.args
        if _zero(yes) and _low(no):
            return condition, _low(no)
        if _low(yes) and _zero(no):
            return simplify(Apply("logical_not", (condition,))), _low(yes)
    if expr.op == "mul":
        for gap, low in (expr.args, expr.args[::-1]):
            # (1 - mask) * lowest, of a mask that holds 0 and 1.
            if isinstance(gap, Apply) and gap.op == "sub" and _one(gap.args[0]) and _low(low):
                inner = gap.args[1]
                if isinstance(inner, Apply) and inner.op == "cast" and inner.dtype.kind == "float":
                    inner = inner.args[0]
                    if isinstance(inner, Element) and inner.value.type.dtype.kind == "int":
                        return Apply("ne", (inner, Known(as_dim(0)))), _low(low)
                    if _is_condition(inner):
                        return inner, _low(low)
    return None, 0.0


def _shown(expr: Expr) -> Expr | None:
    """Where a bias shows keys that it hides elsewhere with a very low number."""
    if not isinstance(expr, Apply) or expr.op != "where":
        return None
    condition, yes, no = expr.args
    if _low(no):
        return condition
    return simplify(Apply("logical_not", (condition,))) if _low(yes) else None


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


def _low(expr: Expr) -> float:
    """The very low number that an expression is, else 0."""
    number = _number(expr)
    return number if number is not None and number <= _LOWEST else 0.0


def _is_causal(factor: Expr, shift: Dim) -> bool:
    """Whether a condition is `s <= t + shift`: the last query sees every key."""
    return _reach(factor) == shift


def _implies_causal(expr: Expr, shift: Dim) -> bool:
    """Whether a condition holds for no key behind the query's place."""
    if isinstance(expr, Apply) and expr.op == "logical_and":
        return any(_implies_causal(arg, shift) for arg in expr.args)
    if isinstance(expr, Apply) and expr.op == "logical_or":
        return all(_implies_causal(arg, shift) for arg in expr.args)
    reach = _reach(expr)
    return reach is not None and prove_ge(shift, reach)


def _reach(factor: Expr) -> Dim | None:
    """The d of a condition that is `s <= t + d`."""
    if not isinstance(factor, Apply) or factor.op not in ("le", "lt", "ge", "gt"):
        return None
    first, second = factor.args if factor.op in ("le", "lt") else factor.args[::-1]
    terms = linear(Apply("sub", (second, first)))
    if terms is None:
        return None
    rest = terms.pop(None, as_dim(0)) - (1 if factor.op in ("lt", "gt") else 0)
    named = {atom.axis: factor.value for atom, factor in terms.items() if isinstance(atom, Place)}
    return rest if len(named) == len(terms) and named == {_QUERIES: 1, _KEYS: -1} else None


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
