"""Composites replaced by their bodies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.dims.dim import Dim, sym
from ...ir.graph import Graph, Module, Node, Require, Value, clone_node
from ...ir.keys import instance_key
from ...ir.op import Composite
from ...ir.types import TensorType
from ..engine import BrokenContract, Pass
from ..options import option
from ..report import Report


@dataclass(frozen=True)
class Inline(Pass):
    """Replaces composites by their bodies, down to core ops.

    before: `y = gelu(x)`    after: `y = x * 0.5 * (erf(x * 0.7071…) + 1)`
    """

    name = "inline"
    contract = "exact"

    only: tuple[str, ...] = option((), "the composites to inline, by name or qualified name; all when empty")
    keep: tuple[str, ...] = option((), "the composites to leave alone")

    def requires(self, module: Module) -> None:
        present = {n.op.qualified for n in module.graph.nodes() if isinstance(n.op, Composite)}
        names = present | {q.rpartition(".")[2] for q in present}
        for name in (*self.only, *self.keep):
            if name not in names:
                shown = ", ".join(sorted(present)) or "none"
                raise Diagnostic(
                    "E0714",
                    f"inline: the model has no composite `{name}`",
                    help=did_you_mean(name, names) or f"its composites are {shown}",
                )

    def run(self, module: Module) -> Report:
        return Report.of(self, inline_composites(module.graph, self._wants))

    def ensures(self, before: Module, after: Module) -> None:
        for node in after.graph.nodes():
            if isinstance(node.op, Composite) and self._wants(node.op):
                raise BrokenContract(f"{node!r} at {node.span} is still there")

    def _wants(self, op: Composite) -> bool:
        names = {op.name, op.qualified}
        return not names & set(self.keep) and (not self.only or bool(names & set(self.only)))


def inline_composites(graph: Graph, wants: Callable[[Composite], bool]) -> int:
    """Inline every composite that ``wants`` names, in bodies too; returns how many call sites of ``graph`` changed."""
    bodies: dict[Any, Graph] = {}
    count = 0
    for node in graph.nodes():
        for region in node.bodies:
            count += inline_composites(region, wants)
        if isinstance(node.op, Composite) and wants(node.op):
            key = instance_key(node)
            body = bodies.get(key)
            if body is None:
                body = bodies[key] = instantiate(node)
                inline_composites(body, wants)
            splice(node, body)
            count += 1
    return count


def instantiate(node: Node, types: Sequence[TensorType | None] | None = None) -> Graph:
    """The body of a composite node, for its operand types (or others) and attributes; a graph of its own."""
    assert isinstance(node.op, Composite)
    if types is None:
        types = [None if v is None else v.type for v in node.inputs]
    # A frontend may hand out the same instance again; ours is about to be changed.
    return node.op.instantiate(types, dict(node.attrs)).clone()


def splice(node: Node, body: Graph) -> dict[Value, Value]:
    """Put a copy of ``body`` in the place of ``node``; returns value of the body -> value in the graph.

    The new nodes keep the place of the user's call.
    """
    graph = node.graph
    assert graph is not None
    given = [v for v in node.inputs if v is not None]
    copies: dict[Value, Value] = dict(zip(body.inputs, given, strict=True))
    renamed = _adopt_lets(graph, body)
    for inner in body.nodes():
        copy = clone_node(inner, copies)
        copy.span = node.span or inner.span
        copy.scope = node.scope
        if renamed:
            _rename_node(copy, renamed)
        graph.insert_before(node, copy)
    for old, new in zip(node.outputs, body.outputs, strict=True):
        if not copies[new].name:
            copies[new].name = old.name
        old.replace_uses(copies[new])
    if body.requires:
        wanted = [
            Require(r.left.subs(renamed), r.op, r.right.subs(renamed), r.message, node.span or r.span)
            for r in body.requires
        ]
        graph.requires = list(dict.fromkeys([*graph.requires, *wanted]))
    graph.remove(node)
    return copies


def _adopt_lets(graph: Graph, body: Graph) -> dict[str, Dim]:
    """Bring the body's ``let`` names into the graph under names that are free there."""
    renamed: dict[str, Dim] = {}
    taken = {*graph.lets, *graph.symbols()} if body.lets else set()
    for name, dim in body.lets.items():
        value = dim.subs(renamed)
        unique = name
        n = 0
        while unique in taken and graph.lets.get(unique) is not value:
            n += 1
            unique = f"{name}{n}"
        taken.add(unique)
        graph.lets[unique] = value
        if name in body.facts:
            graph.facts[unique] = body.facts[name]
        if unique != name:
            renamed[name] = sym(unique)
    return renamed


def _rename_node(node: Node, renamed: dict[str, Dim]) -> None:
    node.attrs = {name: _rename(value, renamed) for name, value in node.attrs.items()}
    for value in node.outputs:
        value.type = _rename_type(value.type, renamed)
    for region in node.bodies:
        for value in region.inputs:
            value.type = _rename_type(value.type, renamed)
        for inner in region.nodes():
            _rename_node(inner, renamed)


def _rename_type(type: TensorType, renamed: dict[str, Dim]) -> TensorType:
    return TensorType(type.dtype, tuple(d.subs(renamed) for d in type.shape))


def _rename(value: Any, renamed: dict[str, Dim]) -> Any:
    if isinstance(value, Dim):
        return value.subs(renamed)
    if isinstance(value, tuple):
        return tuple(_rename(v, renamed) for v in value)
    return value
