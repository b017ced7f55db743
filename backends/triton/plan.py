"""The launch plan: what of a program is a kernel of ours, and what a call of PyTorch's."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from ...ir.op import Composite
from ..lower import Plan, claimed_by
from .claims import EXCEPT, TABLE, launched

if TYPE_CHECKING:
    from ...ir.graph import Graph


def plan_of(graph: Graph) -> str:
    """JSON: ``kernels``, how many launches of ours each op is, and ``torch``, how many calls of PyTorch's; one round of each loop."""
    kernels: Counter[str] = Counter()
    torch: Counter[str] = Counter()
    plan = Plan(claimed_by(TABLE, EXCEPT), whole=True)

    def count(graph: Graph) -> None:
        for node in plan.live(graph):
            if isinstance(node.op, Composite) and not plan.claims(node):
                count(plan.body(node))
            elif node.op.name != "constant":
                (kernels if launched(node) else torch)[node.op.qualified] += 1
            for body in node.bodies:
                count(body)

    count(graph)
    return json.dumps({"kernels": dict(sorted(kernels.items())), "torch": dict(sorted(torch.items()))})
