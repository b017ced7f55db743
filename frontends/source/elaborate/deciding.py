"""What can be told of sizes while compiling."""

from __future__ import annotations

from ....ir.dims.dim import Dim, Facts, prove_ge
from ....ir.equalities import equalities
from ....ir.graph import Graph


def decide(op: str, left: Dim, right: Dim, graph: Graph | None) -> bool | None:
    """Whether ``left op right`` holds for all sizes (True), for none (False), or cannot be told (None)."""
    facts: Facts = {} if graph is None else graph.facts
    if graph is not None:
        left, right = graph.expand_lets(left), graph.expand_lets(right)
    verdict = _decide(op, left, right, facts)
    known = equalities(graph) if graph is not None and verdict is None else None
    return _decide(op, known.hidden(left), known.hidden(right), {**facts, **known.facts}) if known else verdict


def _decide(op: str, left: Dim, right: Dim, facts: Facts) -> bool | None:
    if op in ("==", "!="):
        if left == right:
            return op == "=="
        if prove_ge(left, right + 1, facts) or prove_ge(right, left + 1, facts):
            return op == "!="
        return None
    if op in ("<", "<="):
        left, right, op = right, left, ">" if op == "<" else ">="
    margin = 1 if op == ">" else 0
    if prove_ge(left, right + margin, facts):
        return True
    return False if prove_ge(right, left + 1 - margin, facts) else None
