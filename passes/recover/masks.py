"""What the masks and biases of attention say: causal, padding, or nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from ...ir.analysis.cost import ATTENTION
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Graph, Node, Value
from ...ir.types import boolean
from .index import (
    COMPARISONS,
    ORDERS,
    Apply,
    Element,
    Expr,
    Known,
    Place,
    element,
    linear,
    number_of,
    places,
    simplify,
    substituted,
)
from .write import KEYS, Unwritable, Writer

# A number that a masked score is replaced by, or that is added to it: exp of it is 0 next to any other score.
_LOWEST = -1e4
# With any score added, this is the same number still.
_SWALLOWS = -1e30
_QUERIES = KEYS - 1


@dataclass(frozen=True)
class Soft:
    """A term of a bias: 0 where a condition holds, else a very low number. ``value`` is that term, where there is one."""

    value: Value | None
    condition: Expr
    low: float


@dataclass
class _Meaning:
    """What a mask and a bias come to: factors that must all hold, and what is added to the scores.

    ``soft`` are the terms of the bias that say, with a very low number instead of -inf, that conditions must hold: where a
    query sees no key at all, the mean of those that are hidden equally is left. ``exact``: whether such queries matter.
    """

    causal: bool = False
    factors: list[Expr] = field(default_factory=list)
    soft: list[Soft] = field(default_factory=list)
    terms: list[Value] = field(default_factory=list)
    dropped: bool = False
    exact: bool = True


def raise_masks(graph: Graph, padding: bool, skipped: list[str] | None = None) -> Counter[str]:
    """Write each mask by what it says; counts of ``mask_*``.

    A mask that holds for every pair of places is dropped, one that compares places is ``causal``, a bias of 0 and -inf (or the
    lowest number) is a mask, and a mask that depends on the key alone has one row.

    ``padding``: whether the lowest number is -inf even where a query may see no key, of which -inf makes another result;
    else only where every query sees its own place. The count of ``mask_from_lowest`` is that of the former. ``skipped``: is given
    why a mask stays as it is that could not be written anew.
    """
    counts: Counter[str] = Counter()
    writer = Writer(graph)
    for node in list(graph.nodes()):
        if node.op.qualified == ATTENTION and (node.inputs[3] is not None or node.inputs[4] is not None):
            try:
                counts.update(_mask(node, writer, padding))
            except Diagnostic as error:
                if skipped is not None:
                    skipped.append(f"the mask at {node.span} was left as it is: {error.message}")
    return counts


def leaves_scores(graph: Graph) -> int:
    """How many attentions have a mask of a number that, added to scores, leaves something of them (-1e9 in f32: all beyond
    32), and may have queries that see no key."""
    count = 0
    for node in graph.nodes():
        if node.op.qualified == ATTENTION and node.inputs[4] is not None:
            found = _meaning(node)
            lows = [term.low for term in found.soft] + [_hides(element(term)) for term in found.terms]
            count += any(_SWALLOWS < low < 0 for low in lows)
    return count


def _meaning(node: Node, exact: bool = True) -> _Meaning:
    mask, bias = node.inputs[3:]
    found = _Meaning(node.attrs["causal"], exact=exact)
    if mask is not None:
        _factors(element(mask), found.factors)
    if bias is not None:
        _terms(bias, found)
    return found


def _mask(node: Node, writer: Writer, padding: bool) -> Counter[str]:
    q, k, _, mask, bias = node.inputs
    assert q is not None
    assert k is not None
    shift = k.type.shape[2] - q.type.shape[2]
    found = _meaning(node, exact=False)
    hidden = list(found.factors)
    for term in found.soft:
        _factors(term.condition, hidden)
    unseeing = bool(found.soft) and not _see_themselves(hidden, q.type.shape[2], k.type.shape[2])
    soft: list[Soft] = []
    if unseeing and not padding:
        found = _meaning(node)
        soft, hidden = found.soft, found.factors
    masking = found.dropped or len(soft) < len(found.soft)
    shorter = any(map(_of_keys, soft))
    kept = [f for f in hidden if not _is_causal(f, shift)]
    causal = found.causal or len(kept) < len(hidden)
    used = set().union(*map(places, kept)) if kept else set()
    gains = {
        "mask_from_bias": masking,
        "mask_causal": causal and not node.attrs["causal"],
        "mask_dropped": mask is not None and not kept,
        "mask_of_keys": shorter
        or (mask is not None and bool(kept) and _QUERIES not in used and mask.type.shape[_QUERIES] != 1),
        "mask_from_lowest": unseeing and padding,
    }
    if not any(gains.values()):
        return Counter()
    try:
        new_mask = writer.all_of(kept, node) if kept else None
        low = [
            writer.soft(_parts(t.condition), t.low, q.type.dtype, node) if t.value is None or _of_keys(t) else t.value
            for t in soft
        ]
        new_bias = writer.total([*found.terms, *low], node) if masking or shorter else bias
    except Unwritable:
        return Counter()
    node.set_input(3, new_mask)
    node.set_input(4, new_bias)
    node.attrs["causal"] = causal
    return Counter(name for name, gained in gains.items() if gained)


def _of_keys(term: Soft) -> bool:
    """Whether a term has a row for each query, but depends on the key alone."""
    rows = term.value is None or term.value.type.shape[_QUERIES] != 1
    return rows and _QUERIES not in places(term.condition)


def _see_themselves(factors: list[Expr], queries: Dim, keys: Dim) -> bool:
    """Whether every query is known to see the key of its own place."""
    own = Place(_QUERIES, queries)
    return queries == keys and all(substituted(f, KEYS, own) == Known(True) for f in factors)


def _parts(condition: Expr) -> list[Expr]:
    found: list[Expr] = []
    _factors(condition, found)
    return found


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
    condition, low = _as_condition(expr)
    written: Value | None = value
    if condition is None and (inside := _in_place(value, expr, found.exact)) is not None:
        condition, low, rest = inside
        written = None
        found.terms += rest.terms
        found.factors += [f for f in rest.factors if f not in found.factors]
        found.dropped |= rest.dropped
        if low == float("-inf"):
            found.soft += rest.soft
        for soft in rest.soft if low != float("-inf") else ():
            condition = simplify(Apply("logical_and", (condition, soft.condition)))
    if _zero(expr) or condition == Known(True):
        found.dropped = True
        return
    if condition is None:
        found.terms.append(value)
    elif low == float("-inf"):
        found.dropped = True
        _factors(condition, found.factors)
    else:
        found.soft.append(Soft(written, condition, low))


def _in_place(value: Value, expr: Expr, exact: bool) -> tuple[Expr, float, _Meaning] | None:
    """A bias in whose place there is the lowest number where a condition does not hold (T5): the condition, the number, and what
    the bias comes to. None where it is not the same to add the number to the bias: two lowest numbers are -inf."""
    node = value.node
    rest = node.inputs[1] if node is not None and node.op is not None and node.op.qualified == "where" else None
    if rest is None or rest.type.rank != value.type.rank or not isinstance(expr, Apply) or expr.op != "where":
        return None
    low = _low(expr.args[2])
    found = _Meaning(exact=exact)
    _terms(rest, found)
    once = not found.factors and len(found.soft) <= 1 and all(term.low == low for term in found.soft)
    if low and (not exact or low == float("-inf") or (low <= _SWALLOWS and once)):
        return expr.args[0], low, found
    return None


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
        for gap, by in (expr.args, expr.args[::-1]):
            if not isinstance(gap, Apply) or (number := number_of(by)) is None:
                continue
            # (1 - mask) * lowest or (mask - 1) * highest, of a mask that holds 0 and 1.
            meant: Expr | None
            if gap.op == "sub" and _one(gap.args[0]) and _low(by):
                meant = _truth(gap.args[1])
            elif gap.op == "sub" and _one(gap.args[1]) and -number <= _LOWEST:
                meant, number = _truth(gap.args[0]), -number
            else:
                hidden = _truth(gap) if _low(by) else None
                meant = None if hidden is None else simplify(Apply("logical_not", (hidden,)))
            if meant is not None:
                return meant, number
    return None, 0.0


def _truth(expr: Expr) -> Expr | None:
    """The condition of which an expression is the number: 1 where it holds, else 0."""
    if not (isinstance(expr, Apply) and expr.op == "cast" and expr.dtype.kind == "float"):
        return None
    inner = expr.args[0]
    if isinstance(inner, Element) and inner.value.type.dtype.kind == "int":
        return Apply("ne", (inner, Known(as_dim(0))))
    return inner if _is_condition(inner) else None


def _hides(expr: Expr) -> float:
    """The very low number that a bias has where a condition decides, else 0."""
    return (
        next((n for n in map(_low, expr.args[1:]) if n), 0.0) if isinstance(expr, Apply) and expr.op == "where" else 0.0
    )


def _is_condition(expr: Expr) -> bool:
    if isinstance(expr, Element):
        return expr.value.type.dtype == boolean
    if not isinstance(expr, Apply):
        return False
    return expr.op.startswith("logical_") or expr.op in COMPARISONS or expr.dtype == boolean


def _zero(expr: Expr) -> bool:
    return number_of(expr) == 0


def _one(expr: Expr) -> bool:
    return number_of(expr) == 1


def _low(expr: Expr) -> float:
    """The very low number that an expression is, else 0."""
    number = number_of(expr)
    return number if number is not None and number <= _LOWEST else 0.0


def _is_causal(factor: Expr, shift: Dim) -> bool:
    """Whether a condition is `s <= t + shift`: the last query sees every key."""
    return _reach(factor) == shift


def _reach(factor: Expr) -> Dim | None:
    """The d of a condition that is `s <= t + d`."""
    order = ORDERS.get(factor.op) if isinstance(factor, Apply) else None
    if not isinstance(factor, Apply) or order is None:
        return None
    first, second = factor.args if order.ascending else factor.args[::-1]
    terms = linear(Apply("sub", (second, first)))
    if terms is None:
        return None
    rest = terms.pop(None, as_dim(0)) - order.margin
    named = {atom.axis: factor.value for atom, factor in terms.items() if isinstance(atom, Place)}
    return rest if len(named) == len(terms) and named == {_QUERIES: 1, KEYS: -1} else None
