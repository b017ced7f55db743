"""What a value that depends on places alone is for tokens that come later: at their places, and at the slots of a cache.

A position, a rotary table, a row of a learned table, a bias or a window of pairs of places: each is computed again from the places
that are asked for. Those of new tokens differ from row to row of a batch: what is made of them has an axis for rows in front.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim, const
from ...ir.graph import Graph, Node, Require, Value
from ...ir.ops.contraction import parse_einsum
from ...ir.ops.shape import rearrange_plan, slice_bounds
from ...ir.types import i64
from .known import Known


class Where(Enum):
    """Which tokens an axis stands for."""

    NEW = "the tokens that a call brings"
    SLOT = "the slots of a cache"


Roles = Mapping[int, Where]


class Stuck(Exception):
    """A value cannot be made for other places; the message says why."""

    def __init__(self, message: str, node: Node | None = None) -> None:
        super().__init__(message)
        self.node = node


@dataclass(frozen=True)
class Placed:
    """A value at other places; with ``rows`` it has one axis more in front, that of the rows of the batch."""

    value: Value
    rows: bool


class Places:
    """Makes values of a graph for other places.

    Args:
        tokens: the size of the axis of tokens: in the values that are given all tokens, in those that are made the new ones.
        batch: the number of rows.
        slots: that of the slots, a capacity.
        new: the places of new tokens, i64 [batch, tokens].
        masks, positions: inputs [batch, tokens] that say which tokens are no padding, and where tokens stand.
        known: the numbers of what is computed of places in a way that cannot be followed one by one.
        stands: the places of what the slots hold, i64 [batch, slots]; those of the slots themselves without.
    """

    def __init__(
        self, graph: Graph, tokens: Dim, batch: Dim, slots: Dim, new: Value, masks: Collection[Value],
        positions: Collection[Value], known: Known, stands: Value | None = None,
    ) -> None:  # fmt: skip
        self.graph, self.tokens, self.batch, self.slots = graph, tokens, batch, slots
        self._new, self._masks, self._positions, self._known, self._stands = new, masks, positions, known, stands
        self._made: dict[tuple[Value, tuple[tuple[int, Where], ...]], Placed] = {}
        self._builder = Builder(graph)

    def fitted(self, value: Value, roles: Roles, node: Node, rank: int) -> Value:
        """``value`` at other places, for ``node`` to read among operands of that rank, whose first axis is the batch."""
        self._builder = Builder(self.graph).before(node)
        placed = self.at(value, roles)
        if not placed.rows:
            return placed.value
        given = value.type.rank
        if given < rank:
            axes = tuple(range(1, rank - given))
            return self._op("unsqueeze", placed.value, axis=axes) if axes else placed.value
        if placed.value.type.shape[1] != 1:
            raise Stuck("its first axis is not that of the batch", value.node)
        return self._op("squeeze", placed.value, axis=(1,))

    def at(self, value: Value, roles: Roles) -> Placed:
        """``value`` with the axes that ``roles`` names at other places."""
        key = (value, tuple(sorted(roles.items())))
        if key not in self._made:
            self._made[key] = self._make(value, roles)
        return self._made[key]

    def roles(self, value: Value, where: Where) -> dict[int, Where]:
        """The axes of tokens of a value, all of them at the same places."""
        return {axis: where for axis, dim in enumerate(value.type.shape) if self._counts(dim, value)}

    def _counts(self, dim: Dim, value: Value) -> bool:
        """Whether a size is that of the tokens. Raises Stuck for one that only depends on it."""
        if dim is self.tokens:
            return True
        if not dim.symbols.isdisjoint(self.tokens.symbols):
            raise Stuck(f"it has {dim} elements along an axis", value.node)
        return False

    def _make(self, value: Value, roles: Roles) -> Placed:
        node = value.node
        if value in self._positions:
            place = self._place(roles[1])
            return Placed(self._op("unsqueeze", self._cast(place.value, value), axis=(int(place.rows),)), place.rows)
        if value in self._masks:
            shape = (const(1), self._size(roles[1]))
            return Placed(self._op("full", shape=shape, value=1, dtype=value.type.dtype), False)
        if node is None:
            return Placed(value, False)
        maker = _MAKERS.get(node.op.qualified) or _MAKERS.get(node.op.family) or Places._mixing
        try:
            return maker(self, node, roles)
        except Stuck:
            line = self._known.line(value) if len(roles) == 1 else None
            if line is None:
                raise
            return self._on_line(value, roles, *line)

    def _on_line(self, value: Value, roles: Roles, first: int, step: int) -> Placed:
        """`first + step * place`."""
        ((axis, where),) = roles.items()
        shape = self._sizes(value.type.shape, {axis: where}, False)
        shape = tuple(d if i == axis else const(1) for i, d in enumerate(shape))
        if step == 0:
            return Placed(self._op("full", shape=shape, value=first, dtype=value.type.dtype), False)
        found = self._place(where)
        place, rows = found.value, found.rows
        counted = place if step == 1 else self._op("mul", place, self._builder.constant(step, i64))
        counted = counted if first == 0 else self._op("add", counted, self._builder.constant(first, i64))
        return Placed(self._op("reshape", self._cast(counted, value), shape=(self.batch, *shape) if rows else shape), rows)

    # Helpers ---------------------------------------------------------------------------------------------------------

    def _op(self, name: Any, *inputs: Value | None, **attrs: Any) -> Value:
        return self._builder.op(name, *inputs, **attrs)

    def _cast(self, value: Value, like: Value) -> Value:
        return value if value.type.dtype == like.type.dtype else self._op("cast", value, dtype=like.type.dtype)

    def _place(self, where: Where) -> Placed:
        if where is Where.NEW:
            return Placed(self._new, True)
        return Placed(self._op("iota", n=self.slots), False) if self._stands is None else Placed(self._stands, True)

    def _size(self, where: Where) -> Dim:
        return self.tokens if where is Where.NEW else self.slots

    def _sizes(self, shape: Any, roles: Roles, rows: bool) -> tuple[Dim, ...]:
        """A shape at other places: nothing that depends on places alone differs between rows, but for the axis in front."""
        sizes = [
            self._size(roles[i]) if i in roles else const(1) if as_dim(d) is self.batch else as_dim(d)
            for i, d in enumerate(shape)
        ]
        return (self.batch, *sizes) if rows else tuple(sizes)

    def _aligned(self, node: Node, roles: Roles, values: list[Value]) -> list[Placed]:
        """Operands that broadcast to the result of ``node``; those with rows get as many axes behind them as it has."""
        rank = node.output.type.rank
        placed = []
        for value in values:
            shift = rank - value.type.rank
            own = {
                axis: roles[axis + shift]
                for axis, dim in enumerate(value.type.shape)
                if self._counts(dim, value) and axis + shift in roles
            }
            placed.append(self.at(value, own))
        if not any(p.rows for p in placed):
            return placed
        found = []
        for value, p in zip(values, placed, strict=True):
            axes = tuple(range(1, 1 + rank - value.type.rank))
            found.append(Placed(self._op("unsqueeze", p.value, axis=axes), True) if p.rows and axes else p)
        return found

    def _elementwise(self, node: Node, roles: Roles) -> Placed:
        given = self._aligned(node, roles, _given(node))
        return Placed(self._op(node.op, *(p.value for p in given), **node.attrs), any(p.rows for p in given))

    def _matmul(self, node: Node, roles: Roles) -> Placed:
        a, b = _given(node)
        rank = node.output.type.rank
        if self._counts(a.type.shape[-1], a):
            raise Stuck("it is a sum over tokens", node)
        first = self.at(a, {axis: roles[axis + rank - a.type.rank] for axis in self.roles(a, Where.NEW)})
        second = self.at(b, {axis: roles[axis + rank - b.type.rank] for axis in self.roles(b, Where.NEW)})
        values = []
        for value, p in ((a, first), (b, second)):
            axes = tuple(range(1, 1 + rank - value.type.rank))
            values.append(self._op("unsqueeze", p.value, axis=axes) if p.rows and axes else p.value)
        return Placed(self._op("matmul", *values), first.rows or second.rows)

    def _einsum(self, node: Node, roles: Roles) -> Placed:
        terms, out = parse_einsum(node.attrs["equation"])
        chosen = {out[axis]: where for axis, where in roles.items()}
        placed = []
        for value, names in zip(_given(node), terms, strict=True):
            own = {axis: chosen.get(names[axis]) for axis in self.roles(value, Where.NEW)}
            if None in own.values():
                raise Stuck("it is a sum over tokens", node)
            placed.append(self.at(value, {axis: where for axis, where in own.items() if where is not None}))
        free = next(name for name in ("row", "row_", "row__") if all(name not in names for names in terms))
        sides = [" ".join([free, *names] if p.rows else names) for names, p in zip(terms, placed, strict=True)]
        rows = any(p.rows for p in placed)
        equation = f"{', '.join(sides)} -> {' '.join([free, *out] if rows else out)}"
        return Placed(self._op("einsum", *(p.value for p in placed), equation=equation), rows)

    def _reduction(self, node: Node, roles: Roles) -> Placed:
        (x,) = _given(node)
        axes = node.attrs["axis"] if isinstance(node.attrs["axis"], tuple) else (node.attrs["axis"],)
        left = [i for i in range(x.type.rank) if i not in axes or node.attrs.get("keepdims")]
        if any(self._counts(x.type.shape[i], x) for i in axes):
            raise Stuck("it reduces the axis of tokens", node)
        placed = self.at(x, {left[axis]: where for axis, where in roles.items()})
        return self._behind(node, placed, axis=tuple(i + placed.rows for i in axes))

    def _behind(self, node: Node, x: Placed, **attrs: Any) -> Placed:
        return Placed(self._op(node.op, x.value, **{**node.attrs, **attrs}), x.rows)

    def _squeeze(self, node: Node, roles: Roles) -> Placed:
        (x,) = _given(node)
        axes = node.attrs["axis"]
        left = [i for i in range(x.type.rank) if i not in axes]
        placed = self.at(x, {left[axis]: where for axis, where in roles.items()})
        return self._behind(node, placed, axis=tuple(i + placed.rows for i in axes))

    def _unsqueeze(self, node: Node, roles: Roles) -> Placed:
        (x,) = _given(node)
        axes = node.attrs["axis"]
        kept = [j for j in range(node.output.type.rank) if j not in axes]
        placed = self.at(x, {i: roles[j] for i, j in enumerate(kept) if j in roles})
        return self._behind(node, placed, axis=tuple(i + placed.rows for i in axes))

    def _transpose(self, node: Node, roles: Roles) -> Placed:
        (x,) = _given(node)
        perm = node.attrs["perm"]
        placed = self.at(x, {perm[j]: where for j, where in roles.items()})
        return self._behind(node, placed, perm=(0, *(p + 1 for p in perm)) if placed.rows else perm)

    def _reshape(self, node: Node, roles: Roles) -> Placed:
        """One that only adds and takes away axes of 1, or splits and joins none of the tokens'."""
        (x,) = _given(node)
        old, new = x.type.shape, node.output.type.shape
        pairs = _kept_sizes(old, new)
        if any(self._counts(d, x) and i not in pairs for i, d in enumerate(old)):
            raise Stuck("it splits or joins the axis of tokens", node)
        placed = self.at(x, {i: roles[j] for i, j in pairs.items() if j in roles})
        shape = self._sizes(new, roles, placed.rows)
        return Placed(self._op("reshape", placed.value, shape=shape), placed.rows)

    def _rearrange(self, node: Node, roles: Roles) -> Placed:
        """As the reshapes and the transpose that it is."""
        (x,) = _given(node)
        split, perm, final = rearrange_plan(x.type, node.attrs)
        apart, back = _kept_sizes(x.type.shape, split), _kept_sizes(final, [split[p] for p in perm])
        if any(self._counts(d, x) and i not in apart for i, d in enumerate(x.type.shape)) or any(i not in back for i in roles):
            raise Stuck("it splits or joins the axis of tokens", node)
        inner = {perm[back[i]]: where for i, where in roles.items()}
        placed = self.at(x, {i: inner[j] for i, j in apart.items() if j in inner})
        value = self._op("reshape", placed.value, shape=self._sizes(split, inner, placed.rows))
        order = (0, *(p + 1 for p in perm)) if placed.rows else tuple(perm)
        value = self._op("transpose", value, perm=order)
        return Placed(self._op("reshape", value, shape=self._sizes(final, roles, placed.rows)), placed.rows)

    def _expand(self, node: Node, roles: Roles) -> Placed:
        (placed,) = self._aligned(node, roles, _given(node))
        return Placed(
            self._op("expand", placed.value, shape=self._sizes(node.output.type.shape, roles, placed.rows)), placed.rows
        )

    def _concat(self, node: Node, roles: Roles) -> Placed:
        axis = node.attrs["axis"]
        if axis in roles:
            raise Stuck("it puts tokens behind others", node)
        placed = [self.at(value, {i: roles[i] for i in self.roles(value, Where.NEW)}) for value in _given(node)]
        rows = any(p.rows for p in placed)
        values = []
        for p in placed:
            value = p.value
            if rows and not p.rows:
                value = self._op("expand", value, shape=(self.batch, *value.type.shape))
            values.append(value)
        return Placed(self._op("concat", *values, axis=axis + rows), rows)

    def _slice(self, node: Node, roles: Roles) -> Placed:
        (x,) = _given(node)
        axis, size = node.attrs["axis"], x.type.shape[node.attrs["axis"]]
        if axis not in roles:
            placed = self.at(x, roles)
            return self._behind(node, placed, axis=axis + placed.rows)
        start, stop = slice_bounds(node.attrs, size)
        if size is self.tokens and start == 0 and stop is self.tokens:
            return self.at(x, roles)
        told = [d for d in (start, size) if not d.symbols.isdisjoint(self.tokens.symbols)]
        if stop - start is not self.tokens or node.attrs["step"] != 1 or told:
            raise Stuck("it cuts the axis of tokens", node)
        # The first rows of a table: those at the places, as far as it goes.
        self._require(self.slots + start, size, node)
        return self._taken(x, axis, roles, start)

    def _taken(self, x: Value, axis: int, roles: Roles, start: Dim) -> Placed:
        placed = self.at(x, {i: where for i, where in roles.items() if i != axis})
        place = self._place(roles[axis])
        if not place.rows:
            stop = start + self.slots
            return Placed(self._op("slice", placed.value, axis=axis + placed.rows, start=start, stop=stop, step=1), placed.rows)
        offset = self._op("full", shape=(), value=start, dtype=i64)
        index = place.value if start == 0 else self._op("add", place.value, offset)
        value = self._op("take", placed.value, index, axis=axis + placed.rows, batch=int(placed.rows))
        return Placed(value, True) if placed.rows else self._in_front(value, axis)

    def _require(self, least: Dim, size: Dim, node: Node) -> None:
        need = Require(least, "<=", size, "a cache has no more slots than the model has learned positions", node.span)
        if need not in self.graph.requires:
            self.graph.requires.append(need)

    def _in_front(self, value: Value, axis: int) -> Placed:
        """What has its rows at ``axis``, with these in front."""
        rank = value.type.rank
        perm = (axis, *(i for i in range(rank) if i != axis))
        return Placed(value if axis == 0 else self._op("transpose", value, perm=perm), True)

    def _take(self, node: Node, roles: Roles) -> Placed:
        x, index = _given(node)
        axis = node.attrs["axis"]
        if node.attrs["batch"] or self.roles(x, Where.NEW):
            raise Stuck("it picks from what depends on places", node)
        size = x.type.shape[axis]
        if size.value is None:
            raise Stuck("it picks from a table of unknown length", node)
        placed = self.at(index, {i: roles[axis + i] for i in self.roles(index, Where.NEW)})
        self._require(self.slots, size, node)
        value = self._op("take", x, placed.value, axis=axis, batch=0)
        return self._in_front(value, axis) if placed.rows else Placed(value, False)

    def _iota(self, node: Node, roles: Roles) -> Placed:
        if not roles:
            return Placed(node.output, False)
        return self._place(roles[0])

    def _full(self, node: Node, roles: Roles) -> Placed:
        value = node.attrs["value"]
        if isinstance(value, Dim) and not value.symbols.isdisjoint(self.tokens.symbols):
            raise Stuck("it counts the tokens", node)
        if not node.output.type.rank:
            return Placed(node.output, False)
        return Placed(
            self._op("full", **{**node.attrs, "shape": self._sizes(node.attrs["shape"], roles, False)}), False
        )

    def _constant(self, node: Node, roles: Roles) -> Placed:
        return Placed(node.output, False)

    def _mixing(self, node: Node, roles: Roles) -> Placed:
        raise Stuck(f"`{node.op.name}` computes it from other places too", node)


def _given(node: Node) -> list[Value]:
    return [v for v in node.inputs if v is not None]


def _kept_sizes(old: Any, new: Any) -> dict[int, int]:
    """Axis -> axis of those that a reshape leaves alone: from the left and from the right, over axes of 1."""
    pairs: dict[int, int] = {}
    for step in (1, -1):
        a, b = list(enumerate(old))[::step], list(enumerate(new))[::step]
        i = j = 0
        while i < len(a) and j < len(b):
            if a[i][1] is b[j][1]:
                pairs.setdefault(a[i][0], b[j][0])
                i, j = i + 1, j + 1
            elif a[i][1] == 1:
                i += 1
            elif b[j][1] == 1:
                j += 1
            else:
                break
    return pairs


_MAKERS = {
    "elementwise": Places._elementwise, "gradient": Places._elementwise, "reduction": Places._reduction,
    "matmul": Places._matmul, "einsum": Places._einsum, "squeeze": Places._squeeze, "unsqueeze": Places._unsqueeze,
    "transpose": Places._transpose, "reshape": Places._reshape, "rearrange": Places._rearrange, "expand": Places._expand,
    "concat": Places._concat, "slice": Places._slice, "take": Places._take, "iota": Places._iota, "full": Places._full,
    "constant": Places._constant,
}  # fmt: skip
