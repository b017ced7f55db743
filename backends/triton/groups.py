"""Groups of elementwise ops and reductions over the last axis, each of which becomes one generated kernel.

A group grows in one walk over the graph: a node joins the open groups that its operands come from, a reader outside closes a group,
and the group stands at the place of its last node. So no group ever waits for what waits for it. What is small and cheap (a mask's
positions, a weight's cast) is computed again in every group that reads it, rather than stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value
from ...kernels.frame import ROW, SHORT, WHOLE, WIDEST, Places, canonical
from .write import ELEMENTWISE, REDUCTIONS, VIEWS, core, exponent, held_dtypes, operand_places

# More than this makes no better kernel: registers are few.
MOST_NODES, MOST_READS = 48, 16
# What costs about as much as loading its result would.
LIGHT = frozenset({
    "add", "sub", "mul", "neg", "abs", "minimum", "maximum", "floor", "ceil", "where", "cast", "is_nan", "eq", "ne", "lt", "le", "gt", "ge",
    "logical_and", "logical_or", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not", "left_shift", "right_shift",
    "stop_gradient",
})  # fmt: skip
# Made anew wherever it is read.
MAKERS = frozenset({"constant", "full", "iota"})
_DEEPEST = 6


@dataclass(eq=False)
class Group:
    """Nodes that one kernel computes.

    Args:
        space: the frame.
        members: what each node's result has of the frame.
        again: nodes outside that are computed again within.
        joins: the ``concat`` nodes whose parts it stores in place.
    """

    space: tuple[Dim, ...]
    members: dict[Node, int] = field(default_factory=dict)
    again: set[Node] = field(default_factory=set)
    joins: dict[Node, None] = field(default_factory=dict)
    reads: set[Value] = field(default_factory=set)
    open: bool = True

    def nodes(self) -> list[Node]:
        return [*self.members, *self.joins]


@dataclass
class _Seat:
    """Where a node could sit: the frame, what it would have of it, whom it would sit with, and what it would read."""

    space: tuple[Dim, ...]
    level: int
    groups: dict[Group, None] = field(default_factory=dict)
    leaves: set[Value] = field(default_factory=set)
    again: set[Node] = field(default_factory=set)


def fusable(node: Node) -> bool:
    """Whether a kernel that is generated can compute a core op."""
    name = core(node)
    types = [v.type for v in (*node.inputs, *node.outputs) if v is not None]
    if any(t.dtype.name not in held_dtypes for t in types):
        return False
    if name in REDUCTIONS:
        axis, last = node.attrs["axis"], types[0].rank - 1
        width = types[0].shape[-1].value if types[0].shape else None
        return axis == (last,) and (width is None or width <= WIDEST)
    if name in ("floordiv", "mod"):
        # PyTorch says where an integer is divided by 0; a kernel would go on with some number.
        divisor = node.inputs[1]
        return divisor is not None and divisor.node is not None and makes(divisor.node) and divisor.node.attrs.get("value", 0) != 0
    return name in ELEMENTWISE or name == "cast" or (name == "pow" and exponent(node) is not None)


def grow(graph: Graph) -> list[tuple[Group, list[Node]]]:
    """The groups of a graph whose composites are those that stay; each with its nodes in their order."""
    grower = _Grower()
    for node in graph.nodes():
        grower.visit(node)
    groups = dict.fromkeys(grower.group.values())
    return [(group, sorted(group.nodes(), key=grower.order.__getitem__)) for group in groups]


class _Grower:
    def __init__(self) -> None:
        self.group: dict[Node, Group] = {}
        self.order: dict[Node, int] = {}

    def visit(self, node: Node) -> None:
        self.order[node] = len(self.order)
        if core(node) in MAKERS or _is_part(node):
            return
        seat = self._best_seat(node)
        if seat is None and core(node) == "concat" and self._join(node):
            return
        leaves = {v for v in node.inputs if v is not None} if seat is None else seat.leaves
        if seat is None:
            # What a part of a `concat` shows is read here.
            leaves |= {v.node.inputs[0] for v in leaves if v.node is not None and _is_part(v.node)}  # type: ignore[misc]
        for value in leaves:
            holder = self._holder(value)
            if holder is not None and (seat is None or holder not in seat.groups):
                holder.open = False
        if seat is not None:
            self._sit(node, seat)

    def _holder(self, value: Value) -> Group | None:
        """The open group that stores a value if it is read."""
        found = self.group.get(value.node) if value.node is not None else None
        return found if found is not None and found.open else None

    def _open(self, value: Value) -> Group | None:
        """The open group that a reader of a value may join."""
        found = self._holder(value)
        return found if found is not None and value.node in found.members else None

    def _best_seat(self, node: Node) -> _Seat | None:
        """None for what no group computes, and for a view whose operand is none of a group's."""
        view = core(node) in VIEWS
        if not view and not fusable(node):
            return None
        shape = node.output.type.shape
        if core(node) in REDUCTIONS:
            x = node.inputs[0]
            assert x is not None
            seats = [(x.type.shape, ROW if node.attrs["keepdims"] else SHORT)]
        else:
            near = [group for v in node.inputs if v is not None and (group := self._open(v)) is not None]
            seats = [(shape, WHOLE)] if shape else []
            for group in near:
                seats += [(group.space, level) for level, part in ((ROW, (*group.space[:-1], 1)), (SHORT, group.space[:-1])) if shape == part]
        found = [self._seat(node, space, level) for space, level in seats]
        for seat in found:
            if seat.groups:
                return seat
        return found[0] if found and not view else None

    def _seat(self, node: Node, space: tuple[Dim, ...], level: int) -> _Seat:
        """The seat in a frame, with those that may join there: whoever is read in another place than where it lies may not."""
        apart: set[Group] = set()
        while True:
            seat = _Seat(space, level)
            for value, places in _below(node, canonical(level, len(space)), len(space)):
                self._reach(value, places, seat, apart, 0)
            clash = {holder for v in seat.leaves if (holder := self._holder(v)) in seat.groups}
            if not clash and self._fits(seat):
                return seat
            apart |= clash or set(seat.groups)  # type: ignore[arg-type]

    def _fits(self, seat: _Seat) -> bool:
        nodes = sum(len(g.members) + len(g.again) for g in seat.groups) + len(seat.again)
        reads = len(set(seat.leaves).union(*(g.reads for g in seat.groups)))
        return not seat.groups or (nodes < MOST_NODES and reads <= MOST_READS)

    def _reach(self, value: Value, places: Places, seat: _Seat, apart: set[Group], depth: int) -> None:
        """File an operand that lies at these places: what joins, what is computed again, what is read."""
        holder, rank = self._open(value), len(seat.space)
        if holder is not None and holder not in apart and value.node is not None:
            level = holder.members[value.node]
            if holder.space == seat.space and places == canonical(level, rank):
                seat.groups[holder] = None
                return
            if _widens(holder, seat.space) and places == canonical(ROW, rank):
                seat.groups[holder] = None
                return
        if _again(value, places, rank, depth):
            node = value.node
            assert node is not None
            seat.again.add(node)
            for inner, below in _below(node, places, rank):
                self._reach(inner, below, seat, apart, depth + 1)
        else:
            seat.leaves.add(value)

    def _sit(self, node: Node, seat: _Seat) -> None:
        group = self._merged(list(seat.groups), seat.space)
        group.members[node] = seat.level
        group.again |= seat.again
        group.reads |= seat.leaves
        self.group[node] = group

    def _merged(self, groups: list[Group], space: tuple[Dim, ...]) -> Group:
        """One group of several, in a frame."""
        whole = Group(space)
        for group in groups:
            wider = group.space != space
            whole.members |= {n: ROW if wider else level for n, level in group.members.items()}
            whole.joins |= group.joins
            whole.again |= group.again
            whole.reads |= group.reads
            group.open = False
        for node in whole.nodes():
            self.group[node] = whole
        return whole

    def _join(self, node: Node) -> bool:
        """Have the parts of a `concat` stored where they belong, if some are of groups of one frame."""
        parts = [part_of(v, node.attrs["axis"]) for v in node.inputs if v is not None]
        made = [(v, group) for v, _ in parts if (group := self._open(v)) is not None]
        if not made or (len({stacked for _, stacked in parts}) > 1 and any(stacked for _, stacked in parts)):
            return False
        space = made[0][1].space
        groups = dict.fromkeys(group for v, group in made if group.space == space and v.node is not None and group.members[v.node] == WHOLE)
        if not groups or any(v.type.shape != space for v, group in made if group in groups):
            return False
        if parts[0][1] and any(self._open(v) not in groups for v, _ in parts):
            return False  # of a new axis every part is made here
        seat = _Seat(space, WHOLE, groups)
        others = {holder for v, _ in parts if self._open(v) not in groups and (holder := self._holder(v)) is not None}
        if not self._fits(seat) or not others.isdisjoint(groups):
            return False
        for holder in others:
            holder.open = False
        whole = self._merged(list(groups), space)
        whole.joins[node] = None
        self.group[node] = whole
        return True


def part_of(value: Value, axis: int) -> tuple[Value, bool]:
    """What an operand of a `concat` along an axis shows, and whether it lies along that axis as one element."""
    node = value.node
    if node is not None and _is_part(node) and node.attrs["axis"] == (axis,):
        x = node.inputs[0]
        assert x is not None
        return x, True
    return value, False


def _is_part(node: Node) -> bool:
    """Whether it only puts its operand along a new axis of a `concat`."""
    return core(node) == "unsqueeze" and bool(node.output.uses) and all(
        user.op is not None and core(user) == "concat" and (user.attrs["axis"],) == node.attrs["axis"] for user in node.output.users
    )  # fmt: skip


def _widens(group: Group, space: tuple[Dim, ...]) -> bool:
    """Whether what a group computes may be one element a row of a wider frame."""
    narrow = group.space == (*space[:-1], 1) and space[-1] != 1
    return narrow and not group.joins and all(core(n) not in REDUCTIONS and level == WHOLE for n, level in group.members.items())


def _again(value: Value, places: Places, rank: int, depth: int) -> bool:
    """Whether a value is computed again by whoever reads it there."""
    node = value.node
    if node is None or len([p for p in places if p is not None]) == rank or depth > _DEEPEST:
        return makes(node) if node is not None else False
    return makes(node) or (core(node) in LIGHT and fusable(node)) or (core(node) in VIEWS and _computes(node))


def makes(node: Node) -> bool:
    """Whether a node's result is a number or a count, which costs nothing to make."""
    if core(node) == "iota":
        return node.output.type.dtype.name in held_dtypes
    return core(node) in MAKERS and not isinstance(node.attrs["value"], tuple) and node.output.type.dtype.name in held_dtypes


def _computes(node: Node) -> bool:
    """Whether there is more than a tensor under views, which PyTorch reads in place."""
    while core(node) in VIEWS:
        x = node.inputs[0]
        if x is None or x.node is None:
            return False
        node = x.node
    return makes(node) or (core(node) in LIGHT and fusable(node))


def _below(node: Node, places: Places, rank: int) -> Iterator[tuple[Value, Places]]:
    """The operands of a node whose result lies at these places, and where they lie."""
    given = [v for v in node.inputs if v is not None]
    if core(node) in REDUCTIONS:
        yield from ((v, canonical(WHOLE, rank)) for v in given)
    elif core(node) not in MAKERS:
        yield from zip(given, operand_places(node, places) or [], strict=True)
