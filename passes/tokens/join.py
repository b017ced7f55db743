"""Reduced tokens beside others: what a stream is behind `concat(text, image, text)`, and where rows of a batch become one row.

The joined tokens are a stream of their own, at a stage that this pass did not make but derives: its map is that of what was
reduced, moved behind what stands before it. So everything that belongs to places (rotary tables, masks) follows by position, as
it does behind a reduction. What is joined stands in the order of its positions, so that causal attention may follow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ...ir.builder import Builder
from ...ir.dims.dim import Dim, as_dim
from ...ir.graph import Graph, Node, Value
from ...ir.ops.shape import parse_rearrange
from ...ir.types import f32, i64
from . import stage as flow
from .carry import CannotFollow, Carrier, Targets
from .stream import Facts, Stage, Stream, TokenMap, certain, some


@dataclass(frozen=True)
class _Part:
    """Tokens that are joined with others.

    Args:
        value: the features [B, t, D].
        before: how many there were before any was reduced.
        now: how many are left.
        map: theirs, counted from 0; None for those that were not reduced.
    """

    value: Value
    before: Dim
    now: Dim
    map: TokenMap | None = None
    facts: Facts = field(default_factory=Facts)


class Joiner(Carrier):
    """Derives the stage of joined tokens."""

    # The stages that were there before this pass, and how many tokens they had.
    _counts: dict[Stage, Dim]

    def join(self, node: Node, targets: Targets) -> bool:
        """Let a node that joins reduced tokens with others follow. False for another node. Raises CannotFollow."""
        of_map = any(self.origins.maps(v) and not self.origins.of(v) for v in node.inputs if v is not None)
        joins = node.op.qualified in ("concat", "rearrange")
        if of_map and (joins or node.op.family == "order"):
            # What a pass before wrote of its map, to join it.
            raise again()
        if not joins:
            return False
        if node.output.type.rank != 3:
            return False
        if node.op.qualified == "concat" and node.attrs["axis"] == 1:
            self._concat(node, targets)
            return True
        if _is_fold(node):
            self._fold(node, targets)
            return True
        return False

    def _concat(self, node: Node, targets: Targets) -> None:
        builder = Builder(self.graph).before(node)
        parts = [self._part(v, node, targets, builder) for v in node.inputs if v is not None]
        batch = node.output.type.shape[0]
        sources, sizes, positions = [], [], []
        before, now = as_dim(0), as_dim(0)
        for part in parts:
            own = part.map or _unreduced(part.now, batch, builder)
            sources.append(_moved(own.source, now, builder))
            sizes.append(own.size)
            positions.append(_moved(own.position, before, builder))
            before, now = before + part.before, now + part.now
        joined = TokenMap(*(builder.op("concat", *fields, axis=1) for fields in (sources, sizes, positions)))
        for i, part in enumerate(parts):
            node.set_input(i, part.value)
        facts = [part.facts for part in parts]
        ends = _kept(parts, self.graph), _kept(parts[::-1], self.graph, last=True)
        self.derive(node, joined, now, facts, ends, targets)

    def _fold(self, node: Node, targets: Targets) -> None:
        """`(b n) t d -> b (n t) d`: each of the n rows stands behind the one before it."""
        value = node.inputs[0]
        assert value is not None
        builder = Builder(self.graph).before(node)
        part = self._part(value, node, targets, builder)
        assert part.map is not None
        rows = node.output.type.shape[1] // part.before
        number = builder.op("unsqueeze", builder.op("iota", n=rows, dtype=i64), axis=1)
        fields = []
        for tensor, step in ((part.map.source, part.now), (part.map.size, None), (part.map.position, part.before)):
            tensor = builder.op("rearrange", tensor, pattern="(b n) t -> b n t", axes=(("n", _plain(rows)),))
            if step is not None:
                tensor = builder.op("add", tensor, builder.op("mul", number, builder.dim_value(step)))
            fields.append(builder.op("rearrange", tensor, pattern="b n t -> b (n t)", axes=()))
        node.set_input(0, part.value)
        self.derive(node, TokenMap(*fields), rows * part.now, [part.facts], (0, 0), targets)

    def _part(self, value: Value, node: Node, targets: Targets, builder: Builder) -> _Part:
        """One operand, in the order of its positions."""
        found = next(((s, f, g) for a, s, f, g in self.token_axes(value) if a == 1 and g in targets), None)
        if found is None:
            return _Part(value, value.type.shape[1], value.type.shape[1])
        stream, first, given = found
        if given.node is not None:
            raise again()
        if self.batch(value, stream, 1) != 0:
            raise CannotFollow(
                f"`{node.op.name}` joins tokens of other rows than those that were {stream.said(targets[given][1])}"
            )
        stage = targets[given][1]
        if not self._is_at(value, stream, given, stage):
            value = self.carry(value, stream, given, stage, node)
        source, size, position = (
            flow.vector(stream, stage, what, first, builder) for what in ("source", "size", "position")
        )
        steps = stream.until(stage)
        if not all(s.facts.ordered for s in steps):
            position, order = builder.multi("sort", position, axis=1)
            rank = builder.multi("sort", order, axis=1)[1]
            source = builder.op("gather", rank, source, axis=1)
            size = builder.op("gather", size, order, axis=1)
            value = builder.op("take", value, order, axis=1, batch=1)
        kept = stream.kept(stage)
        facts = Facts(
            merged=any(s.facts.merged for s in steps),
            total=all(s.facts.total for s in steps),
            padded=stream.padded or stream.emptied(stage),
            first=max(kept[0] - first, 0),
            last=kept[1],
        )
        return _Part(value, given.count - first, stage.count - first, TokenMap(source, size, position), facts)

    def derive(
        self, node: Node, joined: TokenMap, now: Dim, facts: list[Facts], ends: tuple[int, int], targets: Targets
    ) -> None:
        """The stage of a node's result."""
        out = node.output
        stream = self._joined_stream(out)
        if len(stream.stages) > 1:
            raise again()
        if stream.stages[0].tokens is None:
            flow.start(stream, None, self.origins, Builder(self.graph).before(node))
        behind = next(iter(targets.values()))[1].behind
        own = Facts(
            merged=any(f.merged for f in facts),
            total=all(f.total for f in facts),
            padded=any(f.padded for f in facts),
            first=ends[0],
            last=ends[1],
        )
        stage = Stage(now, stream.stages[0], None, own, joined, behind, joined=True)
        stream.meet(stage)
        self.origins.adopt(stage)
        for value in joined.fields:
            value.name = "joined"
        # What the node gives is at that stage.
        targets[stream.stages[0]] = (stream, stage)

    def _joined_stream(self, out: Value) -> Stream:
        """The stream that joined tokens are: one that the pass has blocks of, or a new one."""
        view = self.view((out, 1))
        if view is not None and view[1] == 0:
            return view[0]
        stream = Stream(self.axes.find(out, 1), self.axes.find(out, 0), out.type.shape[0], [Stage(out.type.shape[1])])
        stream.inputs = self.origins.of(out)
        self.streams.append(stream)
        self._counts[stream.stages[0]] = stream.length
        self._roots.append((stream.tokens, stream, stream.stages[0]))
        self.find_views()
        return stream


def again() -> CannotFollow:
    return CannotFollow(
        "these tokens are joined with others, and were reduced before that by an earlier pass already",
        "reduce them in one pass: its `r` or `keep` may be a list, one number a block",
    )


def _is_fold(node: Node) -> bool:
    """Whether a node puts rows of a batch behind each other, `(b n) t d -> b (n t) d`."""
    parsed = parse_rearrange(node.attrs["pattern"]) if node.op.qualified == "rearrange" else None
    if parsed is None or len(parsed[0]) != 3 or len(parsed[1]) != 3:
        return False
    (batch, tokens, features), out = parsed
    return len(batch) == 2 and len(tokens) == 1 and out == ((batch[0],), (batch[1], tokens[0]), features)


def _unreduced(count: Dim, batch: Dim, builder: Builder) -> TokenMap:
    here = builder.op(
        "expand", builder.op("unsqueeze", builder.op("iota", n=count, dtype=i64), axis=0), shape=(batch, count)
    )
    return TokenMap(here, builder.op("full", shape=(batch, count), value=1.0, dtype=f32), here)


def _moved(value: Value, by: Dim, builder: Builder) -> Value:
    return value if by.value == 0 else builder.op("add", value, builder.dim_value(by))


def _kept(parts: list[_Part], graph: Graph, last: bool = False) -> int:
    """How many tokens at an end are in their places for certain."""
    number = 0
    for part in parts:
        if part.map is not None:
            return number + certain(part.facts.last if last else part.facts.first)
        if part.now.value is None:
            return number + (1 if some(part.now, graph) else 0)
        number += part.now.value
    return number


def _plain(dim: Dim) -> object:
    return dim if dim.value is None else dim.value
