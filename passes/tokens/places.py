"""Where tokens can leave: blocks that attend to themselves, the residual stream behind each, and what is read by place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.analysis.along import Bodies
from ...ir.analysis.axes import Axes, Axis
from ...ir.analysis.cost import ATTENTION
from ...ir.diagnostics import Diagnostic, Note, Span
from ...ir.graph import Graph, Input, Node, Value
from ...ir.op import Composite
from .stream import Stream, is_reduction

AROUND = "a pass before reduced its tokens around it, and all of them are back behind it"


@dataclass(frozen=True)
class AttentionBlock:
    """A self-attention and the value behind it that everything downstream reads.

    Args:
        index: its place among the self-attention blocks of the model.
        attention: the ``attention`` node; its operands are q, k, v, mask, bias.
        stream: [B, T, D], where tokens can leave: the sum behind attention, or the norm of it (post-norm).
        residual, branch: the operands of that sum: the one that did not pass through this attention, and the one that did.
        tokens, batch: the classes of the token and the batch axis.
    """

    index: int
    attention: Node
    stream: Value
    residual: Value
    branch: Value
    tokens: Axis
    batch: Axis


@dataclass(frozen=True)
class NearMiss:
    """An attention that is no such block, and why."""

    reason: str
    span: Span | None


def find_blocks(graph: Graph, axes: Axes, streams: list[Stream]) -> tuple[list[AttentionBlock], list[NearMiss]]:
    """The self-attention blocks in order, and the attentions that are none. Of its own tokens a block may read some that were
    reduced, in one of ``streams``."""
    made_of = {
        axes.find(stage.map.size, 1): axes.find(stage.parent.map.size, 1) if stage.parent.node is not None else stream.tokens
        for stream in streams for stage in stream.stages if stage.parent is not None
    }  # fmt: skip
    place = {node: i for i, node in enumerate(graph.nodes())}
    blocks: list[AttentionBlock] = []
    misses: list[NearMiss] = []
    for node in place:
        if node.op.qualified != ATTENTION:
            continue
        found = _block(node, len(blocks), axes, place, made_of)
        if isinstance(found, AttentionBlock):
            blocks.append(found)
        else:
            misses.append(NearMiss(found, node.span))
    return blocks, misses


def _block(
    node: Node, index: int, axes: Axes, place: dict[Node, int], made_of: dict[Axis, Axis]
) -> AttentionBlock | str:
    q, k, v = node.inputs[:3]
    assert q is not None
    assert k is not None
    assert v is not None
    tokens, batch = axes.find(q, 2), axes.find(q, 0)
    read = axes.find(k, 2)
    while read != tokens and read in made_of:
        read = made_of[read]
    if tokens != read or axes.find(k, 2) != axes.find(v, 2):
        return "its queries come from other tokens than its keys and values (cross-attention)"
    found = _residual_sum(node, tokens, axes, place)
    if found is None and tokens in made_of:
        return AROUND
    if found is None:
        return "no sum `x + …` with x: float[B, T, D] follows it before the next attention"
    add, residual = found
    if _made_of(q, residual, place) and not _made_of(k, residual, place):
        return "its keys are not made of what its queries are made of and added to (cross-attention)"
    branch = add.inputs[1] if add.inputs[0] is residual else add.inputs[0]
    assert branch is not None
    rows, wanted = q.type.shape[0], add.output.type.shape[0]
    if rows != wanted:
        return f"its batch is {rows}, but that of the sum behind it {wanted}: split heads off the batch into axis 1"
    return AttentionBlock(index, node, _stream(add, tokens, axes), residual, branch, tokens, batch)


def _made_of(value: Value, origin: Value, place: dict[Node, int]) -> bool:
    """Whether ``value`` is computed from ``origin``."""
    start = -1 if origin.node is None else place[origin.node]
    ring, seen = [value], {value}
    while ring:
        at = ring.pop()
        if at is origin:
            return True
        if at.node is not None and place[at.node] > start:
            fresh = {v for v in at.node.inputs if v is not None} - seen
            seen |= fresh
            ring += fresh
    return False


def _residual_sum(attention: Node, tokens: Axis, axes: Axes, place: dict[Node, int]) -> tuple[Node, Value] | None:
    """The first sum behind ``attention`` of something that passed through it and something that was there before."""
    passed = {attention.output}
    node = attention.next
    while node is not None and node.op.qualified != ATTENTION:
        operands = [v for v in node.inputs if v in passed]
        if operands:
            if node.op.qualified == "add" and len(operands) == 1 and _is_stream(node.output, tokens, axes):
                other = node.inputs[1] if node.inputs[0] is operands[0] else node.inputs[0]
                assert other is not None
                before = isinstance(other, Input) or (other.node is not None and place[other.node] < place[attention])
                if before and other.type == node.output.type:
                    return node, other
            passed.update(node.outputs)
        node = node.next
    return None


def _is_stream(value: Value, tokens: Axis, axes: Axes) -> bool:
    return value.type.rank == 3 and axes.find(value, 1) == tokens


def _stream(add: Node, tokens: Axis, axes: Axes) -> Value:
    """What everything behind reads: past the sum with a parallel branch, past the norm of a post-norm block, and past
    reductions that were there before."""
    value = add.output
    while len(value.users) == 1:
        user = value.users[0]
        if is_norm(user, value):
            return _reduced(user.output)
        if user.op is None or user.op.qualified != "add" or not _is_stream(user.output, tokens, axes):
            break
        other = user.inputs[1] if user.inputs[0] is value else user.inputs[0]
        if other is None or other.type != value.type:
            break
        value = user.output
    return _reduced(value)


def is_norm(user: Node, value: Value) -> bool:
    """Whether a reader of features [B, T, D] is a norm of them, or as good as one: a composite that gives each token features of
    the same type, and multiplies no matrix in doing so."""
    if not isinstance(user.op, Composite) or user.inputs[0] is not value or [v.type for v in user.outputs] != [value.type]:
        return False
    types = [None if v is None else v.type for v in user.inputs]
    return "contraction" not in _families(user) and Bodies().each(user, types, lambda v: (0, 1) if v is value else ())


def _families(node: Node) -> set[str]:
    """The families of the core ops that a node comes down to."""
    if not isinstance(node.op, Composite):
        return {node.op.family}
    body = node.op.instantiate([None if v is None else v.type for v in node.inputs], dict(node.attrs))
    return set().union(*map(_families, body.nodes()))


def _reduced(value: Value) -> Value:
    """A feature behind the reductions that it goes through at once."""
    user = next((u for u in value.users if u.op is not None and is_reduction(u.op) and u.inputs[0] is value), None)
    return value if user is None else _reduced(user.output)


@dataclass(frozen=True)
class Place:
    """Where tokens of a block leave.

    Args:
        x: the features [B, T, D] that are reduced.
        end: behind which every token is given back; None where those that left are gone.
        behind: whether the block's attention has run before.
    """

    x: Value
    end: Value | None = None
    behind: bool = False


def place_of(
    block: AttentionBlock, blocks: list[AttentionBlock], place: str, feature: Callable[[Value], bool]
) -> Place | None:
    """Where the tokens of a block leave, for each word of the option `place` but `keys`; None where a block has no such place.

    ``feature`` tells what is made of tokens' features from what is made of their places.
    """
    if place == "start":
        return Place(block.residual)
    if place == "around_block":
        return Place(block.residual, end_of(block, blocks))
    if place == "around_attention":
        return Place(_front(block, feature), block.branch)
    if place == "attention":
        return Place(block.stream, behind=True)
    following = _following(block, blocks)
    return Place(following, behind=True) if following is not None else None


def _following(block: AttentionBlock, blocks: list[AttentionBlock]) -> Value | None:
    """What the next block adds to."""
    behind = next((b for b in blocks if b.index > block.index and b.tokens == block.tokens), None)
    return behind.residual if behind is not None and isinstance(behind.residual.node, Node) else None


def end_of(block: AttentionBlock, blocks: list[AttentionBlock]) -> Value:
    """The features behind all of a block: what the next one adds to; of the last one, behind its last sum and that one's norm."""
    following = _following(block, blocks)
    if following is not None:
        return following
    value = block.stream
    while (behind := _next_sum(value)) is not None:
        value = behind
    return value


def _next_sum(value: Value) -> Value | None:
    """The sum of a feature and of what is made of it, behind its norm where that alone reads it."""
    passed, node = {value}, value.node
    while node is not None:
        if any(v in passed for v in node.inputs):
            if node.op.qualified == "add" and value in node.inputs and all(v in passed for v in node.inputs):
                only = node.output.users[0] if len(node.output.users) == 1 else None
                return only.output if only is not None and is_norm(only, node.output) else node.output
            passed.update(node.outputs)
        node = node.next
    return None


def _front(block: AttentionBlock, feature: Callable[[Value], bool]) -> Value:
    """The features of which queries, keys and values are made: the norm in front of them, or the residual itself.

    Going back from the three, always from the last one made, until one value is left of which all of them are made.
    """
    order = {node: i for i, node in enumerate(_graph(block).nodes())}
    frontier = {v for v in block.attention.inputs[:3] if v is not None}
    found = block.residual
    while frontier and frontier != {block.residual}:
        last = max(frontier, key=lambda v: order.get(v.node, -1) if v.node is not None else -1)
        if last.node is None:
            break
        if len(frontier) == 1 and last.type == block.residual.type:
            found = last
        frontier = (frontier - {last}) | {v for v in last.node.inputs if v is not None and feature(v)}
    # A product of the residual itself is no norm of it.
    product = found.node is not None and found.node.op.family == "contraction"
    return block.residual if product else found


def _graph(block: AttentionBlock) -> Graph:
    graph = block.attention.graph
    assert graph is not None
    return graph


def no_block(graph: Graph, misses: list[NearMiss], what: str) -> Diagnostic:
    """E0707, naming the place that came closest."""
    notes = [Note(f"this attention is not one: {miss.reason}", miss.span) for miss in misses[:1]]
    if not misses:
        softmax = next((n for n in graph.nodes() if n.op.name in ("softmax", "exp")), None)
        if softmax is not None:
            reason = "an attention written out, or inlined, is recognised by `raise_composites`, not here"
            notes = [Note(f"the closest is this `{softmax.op.name}`: {reason}", softmax.span)]
    if any(miss.reason == AROUND for miss in misses):
        return Diagnostic(
            "E0707",
            f"{what} found no block to work on: {AROUND}",
            misses[0].span,
            help="let this pass run before the one that reduces around attention, or reduce in blocks that it leaves alone",
        )
    return Diagnostic(
        "E0707",
        f"{what} found no block to work on: it looks for `std.attention.attention` whose queries, keys and values come "
        "from the same tokens, followed by a residual sum `x + …` with x: float[B, T, D]",
        notes=notes,
        help="build blocks with `self_attention` or `attention` of std.attention, and run the pass before `inline`; "
        "behind an import, run `raise_composites` first",
    )
