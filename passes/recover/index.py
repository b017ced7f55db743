"""What one element of a tensor is, as an expression of its place: how masks are understood that exporters compute from positions.

`unsqueeze(iota(T), 0) <= unsqueeze(iota(T), 1)` at (t, s) is `s <= t`; a mask that was gathered row by row is the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Node, Value
from ...ir.op import Trait
from ...ir.ops import OPS, having
from ...ir.ops.shape import rearrange_plan
from .layout import axis_groups

# Beyond this many ops a value is taken as it is.
_DEPTH = 60
_OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}
COMPARISONS = having(Trait.COMPARES)
# Ops of elements of which conclusions are drawn: sums, products, order, choices and logic.
_PLAIN = COMPARISONS | {
    name for name in having(Trait.ADDS) | having(Trait.CONNECTS) | having(Trait.KEEPS) if OPS[name].family == "elementwise"
}


@dataclass(frozen=True)
class Order:
    """A comparison as ``first + margin <= second``, over integers; its operands are these two if it is ``ascending``."""

    ascending: bool
    margin: int


ORDERS = {"lt": Order(True, 1), "le": Order(True, 0), "gt": Order(False, 1), "ge": Order(False, 0)}
# What each operand of a sum counts.
_SIGNS = {"add": (1, 1), "sub": (1, -1), "neg": (-1,)}


@dataclass(frozen=True)
class Place:
    """An index: of axis ``axis`` of the value that is asked about, from 0 to ``size`` - 1."""

    axis: int
    size: Dim


@dataclass(frozen=True)
class Known:
    """A number, or a dimension."""

    value: Any


@dataclass(frozen=True, eq=False)
class Element:
    """The element of a tensor at an index that is made of expressions."""

    value: Value
    index: tuple[Expr, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Element) and other.value is self.value and other.index == self.index

    def __hash__(self) -> int:
        return hash((id(self.value), self.index))


@dataclass(frozen=True)
class Apply:
    """An op of elements; ``cast`` has the dtype it gives."""

    op: str
    args: tuple[Expr, ...]
    dtype: Any = None


Expr = Place | Known | Element | Apply
ZERO = Known(as_dim(0))


def element(value: Value) -> Expr:
    """The element of ``value`` at the place (0, 1, …): one expression for all of them."""
    index = tuple(ZERO if d == 1 else Place(axis, d) for axis, d in enumerate(value.type.shape))
    return _Reader().at(value, index, 0)


def number_of(expr: Expr) -> float | None:
    """The number that an expression is, whatever its place."""
    if not isinstance(expr, Known):
        return None
    value = expr.value
    return float(value) if isinstance(value, (bool, float)) else None if value.value is None else float(value.value)


def places(expr: Expr) -> set[int]:
    """The axes that an expression depends on."""
    if isinstance(expr, Place):
        return {expr.axis}
    if isinstance(expr, Known):
        return set()
    parts = expr.index if isinstance(expr, Element) else expr.args
    return set().union(*map(places, parts)) if parts else set()


def substituted(expr: Expr, axis: int, by: Expr) -> Expr:
    """The expression at another index of one axis."""
    if isinstance(expr, Place):
        return by if expr.axis == axis else expr
    if isinstance(expr, Known):
        return expr
    if isinstance(expr, Element):
        return Element(expr.value, tuple(substituted(i, axis, by) for i in expr.index))
    return simplify(Apply(expr.op, tuple(substituted(a, axis, by) for a in expr.args), expr.dtype))


class _Reader:
    """Follows an element back through what moved it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Value, tuple[Expr, ...]], Expr] = {}

    def at(self, value: Value, index: tuple[Expr, ...], depth: int) -> Expr:
        key = (value, index)
        if key not in self._known:
            node = value.node
            found = None if node is None or node.op is None or depth > _DEPTH else self._through(node, index, depth + 1)
            self._known[key] = Element(value, index) if found is None else found
        return self._known[key]

    def _through(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        name = node.op.qualified
        move = _MOVES.get(name)
        if move is not None:
            return move(self, node, index, depth)
        if name not in _PLAIN:
            return None
        return simplify(Apply(name, tuple(self._operand(v, index, depth) for v in node.inputs if v is not None)))

    def _operand(self, value: Value, index: tuple[Expr, ...], depth: int) -> Expr:
        """The element that a broadcast operand has at a place of the result."""
        shape = value.type.shape
        own = index[len(index) - len(shape) :]
        return self.at(value, tuple(ZERO if d == 1 else i for d, i in zip(shape, own, strict=True)), depth)

    # One op each; None where the element cannot be followed -------------------------------------------------------

    def constant(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        value = node.attrs["value"]
        while isinstance(value, tuple):
            if not value or any(item != value[0] for item in value):
                return None
            value = value[0]
        return _known(value)

    def iota(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        return index[0] if node.output.type.dtype.kind == "int" else None

    def cast(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        assert node.inputs[0] is not None
        old, new = node.inputs[0].type.dtype.kind, node.attrs["dtype"].kind
        inner = self.at(node.inputs[0], index, depth)
        if old == new or (old == "int" and new == "float" and isinstance(inner, Known)):
            return inner
        if isinstance(inner, Known) and "bool" in (old, new):
            return _known(bool(inner.value) if new == "bool" else int(inner.value))
        return Apply("cast", (inner,), node.attrs["dtype"])

    def expand(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        assert node.inputs[0] is not None
        return self._operand(node.inputs[0], index, depth)

    def unsqueeze(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        assert node.inputs[0] is not None
        gone = set(node.attrs["axis"])
        return self.at(node.inputs[0], tuple(i for axis, i in enumerate(index) if axis not in gone), depth)

    def squeeze(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        assert node.inputs[0] is not None
        rest, gone = iter(index), set(node.attrs["axis"])
        rank = node.inputs[0].type.rank
        return self.at(node.inputs[0], tuple(ZERO if axis in gone else next(rest) for axis in range(rank)), depth)

    def transpose(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        assert node.inputs[0] is not None
        perm = node.attrs["perm"]
        return self.at(node.inputs[0], tuple(index[perm.index(axis)] for axis in range(len(perm))), depth)

    def slice(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        assert node.inputs[0] is not None
        axis, start = node.attrs["axis"], as_dim(node.attrs["start"] or 0)
        size = node.inputs[0].type.shape[axis]
        if node.attrs["step"] != 1:
            return None
        if start.value is not None and start.value < 0:
            start = size + start
        moved = simplify(Apply("add", (index[axis], Known(start))))
        return self.at(node.inputs[0], (*index[:axis], ZERO if size == 1 else moved, *index[axis + 1 :]), depth)

    def concat(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        """Only where one of several single elements is meant, as when an index was put together of its parts."""
        axis, at = node.attrs["axis"], index[node.attrs["axis"]]
        if not isinstance(at, Known) or any(v is None or v.type.shape[axis] != 1 for v in node.inputs):
            return None
        chosen = node.inputs[int(at.value)]
        assert chosen is not None
        return self.at(chosen, (*index[:axis], ZERO, *index[axis + 1 :]), depth)

    def reshape(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        source = node.inputs[0]
        assert source is not None
        before = _before_reshape(source.type.shape, node.output.type.shape, index)
        return None if before is None else self.at(source, before, depth)

    def rearrange(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        """Only where it moves and joins axes."""
        source = node.inputs[0]
        assert source is not None
        split, perm, final = rearrange_plan(source.type, node.attrs)
        if tuple(split) != tuple(source.type.shape):
            return None
        moved = _before_reshape(tuple(split[axis] for axis in perm), tuple(final), index)
        if moved is None:
            return None
        return self.at(source, tuple(moved[perm.index(axis)] for axis in range(len(perm))), depth)

    def take(self, node: Node, index: tuple[Expr, ...], depth: int) -> Expr | None:
        x, which = node.inputs
        assert x is not None
        assert which is not None
        axis, batch, rank = node.attrs["axis"], node.attrs["batch"], which.type.rank
        at = (*index[:batch], *index[axis : axis + rank - batch])
        row = self._operand(which, at, depth)
        if x.type.shape[axis] == 1:
            row = ZERO
        return self.at(x, (*index[:axis], row, *index[axis + rank - batch :]), depth)


_MOVES = {
    "constant": _Reader.constant, "full": _Reader.constant, "iota": _Reader.iota, "cast": _Reader.cast,
    "expand": _Reader.expand, "unsqueeze": _Reader.unsqueeze, "squeeze": _Reader.squeeze,
    "transpose": _Reader.transpose, "slice": _Reader.slice, "concat": _Reader.concat, "reshape": _Reader.reshape,
    "rearrange": _Reader.rearrange, "take": _Reader.take,
}  # fmt: skip


def _before_reshape(old: tuple[Dim, ...], new: tuple[Dim, ...], index: tuple[Expr, ...]) -> tuple[Expr, ...] | None:
    """The place in a tensor of one shape of what stands at ``index`` under another shape, where axes are joined."""
    groups = axis_groups(old, new)
    before: dict[int, Expr] = {}
    for mine, theirs in groups or ():
        if len(mine) == 1 and len(theirs) == 1:
            before[mine[0]] = index[theirs[0]]
        elif len(mine) <= 1 and all(new[axis] == 1 for axis in theirs):
            before.update(dict.fromkeys(mine, ZERO))
        else:
            split = _split(index[theirs[0]], [old[axis] for axis in mine]) if len(theirs) == 1 else None
            if split is None:
                return None
            before.update(zip(mine, split, strict=True))
    return None if groups is None else tuple(before[axis] for axis in range(len(old)))


# Arithmetic ----------------------------------------------------------------------------------------------------------


def _known(value: Any) -> Known:
    return Known(value if isinstance(value, (bool, float)) else as_dim(value))


def linear(expr: Expr) -> dict[Expr | None, Dim] | None:
    """An integer expression as a sum of multiples of places, elements and 1 (None); None when it is no such sum."""
    if isinstance(expr, Known):
        return {None: expr.value} if isinstance(expr.value, Dim) else None
    if isinstance(expr, Apply) and expr.op in _SIGNS:
        parts = [linear(a) for a in expr.args]
        if any(p is None for p in parts):
            return None
        total: dict[Expr | None, Dim] = {}
        for sign, part in zip(_SIGNS[expr.op], parts, strict=True):
            for atom, factor in (part or {}).items():
                total[atom] = total.get(atom, as_dim(0)) + factor * sign
        return {atom: factor for atom, factor in total.items() if factor != 0}
    if isinstance(expr, Apply) and expr.op == "mul":
        a, b = (linear(x) for x in expr.args)
        for one, other in ((a, b), (b, a)):
            if one is not None and other is not None and set(one) <= {None}:
                factor = one.get(None, as_dim(0))
                return {atom: f * factor for atom, f in other.items() if f * factor != 0}
        return None
    whole = isinstance(expr, Place) or (isinstance(expr, Element) and expr.value.type.dtype.kind == "int")
    return {expr: as_dim(1)} if whole else None


def _split(expr: Expr, sizes: list[Dim]) -> list[Expr] | None:
    """The index of a joined axis as indices of its parts: ``b * T + t`` of sizes B and T is b and t."""
    terms = linear(expr)
    if terms is None:
        return None
    found: list[Expr] = []
    stride = as_dim(1)
    for size in reversed(sizes):
        mine = [a for a, f in terms.items() if f == stride and isinstance(a, Place) and a.size == size]
        if len(mine) > 1 or (not mine and size != 1 and any(f == stride for f in terms.values())):
            return None
        found.append(mine[0] if mine else ZERO)
        if mine:
            del terms[mine[0]]
        stride = stride * size
    return None if terms else found[::-1]


def simplify(expr: Apply) -> Expr:
    """The same with what is decided by the ranges of places decided: `t >= 0` is true, `true and x` is x."""
    op, args = expr.op, expr.args
    if op in ("logical_and", "logical_or"):
        neutral = op == "logical_and"
        for this, other in (args, args[::-1]):
            if isinstance(this, Known):
                return other if bool(this.value) == neutral else this
        return args[0] if args[0] == args[1] else expr
    if op == "logical_not":
        return _inverted(expr)
    if op == "where" and isinstance(args[0], Known):
        return args[1] if args[0].value else args[2]
    if op in COMPARISONS:
        return _compared(expr)
    terms = linear(expr)
    if terms is None:
        return expr
    if set(terms) <= {None}:
        return Known(terms.get(None, as_dim(0)))
    if len(terms) == 1 and (only := next(iter(terms.items())))[1] == 1 and only[0] is not None:
        return only[0]
    return expr


def _inverted(expr: Apply) -> Expr:
    """`not not m` is `m`; `not (s > t)` is `s <= t`, over integers: they have no NaN."""
    inner = expr.args[0]
    if isinstance(inner, Known):
        return Known(not inner.value)
    if isinstance(inner, Apply) and inner.op == "logical_not":
        return inner.args[0]
    if isinstance(inner, Apply) and inner.op in _OPPOSITE and linear(Apply("sub", inner.args)) is not None:
        return simplify(Apply(_OPPOSITE[inner.op], inner.args))
    return expr


def _compared(expr: Apply) -> Expr:
    left, right = expr.args
    order = ORDERS.get(expr.op)
    if order is not None:
        first, second = (left, right) if order.ascending else (right, left)
        return _ordered(expr, first, second, order.margin)
    if isinstance(left, Known) and isinstance(right, Known):
        return Known((left.value == right.value) == (expr.op == "eq"))
    return expr


def _ordered(expr: Apply, first: Expr, second: Expr, margin: int) -> Expr:
    """`first + margin <= second`, decided where the least or the greatest value of the difference decides it."""
    terms = linear(Apply("sub", (second, first)))
    if terms is None or any(not isinstance(a, Place) for a in terms if a is not None):
        return expr
    least = greatest = terms.get(None, as_dim(0)) - margin
    for atom, factor in terms.items():
        if isinstance(atom, Place):
            if factor.value is None:
                return expr
            reach = factor * (atom.size - 1)
            least, greatest = (least, greatest + reach) if factor.value > 0 else (least + reach, greatest)
    if least.value is not None and least.value >= 0:
        return Known(True)
    return Known(False) if greatest.value is not None and greatest.value < 0 else expr
