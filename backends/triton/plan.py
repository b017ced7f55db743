"""The launch plan: what of a program is a kernel of ours, and what a call of PyTorch's."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

from ...ir.op import Composite
from ..lower import Plan, claimed_by
from .claims import EXCEPT, TABLE, launched
from .fuse import GROUP, fused

if TYPE_CHECKING:
    from ...ir.graph import Graph


def plan_of(graph: Graph) -> str:
    """JSON: how many launches of ours each op is (``kernels``) and each group (``generated``), and how many calls of PyTorch's
    there are (``torch``); one round of each loop."""
    kernels: Counter[str] = Counter()
    generated: Counter[str] = Counter()
    torch: Counter[str] = Counter()
    plan = Plan(claimed_by(TABLE, EXCEPT), whole=True)

    def count(graph: Graph) -> None:
        for node in plan.live(graph):
            if node.op.qualified == GROUP:
                assert isinstance(node.op, Composite)
                generated[node.op.decl.name] += 1
            elif isinstance(node.op, Composite) and not plan.claims(node):
                count(plan.body(node))
            elif node.op.name != "constant":
                (kernels if launched(node) else torch)[node.op.qualified] += 1
            for body in node.bodies:
                count(body)

    count(fused(graph))
    counted = {"kernels": kernels, "generated": generated, "torch": torch}
    return json.dumps({kind: dict(sorted(counts.items())) for kind, counts in counted.items()})
