"""Which axes are the same axis: a union-find over the axes of all values of a graph.

Two axes fall together when an op walks them in step: `x + y` joins the axes of x, y and the sum; `einsum` joins axes of
one name. Sizes alone could not tell: 197 tokens and 197 classes are different axes, queries and keys of one x the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..dims.dim import Dim
from ..graph import Graph, Node, Value
from ..keys import instance_key
from ..op import Composite, Op, Trait, has
from ..ops.contraction import parse_einsum
from ..ops.shape import parse_rearrange
from ..signature import Pattern, Signature

Axis = tuple[Value, int]


@dataclass(frozen=True)
class Cut:
    """``result`` is ``source`` without its first ``start`` elements: `x[:, 1:]`."""

    source: Axis
    result: Axis
    start: int


class Axes:
    """The classes of a graph's axes. Ask with :meth:`find`; nodes added later are joined by :meth:`add`."""

    def __init__(self, graph: Graph | None = None) -> None:
        self.cuts: list[Cut] = []
        self._parent: dict[Axis, Axis] = {}
        self._bodies: dict[Any, list[list[tuple[str, int, int]]]] = {}
        if graph is not None:
            self.add_all(graph.nodes())

    def find(self, value: Value, axis: int) -> Axis:
        """The representative of the class of one axis."""
        node = root = (value, axis)
        parent = self._parent
        while (up := parent.get(root, root)) is not root:
            root = up
        while node is not root:
            parent[node], node = root, parent.get(node, root)
        return root

    def join(self, a: Axis, b: Axis) -> None:
        """Make two axes one class."""
        x, y = self.find(*a), self.find(*b)
        if x != y:
            self._parent[y] = x

    def add_all(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.add(node)

    def add(self, node: Node) -> None:
        """Join the axes that ``node`` walks in step."""
        if isinstance(node.op, Composite):
            self._composite(node)
            return
        rule = _RULES.get(node.op.qualified) or _FAMILIES.get(node.op.family)
        if rule is not None:
            rule(self, node)
        elif has(node, Trait.AXIS):
            _but_axis(self, node)
        elif isinstance(node.op, Op) and node.op.rule is None:
            _by_names(self, node, node.op.signature)

    def link(self, v: Value | None, a: int, w: Value, b: int) -> None:
        """Join two axes if they have one size, and that is not 1: a broadcast axis belongs to no class."""
        if v is not None and v.type.shape[a] is w.type.shape[b] and v.type.shape[a] != 1:
            self.join((v, a), (w, b))

    def _composite(self, node: Node) -> None:
        """By its body, whose classes are worked out once for each kind of call."""
        key = instance_key(node)
        classes = self._bodies.get(key)
        if classes is None:
            assert isinstance(node.op, Composite)
            body = node.op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
            classes = self._bodies[key] = self._interface(body)
        given = [v for v in node.inputs if v is not None]
        for members in classes:
            side, index, axis = members[0]
            first = (given if side == "in" else node.outputs)[index]
            for side, index, axis_b in members[1:]:
                self.link(first, axis, (given if side == "in" else node.outputs)[index], axis_b)

    def _interface(self, body: Graph) -> list[list[tuple[str, int, int]]]:
        inner = Axes(body)
        groups: dict[Axis, list[tuple[str, int, int]]] = {}
        for side, values in (("in", list(body.inputs)), ("out", body.outputs)):
            for index, value in enumerate(values):
                for axis in range(value.type.rank):
                    groups.setdefault(inner.find(value, axis), []).append((side, index, axis))
        return [members for members in groups.values() if len(members) > 1]


# Rules, for a family, a trait or an op -----------------------------------------------------------------------------------


def _same_shape(axes: Axes, value: Value | None, out: Value, skip: Iterable[int] = ()) -> None:
    if value is not None:
        for i in range(min(value.type.rank, out.type.rank)):
            if i not in skip:
                axes.link(value, i, out, i)


def _by_names(axes: Axes, node: Node, signature: Signature) -> None:
    """What the signature calls by one name is one axis."""
    first: dict[str, Axis] = {}
    patterns = [*(operand.type for operand in signature.operands), *(result.type for result in signature.results)]
    for value, pattern in zip((*node.inputs, *node.outputs), patterns, strict=True):
        if value is None or not isinstance(pattern, Pattern) or ... in pattern.shape:
            continue
        for axis, dim in enumerate(pattern.shape):
            if isinstance(dim, Dim) and dim.symbol is not None:
                axes.link(*first.setdefault(dim.symbol, (value, axis)), value, axis)


def _broadcast(axes: Axes, node: Node) -> None:
    out = node.output
    for value in node.inputs:
        if value is not None:
            offset = out.type.rank - value.type.rank
            for i in range(value.type.rank):
                axes.link(value, i, out, i + offset)


def _reshape(axes: Axes, node: Node) -> None:
    x, out = node.inputs[0], node.output
    assert x is not None
    a, b = x.type.shape, out.type.shape
    i = 0
    while i < min(len(a), len(b)) and a[i] is b[i]:
        axes.link(x, i, out, i)
        i += 1
    j = 1
    while j <= min(len(a), len(b)) - i and a[-j] is b[-j]:
        axes.link(x, len(a) - j, out, len(b) - j)
        j += 1


def _rearrange(axes: Axes, node: Node) -> None:
    for i, j in rearranged(node):
        axes.link(node.inputs[0], i, node.output, j)


def rearranged(node: Node) -> list[tuple[int, int]]:
    """(axis, axis of the result) for each axis that a rearrange moves whole."""
    parsed = parse_rearrange(node.attrs["pattern"])
    assert parsed is not None
    left, right = parsed
    places = {group: j for j, group in enumerate(right) if len(group) == 1}
    return [(i, places[group]) for i, group in enumerate(left) if group in places]


def _transpose(axes: Axes, node: Node) -> None:
    for j, i in enumerate(node.attrs["perm"]):
        axes.link(node.inputs[0], i, node.output, j)


def _kept(axes: Axes, node: Node) -> None:
    for i, j in kept_axes(node):
        axes.link(node.inputs[0], i, node.output, j)


def kept_axes(node: Node) -> list[tuple[int, int]]:
    """(axis, axis of the result) for the axes that a reduction, squeeze or unsqueeze leaves."""
    assert node.inputs[0] is not None
    rank, given = node.inputs[0].type.rank, node.attrs["axis"]
    gone = set(given) if isinstance(given, tuple) else {given}
    if node.op.qualified == "unsqueeze":
        return list(enumerate(j for j in range(node.output.type.rank) if j not in gone))
    if node.attrs.get("keepdims"):
        return [(i, i) for i in range(rank) if i not in gone]
    return [(i, j) for j, i in enumerate(i for i in range(rank) if i not in gone)]


def _but_axis(axes: Axes, node: Node) -> None:
    """Every axis but the one named."""
    for value in node.inputs:
        for out in node.outputs:
            _same_shape(axes, value, out, skip=(node.attrs["axis"],))


def _slice(axes: Axes, node: Node) -> None:
    _but_axis(axes, node)
    start, axis = node.attrs["start"], node.attrs["axis"]
    if node.attrs["stop"] is None and node.attrs["step"] == 1 and isinstance(start, int) and node.inputs[0] is not None:
        if start == 0:
            axes.link(node.inputs[0], axis, node.output, axis)
        elif start > 0:
            axes.cuts.append(Cut((node.inputs[0], axis), (node.output, axis), start))


def _compact(axes: Axes, node: Node) -> None:
    x = node.inputs[0]
    assert x is not None
    for out in node.outputs:
        _same_shape(axes, x, out, skip=(x.type.rank - 1,))


def _gather(axes: Axes, node: Node) -> None:
    x, index = node.inputs
    _same_shape(axes, x, node.output, skip=(node.attrs["axis"],))
    _same_shape(axes, index, node.output)


def _take(axes: Axes, node: Node) -> None:
    x, index = node.inputs
    assert x is not None
    assert index is not None
    axis, batch = node.attrs["axis"], node.attrs["batch"]
    picked = index.type.rank - batch
    for i in range(x.type.rank):
        if i != axis:
            axes.link(x, i, node.output, i if i < axis else i + picked - 1)
    for j in range(index.type.rank):
        axes.link(index, j, node.output, j if j < batch else axis + j - batch)


def _scatter(axes: Axes, node: Node) -> None:
    x, index, updates = node.inputs
    assert index is not None
    assert updates is not None
    _same_shape(axes, x, node.output)
    _same_shape(axes, index, updates)
    last = index.type.rank - 1
    for i in range(updates.type.rank):
        if i != last:
            axes.link(updates, i, node.output, i)


def _segment(axes: Axes, node: Node) -> None:
    x, ids = node.inputs
    assert ids is not None
    last = ids.type.rank - 1
    _same_shape(axes, ids, node.output, skip=(last,))
    _same_shape(axes, x, node.output, skip=() if node.op.qualified == "segment_softmax" else (last,))
    if x is not None:
        _same_shape(axes, ids, x)


def _einsum(axes: Axes, node: Node) -> None:
    terms, out = parse_einsum(node.attrs["equation"])
    first: dict[str, Axis] = {}
    for value, names in (*zip(node.inputs, terms, strict=True), (node.output, out)):
        for axis, name in enumerate(names):
            assert value is not None
            seen = first.setdefault(name, (value, axis))
            axes.link(*seen, value, axis)


def _matmul(axes: Axes, node: Node) -> None:
    a, b = node.inputs
    assert a is not None
    assert b is not None
    out = node.output
    axes.link(a, a.type.rank - 2, out, out.type.rank - 2)
    axes.link(b, b.type.rank - 1, out, out.type.rank - 1)
    axes.link(a, a.type.rank - 1, b, b.type.rank - 2)
    for value in (a, b):
        offset = out.type.rank - value.type.rank
        for i in range(value.type.rank - 2):
            axes.link(value, i, out, i + offset)


def _conv(axes: Axes, node: Node) -> None:
    x, w = node.inputs
    axes.link(x, 0, node.output, 0)
    axes.link(w, 0, node.output, 1)


def _regions(axes: Axes, node: Node) -> None:
    """What goes into a region is what it takes, and what it returns is a result; a loop's results are its next operands."""
    name = node.op.qualified
    operands = node.inputs[1:] if name == "cond" else node.inputs
    for region in node.bodies:
        axes.add_all(region.nodes())
        for outer, inner in zip(operands, region.inputs[name == "fold" :], strict=True):
            _same_shape(axes, outer, inner)
    carried: int = node.attrs["carried"]
    for region in node.bodies if name == "cond" else (node.attrs["body"],):
        for result, final in zip(region.outputs[:carried], node.outputs, strict=False):
            _same_shape(axes, result, final)
        for result, rows in zip(region.outputs[carried:], node.outputs[carried:], strict=True):
            for axis in range(result.type.rank):
                axes.link(result, axis, rows, axis + 1)
    if name != "cond":
        for start, final in zip(operands[:carried], node.outputs, strict=False):
            _same_shape(axes, start, final)


def _scan(axes: Axes, node: Node) -> None:
    """A running result stands at the place up to which it runs."""
    for value in node.inputs:
        _same_shape(axes, value, node.output)


# What a whole family does, and the ops that are like no other.
_FAMILIES = {
    "elementwise": _broadcast, "gradient": _broadcast, "reduction": _kept, "scan": _scan, "segment": _segment,
}  # fmt: skip
_RULES = {
    "reshape": _reshape, "rearrange": _rearrange, "transpose": _transpose, "expand": _broadcast,
    "squeeze": _kept, "unsqueeze": _kept, "slice": _slice, "compact": _compact, "gather": _gather, "take": _take,
    **dict.fromkeys(("scatter_set", "scatter_add", "scatter_min", "scatter_max"), _scatter),
    "einsum": _einsum, "matmul": _matmul, "conv": _conv,
    **dict.fromkeys(("fold", "cond", "while"), _regions),
}  # fmt: skip
