"""Common subexpressions: the same op on the same inputs is computed once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...ir.graph import Graph, Module, Node
from ...ir.keys import attrs_key
from ...ir.op import Composite, Trait, has
from ...ir.regions import settle_captured
from ...ir.signature import RecordPattern
from ..engine import BrokenContract, Pass
from ..report import Report


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Merges nodes that apply the same op to the same inputs.

    before: `a = exp(x)  b = exp(x)  return a + b`    after: `a = exp(x)  return a + a`
    """

    name = "cse"
    contract = "exact"

    def run(self, module: Module) -> Report:
        return Report.of(self, merge_equal(module.graph))

    def ensures(self, before: Module, after: Module) -> None:
        seen: set[Any] = set()
        for node in after.graph.nodes():
            key = node_key(node)
            if key in seen:
                raise BrokenContract(f"{node!r} at {node.span} is computed twice")
            seen.add(key)


def node_key(node: Node) -> tuple[Any, ...]:
    """What makes two nodes interchangeable. The order of a commutative op's operands does not.

    A record with static fields is the record of something: token maps of two towers are equal before either is reduced, and one map
    for both would make their tokens the same ones.
    """
    inputs = [id(v) for v in node.inputs]
    if has(node, Trait.COMMUTES):
        inputs.sort()
    return (node.op, tuple(inputs), attrs_key(node.attrs), id(node) if _keeps_record(node) else None)


def _keeps_record(node: Node) -> bool:
    results = node.op.signature.results if isinstance(node.op, Composite) else ()
    return any(isinstance(result.type, RecordPattern) and result.type.record.statics for result in results)


def merge_equal(graph: Graph) -> int:
    """Merge equal nodes; returns how many went. One walk: operands are merged before their readers are looked at."""
    first: dict[tuple[Any, ...], Node] = {}
    removed = 0
    for node in graph.nodes():
        for region in node.bodies:
            removed += merge_equal(region)
        if node.bodies:
            settle_captured(node)
        known = first.setdefault(node_key(node), node)
        if known is not node:
            for old, new in zip(node.outputs, known.outputs, strict=True):
                old.replace_uses(new)
            graph.remove(node)
            removed += 1
    return removed
