"""What attentions chose last of their caches, as states: new tokens that ask for about the same read it again."""

from __future__ import annotations

from typing import Any

from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Initializer, Input, Node, Part, Value
from ...ir.library import composite
from ...ir.naming import unique
from ...ir.op import Composite
from ...ir.signature import RecordPattern
from ...ir.types import DType, TensorType
from .given import names_of
from .storage import held, taken

STD = "std.token.memo"
_ROPE = "std.attention.rope"


class Memo:
    """The memory of one attention.

    Args:
        append: puts tokens into the cache that it reads, which is number ``index``.
        chosen: the type of what a method chooses, [B, M].
        reuse: the cosine between new queries and those of the last choice from which on that is read again.
    """

    def __init__(self, graph: Graph, append: Node, attention: Node, chosen: TensorType, index: int, reuse: float) -> None:
        self.graph, self.append, self.attention, self.reuse = graph, append, attention, reuse
        pattern = composite(f"{STD}.remembered").signature.operands[0].type
        assert isinstance(pattern, RecordPattern)
        batch, slots = chosen.shape
        heads, size = (_asking(attention).type.shape[i] for i in (1, 3))
        record = RecordPattern(pattern.record, (batch, heads * size, slots))
        self.name = unique(f"memo_{index}", names_of(graph))
        self.fields: dict[str, Value] = {}
        for field, of in record.fields():
            assert isinstance(of.dtype, DType)
            type = TensorType(of.dtype, tuple(d for d in of.shape if isinstance(d, Dim)))
            state = Input(type, f"{self.name}.{field}", "state", Initializer("zeros"), append.span, Part(record))
            self.fields[field] = graph.add_input(state)

    def forget(self) -> None:
        """A prompt begins anew: nothing was chosen."""
        builder = Builder(self.graph).before(None)
        for field, value in self.fields.items():
            none = builder.op("full", shape=value.type.shape, value=0, dtype=value.type.dtype)
            self.graph.add_output(none, f"{self.name}.{field}", "state")

    def choose(self, op: Composite, operands: list[Value], attrs: dict[str, Any]) -> Value:
        """What is read: the last choice where it may be read again, else what the method chooses. It is asked only where some row
        needs it."""
        b, fields = Builder(self.graph).before(self.attention), list(self.fields.values())
        length, count = self.append.outputs[-1], self.append.inputs[-1]
        asking = _asking(self.attention)
        query = b.op(composite(f"{STD}.asked"), asking)
        near, place, anew = b.multi(
            composite(f"{STD}.again"), query, *fields, length, count, tokens=asking.type.shape[2], reuse=self.reuse
        )
        # What is read of narrow caches is made wide where it is scored.
        given = list(dict.fromkeys([near, *(v for operand in operands for v in held(operand))]))
        then, orelse = (self._branch(place, given) for _ in range(2))
        inner = Builder(then)
        local = dict(zip(given, then.inputs[1:], strict=True))
        voted = chosen_of(inner, op, [taken(v, local.__getitem__, inner) for v in operands], attrs)
        then.add_output(inner.op("where", inner.op("unsqueeze", local[near], axis=(1,)), then.inputs[0], voted), "place")
        orelse.add_output(orelse.inputs[0], "place")
        chosen = b.op("cond", anew, place, *given, carried=1, then=then, orelse=orelse)
        kept = b.multi(composite(f"{STD}.remembered"), *fields, query, near, chosen, length, count)
        for field, value in zip(self.fields, kept, strict=True):
            self.graph.add_output(value, f"{self.name}.{field}", "state")
        return chosen

    def _branch(self, place: Value, given: list[Value]) -> Graph:
        branch = Graph("cond")
        branch.lets, branch.facts, branch.requires = self.graph.lets, self.graph.facts, self.graph.requires
        branch.add_input(Input(place.type, "place"))
        for i, value in enumerate(given):
            branch.add_input(Input(value.type, f"captured{i}"))
        return branch


def chosen_of(builder: Builder, op: Composite, operands: list[Value], attrs: dict[str, Any]) -> Value:
    """What a method chooses. Raises what it requires of the budget."""
    index = builder.op(op, *operands, **attrs)
    assert index.node is not None
    op.instantiate([v.type for v in operands], index.node.attrs)
    return index


def _asking(attention: Node) -> Value:
    """The queries before they are turned by their places: the same question asked later is the same."""
    q = attention.inputs[0]
    assert q is not None
    if q.node is not None and q.node.op.qualified == _ROPE:
        q = q.node.inputs[0]
        assert q is not None
    return q


def reader(graph: Graph, append: Node, op: Composite) -> Node:
    """The attention of a prompt whose keys are put into a cache. Raises E0707 without one."""
    for node in graph.nodes():
        if node.op.qualified == ATTENTION and node.inputs[1] is append.inputs[-3]:
            return node
    raise Diagnostic(
        "E0707", f"`reuse` keeps the queries for which `{op.name}` chose, and nothing asks for the keys of this cache",
        append.span, help="without `reuse` it chooses anew for each call",
    )  # fmt: skip
