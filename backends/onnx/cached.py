"""Attention over a cache as ONNX Runtime's own op, on request: `target onnx(attention=contrib)`.

`com.microsoft.GroupQueryAttention` writes keys and values into the cache and reads it up to each query's own slot, in one op: it looks at
no slot behind those that are filled, and its kernel takes about half the time of the standard op. What it cannot compute stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...ir.analysis.cost import ATTENTION
from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value
from ...ir.library import composite
from ...ir.types import f32, i32
from .contrib import DOMAIN
from .shape import operand

if TYPE_CHECKING:
    import onnx_ir as ox

    from .lowering import Lowerer

CACHED = "std.cache.cached_attention"
_APPEND, _VISIBLE = "std.cache.append", "std.cache.visible"


def with_cached(graph: Graph) -> Graph:
    """A copy in which an attention and what puts keys and values into the cache that it reads are one node, wherever they can be."""
    graph = graph.clone()
    appends = {node: _given(node) for node in graph.nodes() if node.op.qualified == _APPEND}
    for node in list(graph.nodes()):
        if node.op.qualified != ATTENTION or len(node.outputs) > 1 or node.attrs["causal"] or node.attrs["softcap"] != 0:
            continue
        _, k, v, mask, bias = node.inputs
        append = None if k is None else k.node
        if append is None or append not in appends or bias is not None or [k, v] != append.outputs[:2] or not _expressible(node):
            continue
        if mask is None or not _is_own_slots(mask, append, appends):
            continue
        # A mask that is made of the cache itself is nobody else's either.
        shown = mask.node if mask.node is not None and mask.node.op.qualified == _VISIBLE and mask.users == [node] else None
        if all(user in (node, graph.end, shown) for value in append.outputs for user in value.users):
            _join(graph, node, append, shown)
    return graph


def _expressible(node: Node) -> bool:
    """Whether the op takes such heads."""
    (_, heads, _, size), (_, groups, _, _) = operand(node).shape, operand(node, 1).shape
    numbers = [heads.value, groups.value, size.value]
    if operand(node).dtype != f32 or None in numbers or operand(node, 2).shape[3] != size:
        return False
    return int(size) % 8 == 0 and int(heads) % int(groups) == 0


def _join(graph: Graph, node: Node, append: Node, shown: Node | None) -> None:
    builder = Builder(graph).before(node)
    builder.span, builder.scope = node.span, node.scope
    *cache, k, v, count = append.inputs
    attrs = {name: value for name, value in append.attrs.items() if name.startswith("cache.")}
    made = builder.multi(composite(CACHED), node.inputs[0], *cache, k, v, count, scale=node.attrs["scale"], **attrs)
    for old, new in zip((*node.outputs, *append.outputs), made, strict=True):
        new.name = old.name
        old.replace_uses(new)
    for gone in (node, shown, append):
        if gone is not None:
            graph.remove(gone)


def _given(append: Node) -> tuple[Value | None, tuple[Value | None, Dim]]:
    """How many slots are filled before; and how many tokens come, of which how many count."""
    return append.inputs[-4], (append.inputs[-1], operand(append, -3).shape[2])


def _is_own_slots(
    mask: Value, append: Node, appends: Mapping[Node, tuple[Value | None, tuple[Value | None, Dim]]]
) -> bool:
    """Whether a mask shows each new token the slots up to its own: those that were filled before, and itself."""
    _, (count, tokens) = appends[append]
    if count is None or mask.node is None:
        return False
    if mask.node.op.qualified == _VISIBLE:
        return list(mask.node.inputs) == [*append.outputs, count]
    slots = append.outputs[0].type.shape[2]
    # Caches that are given as many tokens in each call are filled alike.
    alike = [length for length, new in appends.values() if new == (count, tokens)]
    shown = _operands(_under(mask, "unsqueeze", (1,)), "le")
    slot, last = (_under(shown[0], "unsqueeze", (0, 1)), _under(shown[1], "unsqueeze", (2,))) if len(shown) == 2 else (None, None)
    place = _operands(last, "add")
    if len(place) != 2 or _counts(slot) != slots:
        return False
    start = _operands(_under(place[0], "unsqueeze", (1,)), "minimum")
    room = len(start) == 2 and start[0] in alike and _number(start[1]) == slots - tokens
    return room and _counts(_under(place[1], "unsqueeze", (0,))) == tokens


def _operands(value: Value | None, name: str) -> list[Value | None]:
    """Those of the op of that name that a value is made by; none where it is made by another."""
    made = None if value is None else value.node
    return list(made.inputs) if made is not None and made.op.qualified == name else []


def _under(value: Value | None, name: str, axis: tuple[int, ...]) -> Value | None:
    """What has got those axes."""
    given = _operands(value, name)
    return given[0] if given and value is not None and value.node is not None and value.node.attrs["axis"] == axis else None


def _counts(value: Value | None) -> Dim | None:
    """How many numbers from 0 on a value holds, if it does."""
    made = None if value is None else value.node
    return made.attrs["n"] if made is not None and made.op.qualified == "iota" else None


def _number(value: Value | None) -> object:
    made = None if value is None else value.node
    return made.attrs["value"] if made is not None and made.op.qualified == "full" else None


def cached_attention(
    e: Lowerer, node: Node, q: ox.Value, k: ox.Value, v: ox.Value, length: ox.Value, new_k: ox.Value, new_v: ox.Value, count: ox.Value
) -> list[ox.Value]:  # fmt: skip
    """The op is told how many tokens there are behind the call, less one, and how many of them are new: all, as padding is written and
    overwritten by what follows."""
    batch, heads, tokens, size = operand(node).shape
    groups, slots = operand(node, 1).shape[1:3]
    start = e.op("Min", length, e.scalar(slots - tokens))
    told = e.cast(e.op("Add", start, e.scalar(tokens - 1)), i32)
    fresh = e.remember(("fresh", tokens), lambda: e.cast(e.op("Expand", e.scalar(tokens), e.shape((batch,))), i32))
    behind = e.op("Add", start, count)
    new = [_joined(e, x, operand(node, i).shape) for i, x in ((0, q), (4, new_k), (5, new_v))]
    most = e.cast(e.scalar(slots), i32)
    # Between: tables of angles, positions, a bias, sinks, steps of narrow caches, and two norms.
    inputs = [*new, k, v, told, most, *[None] * 9, fresh]
    options = {"num_heads": int(heads), "kv_num_heads": int(groups), "scale": float(node.attrs["scale"])}
    dtype = e.dtype(q)
    y, keys, values = e.raw("GroupQueryAttention", inputs, [dtype, dtype, dtype], options, domain=DOMAIN)
    flat, split = (batch, tokens, heads * size), (batch, tokens, heads, size)
    return [e.transpose(e.reshape(y, flat, split), (0, 2, 1, 3)), keys, values, behind]


def _joined(e: Lowerer, x: ox.Value, shape: tuple[Dim, ...]) -> ox.Value:
    """Rows of heads [B, H, T, K] side by side: [B, T, H * K]."""
    batch, heads, tokens, size = shape
    return e.reshape(e.transpose(x, (0, 2, 1, 3)), (batch, tokens, heads, size), (batch, tokens, heads * size))
