"""Dead code: nodes whose results nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.graph import Graph, Module
from ...ir.regions import settle_captured
from ..engine import BrokenContract, Pass
from ..report import Report


@dataclass(frozen=True)
class DeadCode(Pass):
    """Removes nodes whose results nobody reads, and weights that nobody reads any more.

    Inputs stay, since callers pass them. Every op is pure, so only readers keep a node alive.
    """

    name = "dce"
    contract = "exact"

    def run(self, module: Module) -> Report:
        removed = remove_dead(module.graph)
        unread = [name for name, param in module.graph.params.items() if not param.uses]
        for name in unread:
            del module.graph.params[name]
        return Report.of(self, removed + len(unread), nodes=removed, weights=len(unread))

    def ensures(self, before: Module, after: Module) -> None:
        for node in after.graph.nodes():
            if not any(v.uses for v in node.outputs):
                raise BrokenContract(f"{node!r} at {node.span} is dead")


def remove_dead(graph: Graph) -> int:
    """Remove dead nodes, and operands that no region reads any more; returns how many nodes went.

    One walk from the end: a node is visited after all its readers.
    """
    removed = 0
    for node in graph.reversed_nodes():
        for region in node.bodies:
            removed += remove_dead(region)
        if node.bodies:
            settle_captured(node)
        if not any(v.uses for v in node.outputs):
            graph.remove(node)
            removed += 1
    return removed
