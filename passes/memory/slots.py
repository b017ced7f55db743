"""Reading a part of a cache: methods that choose slots, and attentions that read what was chosen."""

from __future__ import annotations

from typing import Any

from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Graph, Initializer, Input, Node, Value
from ...ir.library import composite, ops_of
from ...ir.naming import unique
from ...ir.op import Composite
from ...ir.signature import Pattern
from ...ir.types import TensorType
from ..tokens.method import statics_of
from .memo import Memo, chosen_of
from .storage import APPENDS, append_behind, steps_of, taken

STD = "std.token.slots"
# What a method is given, in this order; and what it may want besides, which is kept as a state.
_OPERANDS = ["q", "keys", "length"]
_BOUNDS = "bounds"


def is_choice(op: Composite) -> bool:
    """Whether an op chooses slots of a cache: `op m(q, keys, length, bounds?, *, k: int, …) -> i64[B, N]`."""
    results = op.signature.results
    first = results[0].type if len(results) == 1 else None
    numbers = isinstance(first, Pattern) and getattr(first.dtype, "kind", first.dtype) == "int" and len(first.shape) == 2
    operands = [o.name for o in op.signature.operands]
    known = operands == _OPERANDS or (operands == [*_OPERANDS, _BOUNDS] and op.signature.static("page") is not None)
    return numbers and known and op.signature.static("k") is not None


def page_of(op: Composite, attrs: dict[str, Any]) -> int | None:
    """How many slots each of the bounds is for that a method wants to be kept; None for one that wants none."""
    wanted = any(o.name == _BOUNDS for o in op.signature.operands)
    return int(attrs.get("page", statics_of(op)["page"].default)) if wanted else None


def shipped() -> dict[str, Composite]:
    """The shipped methods that choose slots."""
    return {op.name: op for op in ops_of(STD) if is_choice(op)}


def cached(graph: Graph) -> list[Node]:
    """The attentions that read a cache behind which tokens were just put."""
    return [
        node
        for node in graph.nodes()
        if node.op.qualified == ATTENTION and not node.attrs["causal"] and append_behind(node.inputs[1]) is not None
    ]


def appends(graph: Graph) -> list[Node]:
    """Where tokens are put into a cache, whoever reads it."""
    return [node for node in graph.nodes() if node.op.qualified in APPENDS]


def keep_bounds(graph: Graph, append: Node, index: int, page: int) -> Value:
    """The bounds of the pages of cache number ``index`` behind an append: a state, which it writes. Raises E0501."""
    new = append.inputs[-3]
    assert new is not None
    nodes = list(graph.nodes())
    behind = nodes.index(append) + 1
    builder = Builder(graph).before(nodes[behind] if behind < len(nodes) else None)
    builder.span, builder.scope = append.span, append.scope
    keys = append.outputs[0]
    batch, heads, slots, size = keys.type.shape
    type = TensorType(new.type.dtype, (batch, slots // page, as_dim(2) * heads * size))
    name = unique(f"bounds_{index}", {v.name for v in graph.inputs})
    state = graph.add_input(Input(type, name, "state", Initializer("zeros"), append.span))
    attrs: dict[str, int | Dim] = {"tokens": new.type.shape[2], "page": page}
    renewed = composite(f"{STD}.renewed_bounds")
    made = builder.op(renewed, state, keys, append.inputs[-4], steps_of(append), **attrs)
    graph.add_output(made, name, "state")
    return made


def kept_choice(
    graph: Graph, append: Node, attention: Node, op: Composite, attrs: dict[str, Any], index: int, reuse: float,
    bounds: Value | None,
) -> Memo:  # fmt: skip
    """What ``attention`` chose last of cache number ``index``, as a state. Raises what the method requires."""
    q, keys, length = attention.inputs[0], append.outputs[0], append.outputs[-1]
    assert q is not None
    types = [q.type, TensorType(q.type.dtype, keys.type.shape), length.type, *([] if bounds is None else [bounds.type])]
    (chosen,) = op.infer(types, dict(attrs))
    return Memo(graph, append, attention, chosen, index, reuse)


def read_chosen(
    graph: Graph, node: Node, op: Composite, attrs: dict[str, Any], bounds: Value | None = None, memo: Memo | None = None
) -> None:  # fmt: skip
    """Let an attention of :func:`cached` read the slots that a method chooses, or those that ``memo`` still has.

    Raises what the method requires.
    """
    q, keys, values = node.inputs[:3]
    assert q is not None
    assert keys is not None
    builder = Builder(graph).before(node)
    append = append_behind(keys)
    assert append is not None
    length = append.outputs[-1]
    operands = [q, keys, length] if bounds is None else [q, keys, length, bounds]
    index = chosen_of(builder, op, operands, attrs) if memo is None else memo.choose(op, operands, attrs)
    batch, heads = keys.type.shape[:2]
    # One index a head: its keys lie side by side, so that nothing else of the cache is moved.
    each = builder.op("expand", builder.op("unsqueeze", index, axis=(1,)), shape=(batch, heads, index.type.shape[1]))
    for i, value in ((1, keys), (2, values)):
        assert value is not None
        node.set_input(i, taken(value, lambda held: builder.op("take", held, each, axis=2, batch=2), builder))
    for i in (3, 4):
        value = node.inputs[i]
        if value is not None:
            shape = (batch, *value.type.shape[1:])
            whole = value if value.type.shape == shape else builder.op("expand", value, shape=shape)
            node.set_input(i, builder.op("take", whole, index, axis=3, batch=1))
    if node.inputs[3] is None:
        filled = builder.op("lt", index, builder.op("unsqueeze", length, axis=(1,)))
        node.set_input(3, builder.op("unsqueeze", filled, axis=(1, 2)))
