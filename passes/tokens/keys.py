"""Keys and values only: attention reads fewer of them, and every token goes on.

A block's keys and values are packed into features [B, S, G * (K + V)], reduced as any others are, and unpacked again. What the mask
and the bias say of a key is what they say of the place where it stands; where later tokens are hidden, a key that several
were merged into is seen from the last of them on.
"""

from __future__ import annotations

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Node, Value
from ...ir.library import composite
from . import stage as flow
from .follow import Follower
from .stream import Stage, Stream


def pack(attention: Node, builder: Builder) -> tuple[Value, Value, Value]:
    """The keys and values of an attention as features of their tokens, and both as they are taken out of it again.

    Raises:
        Diagnostic: E0710 when a result of this attention that has an entry a key is read.
    """
    if attention.attrs["column_mass"] or attention.attrs["row"] is not None:
        raise Diagnostic(
            "E0710", "what each key of this attention receives is read, so that none of them may leave", attention.span,
            help="reduce the keys of other blocks, `blocks=[…]`",
        )  # fmt: skip
    _, k, v = attention.inputs[:3]
    assert k is not None
    assert v is not None
    flat = [builder.op("rearrange", x, pattern="b g s k -> b s (g k)", axes=()) for x in (k, v)]
    packed = builder.op("concat", *flat, axis=2)
    width, groups = flat[0].type.shape[2], k.type.shape[1]
    parts = [builder.op("slice", packed, axis=2, start=0, stop=width), builder.op("slice", packed, axis=2, start=width)]
    pattern = "b s (g k) -> b g s k"
    keys, values = (builder.op("rearrange", part, pattern=pattern, axes=(("g", groups),)) for part in parts)
    return packed, keys, values


def unpacked(packed: Value) -> None:
    """Take away what was packed for nothing."""
    made, graph = packed.node, packed.node.graph if packed.node is not None else None
    assert made is not None
    assert graph is not None
    parts = packed.users
    for node in (*(part.output.users[0] for part in parts), *parts, made, *(v.node for v in made.inputs if v is not None)):
        assert node is not None
        graph.remove(node)


def read(attention: Node, stream: Stream, left: Stage, one_way: bool, proportional: bool, follower: Follower) -> None:
    """Let an attention, whose keys and values are those of the stage ``left``, hide and weigh them as it did before.

    Args:
        one_way: whether it may hide later tokens from earlier ones.

    Raises:
        Diagnostic: E0710 when tokens that are hidden from earlier ones merged with padding.
    """
    builder, before = Builder(follower.graph).before(attention), left.parent
    assert before is not None
    merged = left.facts.merged
    stands = left.map.position
    if merged and one_way:
        if stream.padded:
            raise Diagnostic(
                "E0710", "keys of causal attention may have merged with padding, which stands behind all that see them",
                attention.span, help="let keys go instead of merging them: `prune_tokens(place=keys)`",
            )  # fmt: skip
        stands = builder.op(composite("std.token.last_member"), *left.map.fields, **left.facts.attrs("map"))
    place = stands
    if before is not stream.stages[0]:
        place = builder.op("gather", before.map.source, stands, axis=1)
    mask, bias = attention.inputs[3:5]
    if mask is not None:
        known = follower.is_padding(mask, stream)
        mask = flow.valid_mask(stream, left, builder) if known else _picked(mask, place, stream, builder)
    if attention.attrs["causal"]:
        attention.attrs["causal"] = False
        keys = builder.op("unsqueeze", stands, axis=(1, 2))
        queries = builder.op("unsqueeze", before.map.position, axis=(1, 3))
        seen = builder.op("le", keys, queries)
        mask = seen if mask is None else builder.op("logical_and", mask, seen)
    if stream.emptied(left):
        valid = flow.valid_mask(stream, left, builder)
        mask = valid if mask is None else builder.op("logical_and", mask, valid)
    attention.set_input(3, mask)
    if bias is not None:
        bias = _picked(bias, place, stream, builder)
    if merged and proportional:
        k = attention.inputs[1]
        assert k is not None
        sizes = flow.log_size(stream, left, k.type.dtype, builder)
        if any(s.facts.merged for s in stream.until(before)):
            # What the bias says of sizes already.
            counted = flow.log_size(stream, before, k.type.dtype, builder)
            sizes = builder.op("sub", sizes, _picked(counted, place, stream, builder))
        bias = sizes if bias is None else builder.op("add", bias, sizes)
    attention.set_input(4, bias)


def _picked(of_keys: Value, place: Value, stream: Stream, builder: Builder) -> Value:
    """A mask or a bias [B or 1, H, T, S] with the keys at ``place`` [B, S']."""
    batched = of_keys.type.shape[0] == stream.batch_size
    return flow.pick(of_keys, 3, place, batched, builder)
