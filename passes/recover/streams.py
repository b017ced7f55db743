"""Streams with tokens in front of the batch, [T, B, D], brought to [B, T, D]: the same network in one layout, whoever wrote it."""

from __future__ import annotations

from ...ir.analysis.along import Bodies
from ...ir.analysis.axes import Axes, Axis
from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.graph import Graph, Node, Value
from ...ir.op import Composite
from ...ir.ops.shape import parse_rearrange

# Tokens and batch exchanged.
_OTHER = {0: 1, 1: 0, 2: 2}
_PERM = (1, 0, 2)


def batch_first(graph: Graph) -> int:
    """Rewrite what lies between attentions on features [B, T, D]; how many values there were in the other layout.

    before: `x = transpose(x, perm=[1, 0, 2])   x = x + affine(…, …)                         # [T, B, D]`
    after:  `x = x + affine(…, …)   y = transpose(x, perm=[1, 0, 2])   # where somebody else reads it`
    """
    axes = Axes(graph)
    streams: set[tuple[Axis, Axis]] = set()
    for node in graph.nodes():
        if node.op.qualified == ATTENTION:
            q, k = node.inputs[:2]
            streams |= {(axes.find(v, 2), axes.find(v, 0)) for v in (q, k) if v is not None}
    first = {
        v
        for node in graph.nodes()
        for v in (*node.inputs, *node.outputs)
        if v is not None and v.type.rank == 3 and (axes.find(v, 0), axes.find(v, 1)) in streams
    }
    if not any(node.op.qualified == "add" and node.output in first for node in graph.nodes()):
        return 0
    layout = _Layout(graph, first)
    for node in list(graph.nodes()):
        layout.visit(node)
    for i, value in enumerate(graph.outputs):
        if value in first:
            graph.end.set_input(i, layout.back(value))
    return len(first)


class _Layout:
    """Values [T, B, D] of a graph and their twins [B, T, D]."""

    def __init__(self, graph: Graph, first: set[Value]) -> None:
        self.graph, self.first = graph, first
        self._twins: dict[Value, Value] = {}
        self._backs: dict[Value, Value] = {}
        self._bodies = Bodies()

    def visit(self, node: Node) -> None:
        """Let a node make, or read, twins."""
        reads = [v for v in node.inputs if v is not None and v in self.first]
        makes = [v for v in node.outputs if v in self.first]
        if not reads and not makes:
            return
        builder = Builder(self.graph).before(node)
        builder.span, builder.scope = node.span, node.scope
        if reads and len(makes) == len(node.outputs) and self._walks(node):
            operands: list[Value | None] = [v and self._operand(v, node, builder) for v in node.inputs]
            for value, made in zip(node.outputs, builder.multi(node.op, *operands, **node.attrs), strict=True):
                made.name = value.name
                self._twins[value] = made
            return
        if reads and node.op.qualified in ("transpose", "rearrange"):
            whole = self._moved(node, reads[0], builder)
            if node.output in self.first:
                self._twins[node.output] = self._swapped(whole, builder)
            else:
                whole.name = whole.name or node.output.name
                node.output.replace_uses(whole)
            return
        for i, operand in enumerate(node.inputs):
            if operand is not None and operand in self.first:
                node.set_input(i, self.back(operand, builder))
        for value in makes:
            self._twins[value] = self._swapped(value, Builder(self.graph).before(node.next))

    def _walks(self, node: Node) -> bool:
        """Whether a node takes tokens and rows one by one."""
        if isinstance(node.op, Composite):
            types = [None if v is None else v.type for v in node.inputs]
            return self._bodies.each(node, types, lambda v: (0, 1) if v in self.first else ())
        return node.op.family == "elementwise"

    def _operand(self, value: Value, node: Node, builder: Builder) -> Value:
        if value in self.first:
            return self._twin(value)
        if isinstance(node.op, Composite) or value.type.rank < 2:
            return value
        if value.type.rank == 2:
            return value if value.type.shape[0] == 1 else builder.op("unsqueeze", value, axis=(1,))
        same = value.type.shape[0] == value.type.shape[1] == 1
        return value if same else builder.op("transpose", value, perm=_PERM)

    def _moved(self, node: Node, value: Value, builder: Builder) -> Value:
        """A transpose or rearrange of a value, made of its twin."""
        twin = self._twin(value)
        if node.op.qualified == "transpose":
            perm = tuple(_OTHER[axis] for axis in node.attrs["perm"])
            return twin if perm == (0, 1, 2) else builder.op("transpose", twin, perm=perm)
        return _rearranged(node, twin, "left", builder)

    def _swapped(self, value: Value, builder: Builder) -> Value:
        """[B, T, D] of a value [T, B, D] that something else made."""
        node = value.node
        if node is not None and node.op is not None and node.op.qualified == "transpose":
            perm = tuple(node.attrs["perm"][axis] for axis in _PERM)
            source = node.inputs[0]
            assert source is not None
            return source if perm == (0, 1, 2) else builder.op("transpose", source, perm=perm)
        if node is not None and node.op is not None and node.op.qualified == "rearrange":
            source = node.inputs[0]
            assert source is not None
            return _rearranged(node, source, "right", builder)
        return builder.op("transpose", value, perm=_PERM)

    def _twin(self, value: Value) -> Value:
        if value not in self._twins:
            # An input of the graph, or a parameter.
            builder = Builder(self.graph).before(next(iter(self.graph.nodes())))
            self._twins[value] = builder.op("transpose", value, perm=_PERM)
        return self._twins[value]

    def back(self, value: Value, builder: Builder | None = None) -> Value:
        """[T, B, D] again, for what asks for nothing else."""
        twin = self._twin(value)
        if twin.node is not None and twin.node.op.qualified == "transpose" and twin.node.inputs[0] is value:
            return value
        if value not in self._backs:
            behind = Builder(self.graph) if twin.node is None else Builder(self.graph).before(twin.node.next)
            self._backs[value] = behind.op("transpose", twin, perm=_PERM)
            self._backs[value].name = value.name
        return self._backs[value]


def _rearranged(node: Node, source: Value, side: str, builder: Builder) -> Value:
    """A rearrange whose first two axes on one side are exchanged."""
    parsed = parse_rearrange(node.attrs["pattern"])
    assert parsed is not None
    left, right = (list(groups) for groups in parsed)
    swapped = left if side == "left" else right
    swapped[0], swapped[1] = swapped[1], swapped[0]
    pattern = " -> ".join(" ".join(map(_word, groups)) for groups in (left, right))
    return builder.op("rearrange", source, pattern=pattern, axes=node.attrs["axes"])


def _word(group: tuple[str, ...]) -> str:
    return "1" if not group else group[0] if len(group) == 1 else f"({' '.join(group)})"
