"""The last token of each row, picked as early as what follows looks at single tokens only."""

from __future__ import annotations

from typing import Any

from ...ir.analysis.axes import Axes
from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value


class Last:
    """What a value [B, T, …] is for each row's last token, [B, …]: picked as early as only single tokens are looked at."""

    def __init__(self, graph: Graph, tokens: Dim, last: Value, features: set[Value]) -> None:
        self.graph, self.tokens, self.last, self.features = graph, tokens, last, features

    def of(self, value: Value) -> Value:
        chain: list[Node] = []
        source = value
        while (node := source.node) is not None and (before := self._before(node)) is not None:
            chain.append(node)
            source = before
        builder = Builder(self.graph).before(None)
        index = builder.op("unsqueeze", self.last, axis=(1,))
        made = builder.op("take", source, index, axis=1, batch=1)
        for node in reversed(chain):
            builder.span, builder.scope = node.span, node.scope
            operands = [made if v is source else v for v in node.inputs]
            source = node.output
            made = builder.op(node.op, *operands, **node.attrs)
        return builder.op("squeeze", made, axis=(1,))

    def _before(self, node: Node) -> Value | None:
        """The operand that a node walks token by token, where the others have no tokens, and nothing else reads its result."""
        if len(node.outputs) != 1 or node.output.type.rank < 2 or node.output.type.shape[1] is not self.tokens:
            return None
        given = [v for v in node.inputs if v is not None]
        mine = [v for v in given if any(d is self.tokens for d in v.type.shape)]
        if len(mine) != 1 or mine[0] not in self.features or mine[0].type.rank != node.output.type.rank:
            return None
        axes = Axes()
        axes.add(node)
        alone = axes.find(mine[0], 1) == axes.find(node.output, 1)
        fixed = any(isinstance(d, Dim) and not d.symbols.isdisjoint(self.tokens.symbols) for d in _dims(node.attrs))
        return mine[0] if alone and not fixed and node.op.qualified != ATTENTION else None


def _dims(attrs: dict[str, Any]) -> list[Any]:
    return [d for value in attrs.values() for d in (value if isinstance(value, tuple) else (value,))]
