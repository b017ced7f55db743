"""A stream of tokens that shrinks from block to block: its token maps, and how values are carried to a later stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...ir.analysis.axes import Axes, Axis
from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Graph, Node, Value
from ...ir.library import composite
from ...ir.types import DType, boolean, f16, f32
from .blocks import AttentionBlock

# Ops that a mask passes through and stays what it is.
_SEE_THROUGH = frozenset({"cast", "unsqueeze", "squeeze", "rearrange", "reshape", "expand", "transpose"})
# (comparison, constant) -> whether true means a token that counts, for a mask of 0 and 1.
_COMPARISONS: dict[tuple[str, float | None], bool] = {
    ("ne", 0.0): True, ("gt", 0.0): True, ("eq", 1.0): True, ("ge", 1.0): True,
    ("eq", 0.0): False, ("lt", 1.0): False, ("le", 0.0): False,
}  # fmt: skip


@dataclass(frozen=True)
class TokenMap:
    """The fields of ``std.token.TokenMap`` at one stage: values source [B, N], size [B, T], position [B, T]."""

    source: Value
    size: Value
    position: Value

    @property
    def fields(self) -> tuple[Value, Value, Value]:
        return self.source, self.size, self.position


@dataclass
class Stream:
    """The tokens of one axis class. Stage 0 are the original ones; ``maps[i]`` and ``counts[i]`` are those of stage i.

    Args:
        tokens, batch: the axis classes.
        length: the number of original tokens.
        batch_size: the size of the batch axis.
        inputs: which graph inputs the token features come from, a bit each: values that come from them are features.
        padding: where the padding mask comes from, and whether true means a real token.
        padded: whether some tokens may be padding, of size 0.
    """

    tokens: Axis
    batch: Axis
    length: Dim
    batch_size: Dim
    inputs: int
    padding: tuple[Value, bool] | None = None
    padded: bool = False
    maps: list[TokenMap] = field(default_factory=list)
    counts: list[Dim] = field(default_factory=list)
    merged_at: list[Node] = field(default_factory=list)
    cache: dict[Any, Value] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        return max(len(self.maps) - 1, 0)


def stream_of(block: AttentionBlock, axes: Axes, inputs: int) -> Stream:
    """The stream that ``block`` works on, before anything happened to it."""
    shape = block.stream.type.shape
    return Stream(block.tokens, axes.find(block.stream, 0), shape[1], shape[0], inputs, counts=[shape[1]])


# Padding --------------------------------------------------------------------------------------------------------------


def trace_mask(value: Value, origins: Origins, stream: Stream) -> tuple[Value, bool]:
    """Where a mask of 0 and 1 comes from, through casts, moves and comparisons; and whether 1 there means 1 here."""
    positive = True
    while value.node is not None and value.node.op is not None:
        node = value.node
        name = node.op.qualified
        before = node.inputs[0] if node.inputs else None
        if before is None:
            break
        # What is compared with 0 is a mask itself, unless features are made from it (`input_ids != 0`).
        compares = name in ("ne", "gt", "eq", "ge", "lt", "le") or (name == "cast" and node.attrs["dtype"] == boolean)
        if compares and before.type.dtype != boolean and origins.of(before) & stream.inputs:
            break
        if name == "logical_not":
            positive = not positive
        elif name not in _SEE_THROUGH:
            meaning = _COMPARISONS.get((name, _scalar(node.inputs[1]))) if len(node.inputs) == 2 else None
            if meaning is None:
                break
            positive = positive == meaning
        value = before
    return value, positive


def _scalar(value: Value | None) -> float | None:
    if value is None or value.node is None or value.node.op is None or value.node.op.qualified != "constant":
        return None
    number = value.node.attrs["value"]
    return None if isinstance(number, tuple) else float(number)


def padding_in(mask: Value, stream: Stream, axes: Axes) -> Value | None:
    """What an attention mask says of each key by itself, [B, 1, 1, T]: the mask, or a part of it that must hold with others."""
    if mask.type.rank != 4 or mask.type.dtype.kind == "float":
        return None
    shape = mask.type.shape
    per_key = shape[1] == 1 and shape[2] == 1 and shape[0] in (as_dim(1), stream.batch_size)
    if per_key and axes.find(mask, 3) == stream.tokens:
        return mask
    node = mask.node
    if node is None or node.op is None or node.op.qualified not in ("logical_and", "mul", "cast"):
        return None
    parts = (padding_in(v, stream, axes) for v in node.inputs if v is not None)
    return next((part for part in parts if part is not None), None)


def start(stream: Stream, mask: Value | None, origins: Origins, builder: Builder) -> None:
    """The map of stage 0, with the sizes of padding 0 where ``mask`` says so."""
    valid = None
    if mask is not None:
        stream.padding = trace_mask(mask, origins, stream)
        stream.padded = True
        valid = builder.op("squeeze", mask, axis=(1, 2))
        if valid.type.dtype != boolean:
            valid = builder.op("cast", valid, dtype=boolean)
        if valid.type.shape[0] != stream.batch_size:
            valid = builder.op("expand", valid, shape=(stream.batch_size, stream.length))
    fields = builder.multi(composite("std.token.token_map"), valid, batch=stream.batch_size, tokens=stream.length)
    stream.maps.append(name_fields(fields, 0))


def name_fields(fields: list[Value], stage: int) -> TokenMap:
    """The record, whose name in print is that of its first field."""
    for value in fields:
        value.name = f"map{stage}"
    return TokenMap(*fields)


# Per-token vectors ----------------------------------------------------------------------------------------------------


def vector(stream: Stream, stage: int, what: str, first: int, builder: Builder) -> Value:
    """``size``, ``position`` [B, t] or ``source`` [B, N] of the tokens from number ``first`` on, counted from there."""
    whole: Value = getattr(stream.maps[stage], what)
    if first == 0:
        return whole
    key = (what, stage, first)
    if key not in stream.cache:
        part = builder.op("slice", whole, axis=1, start=first)
        if what != "size":
            part = builder.op("sub", part, builder.constant(first, part.type.dtype))
        stream.cache[key] = part
    return stream.cache[key]


def log_size(stream: Stream, stage: int, dtype: DType, builder: Builder) -> Value:
    """The bias [B, 1, 1, t] of proportional attention: log(size), and for padding a low number that is finite."""
    key = ("log size", stage, dtype)
    if key not in stream.cache:
        bias = builder.op(composite("std.token.size_bias"), *stream.maps[stage].fields)
        if stream.padding is not None:
            # -inf would do in attention, but a row that is padding alone must not become NaN on any backend.
            bias = builder.op("maximum", bias, builder.constant(-3e4 if dtype == f16 else -1e9, f32))
        stream.cache[key] = bias if dtype == f32 else builder.op("cast", bias, dtype=dtype)
    return stream.cache[key]


def valid_mask(stream: Stream, stage: int, builder: Builder) -> Value:
    """The mask [B, 1, 1, t] that is false at padding."""
    key = ("valid", stage)
    if key not in stream.cache:
        stream.cache[key] = builder.op(composite("std.token.size_mask"), *stream.maps[stage].fields)
    return stream.cache[key]


def spread(per_token: Value, rank: int, axis: int, batch: int | None, builder: Builder) -> Value:
    """[B, t] as a tensor of ``rank`` axes with t at ``axis`` and B at ``batch``, 1 elsewhere."""
    if batch is None:
        per_token = builder.op("squeeze", per_token, axis=0)
        others = tuple(i for i in range(rank) if i != axis)
        return builder.op("unsqueeze", per_token, axis=others) if others else per_token
    if batch > axis:
        per_token = builder.op("transpose", per_token, perm=(1, 0))
    others = tuple(i for i in range(rank) if i not in (axis, batch))
    return builder.op("unsqueeze", per_token, axis=others) if others else per_token


# Carrying -------------------------------------------------------------------------------------------------------------


def pick(value: Value, axis: int, index: Value, batched: bool, builder: Builder) -> Value:
    """The elements [B, t] ``index`` of an axis. A value without a batch of its own (leading 1) gets one."""
    if batched:
        return builder.op("take", value, index, axis=axis, batch=1)
    row = builder.op("squeeze", value, axis=0)
    picked = builder.op("take", row, index, axis=axis - 1)
    if axis == 1:
        return picked
    batch = axis - 1
    order = (batch, *range(batch), *range(batch + 1, picked.type.rank))
    return builder.op("transpose", picked, perm=order)


def merge_mean(stream: Stream, value: Value, axis: int, stage: int, to: int, builder: Builder) -> Value:
    """A feature [B, …, t, …] of an earlier stage, averaged (by size) over the tokens that were merged since."""
    forward = value if axis == 1 else builder.op("transpose", value, perm=_swap(value.type.rank, axis))
    dtype = forward.type.dtype
    owner = _owner(stream, stage, to, builder)
    shares = spread(stream.maps[stage].size, forward.type.rank, 1, 0, builder)
    total = spread(stream.maps[to].size, forward.type.rank, 1, 0, builder)
    total = builder.op("where", builder.op("eq", total, builder.constant(0.0, f32)), builder.constant(1.0, f32), total)
    weighted = builder.op("mul", builder.op("cast", forward, dtype=f32), shares)
    mean = builder.op("div", builder.op("segment_sum", weighted, owner, segments=stream.counts[to]), total)
    mean = mean if dtype == f32 else builder.op("cast", mean, dtype=dtype)
    return mean if axis == 1 else builder.op("transpose", mean, perm=_swap(value.type.rank, axis))


def _owner(stream: Stream, stage: int, to: int, builder: Builder) -> Value:
    """[B, t]: the token of stage ``to`` that each token of ``stage`` is part of."""
    if stage == 0:
        return stream.maps[to].source
    key = ("owner", stage, to)
    if key not in stream.cache:
        stream.cache[key] = builder.op("gather", stream.maps[to].source, stream.maps[stage].position, axis=1)
    return stream.cache[key]


def _swap(rank: int, axis: int) -> tuple[int, ...]:
    order = list(range(rank))
    order[1], order[axis] = order[axis], order[1]
    return tuple(order)


# Where features come from ---------------------------------------------------------------------------------------------


class Origins:
    """Which graph inputs a value depends on, as bits."""

    def __init__(self, graph: Graph) -> None:
        self._known: dict[Value, int] = {v: 1 << i for i, v in enumerate(graph.inputs)}
        for node in graph.nodes():
            self.add(node)

    def add(self, node: Node) -> None:
        bits = 0
        for value in node.inputs:
            if value is not None:
                bits |= self._known.get(value, 0)
        for value in node.outputs:
            self._known[value] = bits

    def of(self, value: Value) -> int:
        return self._known.get(value, 0)


def as_mask(per_token: Value, positive: bool, dtype: DType, builder: Builder) -> Value:
    """Sizes as a mask of ``dtype``: 1 (true) where a token is real, or the other way round."""
    mask = builder.op("gt" if positive else "le", per_token, builder.constant(0.0, f32))
    return mask if dtype == boolean else builder.op("cast", mask, dtype=dtype)
