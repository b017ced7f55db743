"""Which sizes a call brings, or why they cannot be told."""

from __future__ import annotations

from ...ir.binding import Solution, solve_inputs
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph


def solve_all(graph: Graph) -> dict[str, Solution]:
    """For each free symbol the axis that tells it.

    Raises:
        Diagnostic: E0907 for a symbol that no axis determines.
    """
    solved = solve_inputs(graph)
    for value in graph.inputs:
        for dim in value.type.shape:
            for name in sorted(graph.expand_lets(dim).symbols - solved.keys()):
                message = (
                    f"the size `{name}` cannot be told from the shapes of the inputs: `{value.name}` is {value.type}"
                )
                raise Diagnostic("E0907", message, value.span, help=f"give one input an axis that is just `{name}`")
    return solved
