"""Segments: a part of a stream whose tokens may leave, while all others stay, such as an image among the words of a prompt.

A segment is named by the input that its tokens are made of, where `concat(text, image, text)` joins it with others, or by the name
of what is joined; or it is said from which token to which it goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.analysis.axes import Axes
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note, did_you_mean
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Graph, Require, Value
from ...ir.notation import show_value
from .places import AttentionBlock
from .stream import Origins, Stream, never, some

Segment = str | tuple[int, ...]


@dataclass(frozen=True)
class Outside:
    """What of a stream stays.

    Args:
        first, last: how many tokens in front of the segment and behind it; a number that only run time knows is one symbol.
        count: both together, in free symbols.
    """

    first: int | Dim
    last: int | Dim
    count: Dim


def find_outside(
    segment: Segment, graph: Graph, stream: Stream, block: AttentionBlock, axes: Axes, origins: Origins
) -> Outside:
    """What stays of a stream, whose first block that is reduced is ``block``. Raises E0705 for a segment that it does not have."""
    if isinstance(segment, str):
        first, last = _named(segment, graph, stream, block, axes, origins)
    else:
        first, last = _counted(segment, stream, block)
    tokens, first, last = (graph.expand_lets(count) for count in (stream.length, first, last))
    _need(graph, tokens - first - last, "the segment has at least one token", block)
    ends = _count(first, "before", graph, block), _count(last, "behind", graph, block)
    for stage in stream.stages[1:]:
        for end, kept in zip(ends, (stage.facts.first, stage.facts.last), strict=True):
            if end != kept and not (isinstance(end, int) and isinstance(kept, int) and end < kept):
                raise Diagnostic(
                    "E0705", f"`segment={show_value(segment)}` counts tokens, of which a pass before this one let some go",
                    stage.node.span if stage.node is not None else None,
                    help="reduce the segment first, or let the pass before keep to it as well, by the same `segment`",
                )  # fmt: skip
    return Outside(*ends, first + last)


def _count(tokens: Dim, name: str, graph: Graph, block: AttentionBlock) -> int | Dim:
    """A number of tokens, as an op takes it: where only run time knows it, a symbol, which is at least 1."""
    if tokens.value is not None:
        return tokens.value
    _need(graph, tokens, f"at least one token stands {name} the segment", block)
    return Builder(graph).name_dim(name, tokens, least=1)


def _need(graph: Graph, tokens: Dim, why: str, block: AttentionBlock) -> None:
    """Require that there is a token. Raises E0705 where no size that the program takes has one."""
    if (against := never(tokens, graph)) is not None:
        raise Diagnostic(
            "E0705", f"`segment` asks for more tokens than block {block.index} ever attends to: {why} where `{tokens} >= 1`",
            block.attention.span, notes=[Note(f"the model requires `{against.left} {against.op} {against.right}`", against.span)],
            help="write the place of its first token and that of the first one behind it: `[3, 20]`, or `[3, -20]`",
        )  # fmt: skip
    if not some(tokens, graph):
        graph.requires.append(Require(tokens, ">=", as_dim(1), why, block.attention.span))


def _counted(places: tuple[int, ...], stream: Stream, block: AttentionBlock) -> tuple[Dim, Dim]:
    """From one token to another, as a slice: `[3, -20]`, `[5, 581]`, or `[5]` up to the last."""
    start, *rest = (as_dim(at) if at >= 0 else stream.length + at for at in places)
    stop = rest[0] if rest else stream.length
    first, last = start, stream.length - stop
    for part in (first, last, stop - start - 1):
        if part.value is not None and part.value < 0:
            raise Diagnostic(
                "E0705",
                f"`segment={show_value(places)}` is no part of the {stream.length} tokens that block {block.index} attends to",
                block.attention.span,
                help="write the place of its first token and that of the first one behind it: `[3, 20]`, or `[3, -20]`",
            )
    return first, last


def _named(
    name: str, graph: Graph, stream: Stream, block: AttentionBlock, axes: Axes, origins: Origins
) -> tuple[Dim, Dim]:
    """The parts of what is joined that are called so, or are made of the input of that name."""
    parts = list(_parts(block.residual, stream, axes))
    bits = next((1 << i for i, v in enumerate(graph.inputs) if name in (v.name, v.public)), 0)
    inside = [part.name == name or bool(origins.of(part) & bits) for part in parts]
    places = [i for i, mine in enumerate(inside) if mine]
    what = f"the tokens that block {block.index} attends to"
    ways = "say from which token to which it goes, `segment=[3, -20]`, or choose other blocks, `blocks=[…]`"
    if not places:
        known = sorted({v.public for v in graph.inputs} | {part.name for part in parts if part.name})
        told = f"of {what} none is made of it" if bits else "the model has no input of that name, nor a part that is joined"
        raise Diagnostic(
            "E0705", f"`segment` names `{name}`, but {told}", block.attention.span, help=did_you_mean(name, known) or ways
        )
    if len(parts) == 1 and origins.of(parts[0]) & ~bits:
        raise Diagnostic(
            "E0705", f"`segment` names `{name}`, but {what} are made of it and of others together: where its own stand is not told",
            block.attention.span, help=ways,
        )  # fmt: skip
    if places != list(range(places[0], places[-1] + 1)):
        raise Diagnostic(
            "E0705", f"`segment` names `{name}`, of which there are {len(places)} parts among {what}, with others between them",
            block.attention.span, help=ways,
        )  # fmt: skip
    sizes = [part.type.shape[1] for part in parts]
    return sum(sizes[: places[0]], as_dim(0)), sum(sizes[places[-1] + 1 :], as_dim(0))


def _parts(features: Value, stream: Stream, axes: Axes) -> Iterator[Value]:
    """What features [B, T, D] were joined of along their tokens, or themselves."""
    joined = _joined(features, stream, axes)
    return iter((features,)) if joined is None else _operands(joined)


def _operands(joined: Value) -> Iterator[Value]:
    assert joined.node is not None
    for part in joined.node.inputs:
        assert part is not None
        yield from _operands(part) if _is_join(part) else (part,)


def _is_join(value: Value) -> bool:
    node = value.node
    return node is not None and node.op.qualified == "concat" and value.type.rank == 3 and node.attrs["axis"] == 1


def _joined(features: Value, stream: Stream, axes: Axes) -> Value | None:
    """The last join of whole tokens that features were made of, be some reduced since."""
    classes = {stream.tokens, *(axes.find(stage.map.size, 1) for stage in stream.stages[1:])}
    pending, seen = [features], {features}
    while pending:
        value = pending.pop(0)
        if _is_join(value):
            return value
        for operand in value.node.inputs if value.node is not None else ():
            if operand is not None and operand not in seen and any(
                axes.find(operand, axis) in classes for axis in range(operand.type.rank)
            ):  # fmt: skip
                seen.add(operand)
                pending.append(operand)
    return None
