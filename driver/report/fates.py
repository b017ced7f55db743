"""What became of every token of one input: when it left, and what it is part of in the end.

module, steps = traced(module)          # every reduction shows its map
outputs = runner(arrays)
fates(steps, outputs, row=0)[5]         # Fate(left=2, host=4): it left at the third reduction, and is part of token 4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.analysis.cost import ATTENTION
from ...ir.dims.dim import Dim

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Module

_TAP = "fate"


@dataclass(frozen=True)
class Step:
    """One reduction: its method, whether it merges, the attention block that it stands behind (-1: before the first), and what it
    does to the number of tokens."""

    method: str
    merges: bool
    block: int
    before: Dim
    after: Dim


@dataclass(frozen=True)
class Fate:
    """Of one original token: the step at which it left (None: it is there in the end), and the original place of the token that it
    is part of (None: of none)."""

    left: int | None
    host: int | None


def traced(module: Module) -> tuple[Module, list[Step]]:
    """A copy of a program whose reductions show their maps, and the steps in their order."""
    from ...passes.tokens.stream import facts_of, reductions

    clone = module.clone()
    graph = clone.graph
    order = {node: i for i, node in enumerate(graph.nodes())}
    attentions = [order[node] for node in order if node.op.qualified == ATTENTION]
    steps = []
    for i, node in enumerate(list(reductions(graph))):
        _, source, _, position = node.outputs[:4]
        graph.add_output(source, f"{_TAP}{i}_source", "tap")
        graph.add_output(position, f"{_TAP}{i}_position", "tap")
        x, block = node.inputs[0], sum(at < order[node] for at in attentions) - 1
        assert x is not None
        steps.append(Step(node.op.name, facts_of(node).merged, block, x.type.shape[1], node.output.type.shape[1]))
    return clone, steps


def fates(steps: Sequence[Step], outputs: Mapping[str, np.ndarray], row: int, until: int | None = None) -> list[Fate]:
    """What became of each token of one row of the batch, after the first ``until`` steps (None: all).

    Steps of another stream (of other original tokens) than the first one's are left out.
    """
    count = outputs[f"{_TAP}0_source"].shape[1]
    left: list[int | None] = [None] * count
    host: list[int | None] = list(range(count))
    for i, step in enumerate(steps[:until]):
        source, position = (outputs[f"{_TAP}{i}_{what}"][row] for what in ("source", "position"))
        if len(source) != count:
            continue
        stays = {int(p) for p in position}
        for token in range(count):
            now = host[token]
            if now is None:
                continue
            if now not in stays:
                host[token] = int(position[source[token]]) if step.merges else None
            if token not in stays and left[token] is None:
                left[token] = i
    return [Fate(*pair) for pair in zip(left, host, strict=True)]
