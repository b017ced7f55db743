"""What is looked at when a graph stands: the bodies of the composites in it, and parameters that nothing uses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....ir.declarations import references
from ....ir.diagnostics import Diagnostic, several
from ....ir.graph import Graph, Node
from ....ir.op import Composite
from .blame import blame_call, shipped
from .cycles import recursion
from .deciding import decide


def unused_params(graph: Graph) -> list[Diagnostic]:
    """E0502 for each parameter that is declared and never used."""
    return [
        Diagnostic(
            "E0502",
            f"the parameter `{param.full_name}` is declared but never used",
            param.span,
            help="use it or take it out: a weight that is loaded and ignored is rarely meant",
        )
        for param in graph.params.values()
        if not param.uses
    ]


class Bodies:
    """Checks bodies of composites, each once. One for each elaborator."""

    def __init__(self) -> None:
        self._checked: set[int] = set()

    def check(self, graph: Graph) -> None:
        """Raises Diagnostic for all that is wrong with a graph that stands."""
        wrong = [*unused_params(graph), *self.wrong(graph)]
        if wrong:
            raise several(wrong)

    def wrong(self, graph: Graph, within: tuple[Any, ...] = ()) -> list[Diagnostic]:
        """Instantiate the body of every composite, and take over what it requires of sizes; what is wrong with any."""
        errors: list[Diagnostic] = []
        for node in graph.nodes():
            for region in node.bodies:
                errors += self.wrong(region, within)
            if isinstance(node.op, Composite):
                try:
                    self._check(node, node.op, graph, within)
                except Diagnostic as error:
                    errors.append(error)
        return errors

    def _check(self, node: Node, op: Composite, graph: Graph, within: tuple[Any, ...]) -> None:
        types = [None if v is None else v.type for v in node.inputs]
        call = (id(op.decl), *references(node.attrs.values()))
        if call in within:
            raise recursion(op.decl, [op.name, op.name], node.span)
        try:
            body = op.instantiate(types, node.attrs)
            if id(body) not in self._checked:
                self._checked.add(id(body))
                wrong = self.wrong(body, (*within, call))
                if wrong:
                    raise several(wrong)
        except Diagnostic as error:
            blame_call(error, node.span, f"in the body of `{op.name}`")
            raise
        for need in body.requires:
            verdict = decide(need.op, need.left, need.right, graph)
            if verdict is False:
                raise Diagnostic(
                    "E0501", f"{need.message} ({need.left} {need.op} {need.right} does not hold)", node.span
                )
            if verdict is None and need not in graph.requires:
                place = need.span if node.span is None or not shipped(need.span) else node.span.over(need.span)
                graph.requires.append(replace(need, span=place))
