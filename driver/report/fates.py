"""What became of every token of one input: when it left, and what it is part of in the end.

module, steps = traced(module)          # every reduction shows its map
outputs = runner(arrays)
fates(chain(steps, steps[-1]), outputs, row=0)[5].host      # 4: in the end it is part of token 4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...ir.analysis.cost import ATTENTION
from ...ir.dims.dim import Dim

if TYPE_CHECKING:
    import numpy as np

    from ...ir.graph import Module, Value

_TAP = "fate"


@dataclass(frozen=True)
class Step:
    """One reduction: its method, whether it merges, the attention block that it stands behind (-1: before the first), and what it
    does to the number of tokens.

    Args:
        number: which it is in the program.
        parent: the number of the one whose tokens it reduces further; None where it begins with all of them: the first of a
            stream, or behind a region that gave them back.
        stream: a number for all that reduce the same tokens.
        inputs: what its tokens are made from.
    """

    number: int
    parent: int | None
    stream: int
    inputs: frozenset[str]
    method: str
    merges: bool
    block: int
    before: Dim
    after: Dim


@dataclass(frozen=True)
class Fate:
    """Of one original token: the step at which it left (None: it is there in the end), and the original place of the token that it
    is part of (None: of none)."""

    left: Step | None
    host: int | None


def traced(module: Module) -> tuple[Module, list[Step]]:
    """A copy of a program whose reductions show their maps, and the steps in their order."""
    from ...passes.tokens.stream import facts_of, fields_of, is_reduction

    clone = module.clone()
    graph = clone.graph
    made_from: dict[Value, frozenset[str]] = {v: frozenset((v.public,)) for v in graph.inputs if v.role == "input"}
    steps: list[Step] = []
    made: dict[Value, Step] = {}
    streams: dict[Value, int] = {}
    block = -1
    for node in list(graph.nodes()):
        inputs = frozenset[str]().union(*(made_from.get(v, ()) for v in node.inputs if v is not None))
        made_from |= dict.fromkeys(node.outputs, inputs)
        block += node.op.qualified == ATTENTION
        if not is_reduction(node.op):
            continue
        number, x = len(steps), node.inputs[0]
        assert x is not None
        _, source, _, position = node.outputs[:4]
        graph.add_output(source, f"{_TAP}{number}_source", "tap")
        graph.add_output(position, f"{_TAP}{number}_position", "tap")
        taken, own = fields_of(node).source, made_from.get(x, frozenset())
        parent = made.get(taken)
        stream = streams.setdefault(taken, len(streams)) if parent is None else parent.stream
        step = Step(
            number, None if parent is None else parent.number, stream, own, node.op.name, facts_of(node).merged, block,
            x.type.shape[1], node.output.type.shape[1],
        )  # fmt: skip
        steps.append(step)
        made[source] = step
    return clone, steps


def chain(steps: Sequence[Step], last: Step) -> list[Step]:
    """The steps that tokens have gone through behind ``last``: it, and those whose tokens it reduced further."""
    found = [last]
    while (parent := found[0].parent) is not None:
        found.insert(0, steps[parent])
    return found


def fates(steps: Sequence[Step], outputs: Mapping[str, np.ndarray], row: int) -> list[Fate]:
    """What became of each token of one row of the batch, after the steps of a :func:`chain`."""
    count = outputs[f"{_TAP}{steps[0].number}_source"].shape[1]
    left: list[Step | None] = [None] * count
    host: list[int | None] = list(range(count))
    for step in steps:
        source, position = (outputs[f"{_TAP}{step.number}_{what}"][row] for what in ("source", "position"))
        stays = {int(p) for p in position}
        for token in range(count):
            now = host[token]
            if now is None:
                continue
            if now not in stays:
                host[token] = int(position[source[token]]) if step.merges else None
            if token not in stays and left[token] is None:
                left[token] = step
    return [Fate(*pair) for pair in zip(left, host, strict=True)]
