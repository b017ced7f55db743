"""What a stage of a stream says of its tokens: padding, per-token vectors, and how features of earlier stages are carried to it."""

from __future__ import annotations

from ...ir.analysis.axes import Axes
from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Initializer, Value
from ...ir.library import composite
from ...ir.op import Trait, has, moves_whole
from ...ir.types import DType, TensorType, boolean, f16, f32
from .stream import Origins, Stage, Stream, TokenMap

# (comparison, constant) -> whether true means a token that counts, for a mask of 0 and 1.
_COMPARISONS: dict[tuple[str, float | None], bool] = {
    ("ne", 0.0): True, ("gt", 0.0): True, ("eq", 1.0): True, ("ge", 1.0): True,
    ("eq", 0.0): False, ("lt", 1.0): False, ("le", 0.0): False,
}  # fmt: skip


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
        compares = has(node, Trait.COMPARES) or (name == "cast" and node.attrs["dtype"] == boolean)
        if compares and before.type.dtype != boolean and origins.of(before) & stream.inputs:
            break
        if name == "logical_not":
            positive = not positive
        elif not moves_whole(node) and name != "cast":
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
    if node is None or node.op is None or not has(node, Trait.MEETS):
        return None
    parts = (padding_in(v, stream, axes) for v in node.inputs if v is not None)
    return next((part for part in parts if part is not None), None)


def start(stream: Stream, mask: Value | None, origins: Origins, builder: Builder) -> None:
    """The map of the original tokens, with the sizes of padding 0 where ``mask`` says so."""
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
    stream.stages[0].tokens = name_fields(fields, 0)
    origins.adopt(stream.stages[0])


def padding_known(stream: Stream, origins: Origins) -> None:
    """What the map of the original tokens, which a pass before made, says of padding."""
    made = stream.stages[0].map.size.node
    if made is None or made.op is None:
        stream.padded = True
    elif made.inputs and made.inputs[0] is not None:
        stream.padded = True
        stream.padding = trace_mask(made.inputs[0], origins, stream)


def name_fields(fields: list[Value], stage: int) -> TokenMap:
    """The record, whose name in print is that of its first field."""
    for value in fields:
        value.name = f"map{stage}"
    return TokenMap(*fields)


# Per-token vectors ----------------------------------------------------------------------------------------------------


def vector(stream: Stream, stage: Stage, what: str, first: int, builder: Builder) -> Value:
    """``size``, ``position`` [B, t] or ``source`` [B, N] of the tokens from number ``first`` on, counted from there."""
    whole: Value = getattr(stage.map, what)
    if first == 0:
        return whole
    key = (what, stage, first)
    if key not in stream.cache:
        part = builder.op("slice", whole, axis=1, start=first)
        if what != "size":
            part = builder.op("sub", part, builder.constant(first, part.type.dtype))
        if what == "source" and not all(s.facts.total for s in stream.until(stage)):
            # For a dropped token may stand one that is cut off here: the nearest that is not stands for both.
            part = builder.op("maximum", part, builder.constant(0, part.type.dtype))
        stream.cache[key] = part
    return stream.cache[key]


def random_numbers(name: str, batch: Dim, tokens: TokenMap, builder: Builder) -> Value:
    """[B, t]: a number from 0 to 1 for each token, which the runtime draws as the input ``name``.

    One is drawn for each original token and looked up by position: the sizes of an input are in free symbols only.
    """
    type = TensorType(f32, (batch, builder.graph.expand_lets(tokens.source.type.shape[1])))
    drawn = builder.input(name, type, "random", Initializer("uniform", (0.0, 1.0)))
    return builder.op("gather", drawn, tokens.position, axis=1)


def log_size(stream: Stream, stage: Stage, dtype: DType, builder: Builder) -> Value:
    """The bias [B, 1, 1, t] of proportional attention: log(size), and for padding a low number that is finite."""
    key = ("log size", stage, dtype)
    if key not in stream.cache:
        bias = _of_map("size_bias", stage, builder)
        if stream.padded:
            # -inf would do in attention, but a row that is padding alone must not become NaN on any backend.
            bias = builder.op("maximum", bias, builder.constant(-3e4 if dtype == f16 else -1e9, f32))
        stream.cache[key] = bias if dtype == f32 else builder.op("cast", bias, dtype=dtype)
    return stream.cache[key]


def valid_mask(stream: Stream, stage: Stage, builder: Builder) -> Value:
    """The mask [B, 1, 1, t] that is false at padding."""
    key = ("valid", stage)
    if key not in stream.cache:
        stream.cache[key] = _of_map("size_mask", stage, builder)
    return stream.cache[key]


def unmerged(value: Value, stage: Stage, builder: Builder) -> Value:
    """[B, t, D] with every original token given what the token has that it became part of."""
    unmerge = composite("std.token.unmerge")
    return builder.op(unmerge, value, *stage.map.fields, **stage.facts.attrs("map"))


def _of_map(name: str, stage: Stage, builder: Builder) -> Value:
    return builder.op(composite(f"std.token.{name}"), *stage.map.fields, **stage.facts.attrs("map"))


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


def reduced(
    stream: Stream, value: Value, axis: int, stage: Stage, to: Stage, builder: Builder, extensive: bool = False
) -> Value:
    """A feature [B, …, t, …] of an earlier stage as every reduction since would have made it: averaged (by size) over what was
    merged, or added up where it is ``extensive``; picked where tokens were dropped."""
    forward = value if axis == 1 else builder.op("transpose", value, perm=_swap(value.type.rank, axis))
    steps = stream.between(stage, to)
    while steps:
        merged = steps[0].facts.merged
        last = 0
        while last + 1 < len(steps) and steps[last + 1].facts.merged == merged:
            last += 1
        step = _picked if not merged else _sum if extensive else _mean
        forward = step(stream, forward, stage, steps[last], builder)
        stage, steps = steps[last], steps[last + 1 :]
    return forward if axis == 1 else builder.op("transpose", forward, perm=_swap(value.type.rank, axis))


def _mean(stream: Stream, value: Value, stage: Stage, to: Stage, builder: Builder) -> Value:
    dtype, rank = value.type.dtype, value.type.rank
    places = owner(stream, stage, to, 0, builder)
    shares = spread(stage.map.size, rank, 1, 0, builder)
    total = spread(to.map.size, rank, 1, 0, builder)
    total = builder.op("where", builder.op("eq", total, builder.constant(0.0, f32)), builder.constant(1.0, f32), total)
    weighted = builder.op("mul", builder.op("cast", value, dtype=f32), shares)
    mean = builder.op("div", builder.op("segment_sum", weighted, places, segments=to.count), total)
    return mean if dtype == f32 else builder.op("cast", mean, dtype=dtype)


def _sum(stream: Stream, value: Value, stage: Stage, to: Stage, builder: Builder) -> Value:
    return builder.op("segment_sum", value, owner(stream, stage, to, 0, builder), segments=to.count)


def _picked(stream: Stream, value: Value, stage: Stage, to: Stage, builder: Builder) -> Value:
    return builder.op("take", value, place_in(stream, stage, to, builder), axis=1, batch=1)


def place_in(stream: Stream, stage: Stage, to: Stage, builder: Builder) -> Value:
    """[B, t]: where among the tokens of ``stage`` each token of stage ``to`` stands."""
    if stage is stream.stages[0]:
        return to.map.position
    key = ("place", stage, to)
    if key not in stream.cache:
        stream.cache[key] = builder.op("gather", stage.map.source, to.map.position, axis=1)
    return stream.cache[key]


def owner(stream: Stream, stage: Stage, to: Stage, first: int, builder: Builder) -> Value:
    """[B, t]: the token of stage ``to`` that each of ``stage`` is part of, from number ``first`` on and counted from there."""
    if stage is stream.stages[0]:
        return vector(stream, to, "source", first, builder)
    key = ("owner", stage, to)
    if key not in stream.cache:
        stream.cache[key] = builder.op("gather", to.map.source, stage.map.position, axis=1)
    whole = stream.cache[key]
    if first == 0:
        return whole
    part = builder.op("slice", whole, axis=1, start=first)
    return builder.op("sub", part, builder.constant(first, part.type.dtype))


def _swap(rank: int, axis: int) -> tuple[int, ...]:
    order = list(range(rank))
    order[1], order[axis] = order[axis], order[1]
    return tuple(order)


def as_mask(per_token: Value, positive: bool, dtype: DType, builder: Builder) -> Value:
    """Sizes as a mask of ``dtype``: 1 (true) where a token is real, or the other way round."""
    mask = builder.op("gt" if positive else "le", per_token, builder.constant(0.0, f32))
    return mask if dtype == boolean else builder.op("cast", mask, dtype=dtype)
