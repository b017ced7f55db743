"""Composites replaced by their bodies."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.diagnostics import Diagnostic, did_you_mean
from ...ir.graph import Module
from ...ir.inlining import inline_composites
from ...ir.op import AnyOp, Composite
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
        return Report.of(self, inline_composites(module.graph, lambda node: self._wants(node.op)))

    def ensures(self, before: Module, after: Module) -> None:
        for node in after.graph.nodes():
            if isinstance(node.op, Composite) and self._wants(node.op):
                raise BrokenContract(f"{node!r} at {node.span} is still there")

    def _wants(self, op: AnyOp) -> bool:
        names = {op.name, op.qualified}
        return not names & set(self.keep) and (not self.only or bool(names & set(self.only)))
