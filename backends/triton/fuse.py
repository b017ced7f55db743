"""A graph for the Triton backend: what no kernel or call of PyTorch's claims is inlined, and groups of it are nodes of their own.

Such a node is a composite whose body is the group's definition, and whose declaration is how its kernel is launched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Input, Node, Output, Value, clone_node
from ...ir.inlining import inline_composites, splice
from ...ir.op import Composite
from ...ir.program import Program
from ...ir.signature import Signature
from ...kernels.frame import Joined, Made, Operand, Spec
from ..lower import Plan, claimed_by
from .claims import EXCEPT, KERNELS, TABLE
from .groups import Group, fusable, grow, makes, part_of
from .reads import ROPE, find_reads
from .write import VIEWS, Text, core

# The qualified name of every group.
GROUP = "tessera.group"
_SIGNATURE = Signature("group", (), (), ())


def fused(graph: Graph) -> Graph:
    """A copy with groups in it."""
    graph = graph.clone()
    claimed = claimed_by(TABLE, EXCEPT)
    plan = Plan(claimed, whole=True)

    def inlined(node: Node) -> bool:
        return not claimed(node) or (node.op.qualified not in KERNELS and _plain(node, plan))

    inline_composites(graph, lambda node: node.op.qualified != ROPE and inlined(node))
    find_reads(graph)
    inline_composites(graph, inlined)
    _fuse(graph)
    return graph


def fused_program(program: Program) -> Program:
    """A program whose entry points are fused."""
    return replace(program, functions={name: fused(graph) for name, graph in program.functions.items()})


def specs(graph: Graph) -> Iterator[Spec]:
    """How each group of a graph, and of its regions, is launched, in their order."""
    for node in graph.nodes():
        if node.op.qualified == GROUP:
            assert isinstance(node.op, Composite)
            yield node.op.decl
        for region in node.bodies:
            yield from specs(region)


def _plain(node: Node, plan: Plan) -> bool:
    """Whether a composite is made of what groups compute, so that a kernel of ours takes it with what is around it."""
    return all(
        _plain(inner, plan) if isinstance(inner.op, Composite) else fusable(inner) or makes(inner) or core(inner) in VIEWS
        for inner in plan.live(plan.body(node))
    )


def _fuse(graph: Graph) -> None:
    for node in graph.nodes():
        for region in node.bodies:
            _fuse(region)
        if core(node) == "concat":
            _without_nothing(node)
    _without_unread(graph)
    groups = grow(graph)
    last = {nodes[-1]: group for group, nodes in groups}
    within = {node for _, nodes in groups for node in nodes}
    read = set(graph.outputs)
    bodies: list[tuple[Node, _Body]] = []
    # From the end on: by then it is known who reads what a group computes. Nothing is changed before all bodies are made of it.
    for node in graph.reversed_nodes():
        if node in last:
            body = _Body(last[node], read)
            bodies.append((node, body))
            read.update(body.read)
        elif node not in within and not read.isdisjoint(node.outputs):
            read.update(v for v in node.inputs if v is not None)
    for node, body in bodies:
        if body.made:
            _place(node, body)
    _without_unread(graph)


def _without_unread(graph: Graph) -> None:
    for node in graph.reversed_nodes():
        if not any(v.uses for v in node.outputs):
            graph.remove(node)


def _without_nothing(node: Node) -> None:
    """Takes operands without elements out of a `concat`."""
    graph, axis = node.graph, node.attrs["axis"]
    assert graph is not None
    given = [v for v in node.inputs if v is not None]
    kept = [v for v in given if v.type.shape[axis] != 0] or given[:1]
    if len(kept) == len(given) > 1:
        return
    whole = kept[0] if len(kept) == 1 else Builder(graph).before(node).op("concat", *kept, axis=axis)
    whole.name = whole.name or node.output.name
    node.output.replace_uses(whole)
    graph.remove(node)


def _place(last: Node, body: _Body) -> None:
    """Put one node behind a group's last one, which those who read the group then read; plain ones where it is not worth a kernel."""
    graph = last.graph
    assert graph is not None
    spec, numbers = body.spec()
    op = Composite(_SIGNATURE, "tessera", "", spec, lambda types, attrs: body.graph)
    node = Node(op, body.read, {"sizes": body.group.space, "numbers": numbers}, last.span, last.scope)
    for i, old in enumerate(body.made):
        new = Value(old.type, old.name, node, i)
        node.outputs.append(new)
        old.replace_uses(new, skip=body.group.nodes())
    graph.insert_after(last, node)
    worth = sum(core(n) != "concat" and fusable(n) and not _idle(n) for n in body.graph.nodes())
    if not body.read or worth + len(body.group.joins) < 2:
        splice(node, body.graph)


def _idle(node: Node) -> bool:
    """Whether it computes nothing."""
    x = node.inputs[0]
    return node.op.family == "gradient" or (core(node) == "cast" and x is not None and x.type == node.output.type)


class _Body:
    """The definition of a group.

    Args:
        read: what is read outside of groups, or by groups behind it.

    Attributes:
        made: the results: values of the group that are read.
        read: the values outside that its inputs are.
    """

    def __init__(self, group: Group, read: set[Value]) -> None:
        self.group = group
        self.graph = Graph("group")
        self.made = [v for node in group.nodes() for v in node.outputs if v in read]
        self.read: list[Value] = []
        self._copies: dict[Value, Value] = {}
        self._inputs: dict[Value, Value] = {}
        outputs = [self.copy(v) for v in self.made]
        self.graph.set_outputs(outputs, [Output(f"y{i}") for i in range(len(outputs))])

    def copy(self, value: Value) -> Value:
        """What a value is within: computed by the group, computed again, or an input."""
        node = value.node
        if node is None or not (node in self.group.members or node in self.group.joins or node in self.group.again):
            return self._input(value)
        if value not in self._copies:
            join = node in self.group.joins
            operands = {v: self._part(v, node) if join else self.copy(v) for v in node.inputs if v is not None}
            self.graph.append(clone_node(node, operands))
            self._copies.update((v, operands[v]) for v in node.outputs)
        return self._copies[value]

    def _part(self, value: Value, join: Node) -> Value:
        """A part of a `concat`: what the group makes of it, or what it is given."""
        inner, stacked = part_of(value, join.attrs["axis"])
        if inner.node not in self.group.members:
            return self._input(value)
        part = self.copy(inner)
        return Builder(self.graph).op("unsqueeze", part, axis=join.attrs["axis"]) if stacked else part

    def _input(self, value: Value) -> Value:
        if value not in self._inputs:
            self.read.append(value)
            self._inputs[value] = self.graph.add_input(Input(value.type, f"x{len(self.read)}"))
        return self._inputs[value]

    def spec(self) -> tuple[Spec, tuple[Dim, ...]]:
        """How it is launched, and the sizes that it computes with."""
        rank = len(self.group.space)
        levels = {self._copies[n.output]: level for n, level in self.group.members.items() if n.output in self._copies}
        text = Text(self.graph, rank, levels)
        results = tuple(self._joined(v.node, text) if v.node in self.group.joins else text.store(self._copies[v]) for v in self.made)
        plain = text.source("kernel")
        operands = tuple(Operand(index, places) for index, places in text.reads)
        stores = tuple(Made(v.type.dtype.long, levels[v]) for v in text.stores)
        facts = (rank, operands, stores, results, text.reduces, text.columns, text.indexed)
        digest = hashlib.sha256(repr((plain, facts)).encode()).hexdigest()[:8]
        words = "_".join(dict.fromkeys(core(n) for n in self.graph.nodes() if fusable(n) and not _idle(n)))
        name = f"{words[:40].rstrip('_')}_{digest}"
        return Spec(name, text.source(name), *facts), tuple(text.numbers)

    def _joined(self, node: Node, text: Text) -> Joined:
        parts, stacks = [], False
        for value in node.inputs:
            assert value is not None
            inner, stacked = part_of(value, node.attrs["axis"])
            if inner.node in self.group.members:
                parts.append(text.store(self._copies[inner]))
                stacks = stacks or stacked
            else:
                parts.append(-1 - self.read.index(value))
        return Joined(node.output.type.dtype.long, node.attrs["axis"], tuple(parts), stacks)
