"""Which stage of a shrinking token stream a value is at, and what it is at another one.

A padding mask follows by the sizes, a rotary table by position, a bias or window of pairs of places by the positions of both,
a feature as an average over what was merged. What a pass before computed from a token map is computed from the later map.
"""

from __future__ import annotations

from typing import Any

from ...ir.analysis.axes import Axes, Axis
from ...ir.builder import Builder
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value
from ...ir.op import Trait, has
from . import stage as flow
from .stream import Origins, Stage, Stream, map_leaves, map_operand

# One axis of a value that belongs to a stream: (axis, stream, how many of its first tokens are cut off, its stage in the graph
# as it was given).
TokenAxis = tuple[int, Stream, int, Stage]
# Which stage a node meets instead of one that it was given.
Targets = dict[Stage, tuple[Stream, Stage]]


class CannotFollow(Exception):
    """Something that belongs to token places; the message says what."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.help = help


class Carrier:
    """The stages of all values of one graph, whose ``streams`` are known by their axis classes."""

    def __init__(self, graph: Graph, axes: Axes, streams: list[Stream], origins: Origins) -> None:
        self.graph, self.axes, self.streams, self.origins = graph, axes, streams, origins
        self._stage: dict[tuple[Value, Stream], Stage] = {}
        # Of a value whose axes are at several stages of a stream: which each was given at, and is at now.
        self._axis_stage: dict[tuple[Value, Stage], Stage] = {}
        self._views: dict[Axis, tuple[Stream, int, Stage]] = {}
        self._carried: dict[tuple[Any, ...], Value] = {}
        # The nodes that read every token, restored, since they cannot follow.
        self.restored: list[Node] = []
        # Which class each stage that was in the graph already has.
        self._roots = [(s.tokens, s, s.stages[0]) for s in streams]
        self._roots += [((stage.map.size, 1), s, stage) for s in streams for stage in s.stages[1:]]
        self.find_views()

    def find_views(self) -> None:
        """Classes that are a stage of a stream, or without its first tokens: `x[:, 1:]`."""
        for root, stream, stage in self._roots:
            self._views[self.axes.find(*root)] = (stream, 0, stage)
        for cut in self.axes.cuts:
            seen = self._views.get(self.axes.find(*cut.source))
            if seen is not None:
                stream, first, stage = seen
                self._views.setdefault(self.axes.find(*cut.result), (stream, first + cut.start, stage))

    def view(self, axis: Axis) -> tuple[Stream, int, Stage] | None:
        """The stream that an axis class is, how many of its first tokens are cut off, and its stage as given."""
        return self._views.get(self.axes.find(*axis))

    def token_axes(self, value: Value) -> list[TokenAxis]:
        """The axes of a value that are tokens of a stream."""
        found = []
        for axis in range(value.type.rank):
            view = self._views.get(self.axes.find(value, axis))
            if view is not None:
                found.append((axis, *view))
        return found

    def stage(self, value: Value, stream: Stream) -> Stage:
        """The stage at which a value has the tokens of a stream."""
        known = self._stage.get((value, stream))
        if known is not None:
            return known
        return next((given for _, s, _, given in self.token_axes(value) if s is stream), stream.stages[0])

    def axis_stage(self, value: Value, stream: Stream, given: Stage) -> Stage:
        """The stage of those axes of a value that were given at one: queries and keys may be at two."""
        known = self._axis_stage.get((value, given))
        return known if known is not None else self._stage.get((value, stream), given)

    def is_feature(self, value: Value, stream: Stream) -> bool:
        return bool(self.origins.of(value) & stream.inputs)

    def align(self, node: Node, targets: Targets) -> None:
        """Carry every operand to the stages at which this node meets the streams."""
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            for given, (stream, stage) in targets.items():
                tokens = any(g is given for _, s, _, g in self.token_axes(value))
                other = stage is not given and given in self.origins.maps(value)
                made_of = other and not self.is_feature(value, stream)
                if (tokens and not self._is_at(value, stream, given, stage)) or (made_of and not tokens):
                    value = self.carry(value, stream, given, stage, node)
                    node.set_input(i, value)
        first = map_leaves(node.op)
        if first is not None:
            self._take_facts(node, first)

    def _take_facts(self, node: Node, first: int) -> None:
        """The facts of the map that a node takes now."""
        size = node.inputs[first + 1]
        stage = next((s for stream in self.streams for s in stream.stages if s.tokens and s.map.size is size), None)
        if stage is not None:
            node.attrs.update(stage.facts.attrs(map_operand(node.op)))

    def _is_at(self, value: Value, stream: Stream, given: Stage, stage: Stage) -> bool:
        """Whether a value's tokens are those of a stage, and as many."""
        sizes = [value.type.shape[a] + first for a, _, first, g in self.token_axes(value) if g is given]
        return self.axis_stage(value, stream, given) is stage and all(size == stage.count for size in sizes)

    def carry(self, value: Value, stream: Stream, given: Stage, to: Stage, node: Node) -> Value:
        """``value``, made for stage ``given`` of ``stream``, at stage ``to``, for ``node`` to read. Raises CannotFollow."""
        rank = max(v.type.rank for v in (value, *node.outputs)) if node.op.family == "elementwise" else value.type.rank
        # In front of its first reader: later readers come later in the order.
        return self._at(value, stream, given, to, rank, Builder(self.graph).before(node))

    def _at(self, value: Value, stream: Stream, given: Stage, to: Stage, rank: int, builder: Builder) -> Value:
        made_of = not self.origins.maps(value).isdisjoint(stream.stages)
        if not made_of and all(s is not stream for _, s, _, _ in self.token_axes(value)):
            return value
        key = (value, stream, given, to, rank)
        if key not in self._carried:
            self._carried[key] = self._carry(value, stream, given, to, rank, builder)
        return self._carried[key]

    def _carry(self, value: Value, stream: Stream, given: Stage, to: Stage, rank: int, builder: Builder) -> Value:
        places = [(axis, first) for axis, s, first, g in self.token_axes(value) if s is stream and g is given]
        stage = self.axis_stage(value, stream, given)
        is_feature = value.type.dtype.kind == "float" and self.is_feature(value, stream)
        if given is not to and given in self.origins.maps(value) and not self.is_feature(value, stream):
            return self._remade(value, stream, given, to, builder)
        if len(places) > 1:
            return self._carry_pairs(value, stream, given, to, rank, builder)
        axis, first = places[0]
        original = stage is stream.stages[0]
        batch = self.batch(value, stream, axis)
        self._check_batch(value, stream, axis, batch, rank)
        source = value, axis
        if batch is None and rank > value.type.rank:
            value = builder.op("unsqueeze", value, axis=tuple(range(rank - value.type.rank)))
            axis += value.type.rank - (value.node.inputs[0].type.rank)  # type: ignore[union-attr]
        if (
            original
            and stream.padding is not None
            and flow.trace_mask(value, self.origins, stream)[0] is stream.padding[0]
        ):
            out = self._carried_mask(value, stream, axis, first, batch or 0, to, builder)
        elif value.node is not None and value.node.op.qualified == "full":
            shape = with_size(value.node.attrs["shape"], axis, to.count - first)
            out = builder.op("full", **{**value.node.attrs, "shape": shape})
        elif is_feature and batch == 0 and first == 0 and stage is not to:
            out = flow.reduced(stream, value, axis, stage, to, builder, self.origins.extensive(value))
        elif is_feature or not original or batch not in (0, None):
            before = {"merged": "the merge", "dropped": "tokens were dropped"}[said := stream.said(to)]
            raise CannotFollow(f"{shown(value)} comes from before {before}, and cannot be carried to {said} tokens")
        else:
            out = flow.pick(value, axis, flow.vector(stream, to, "position", first, builder), batch == 0, builder)
        self._adopt(out, axis, source, stream, to)
        for other in range(value.type.rank):
            # Tokens of another stream, which a mask of pairs has for its keys, say.
            if other != axis:
                self.axes.link(value, other, out, other)
        for _, s, _, other_given in self.token_axes(value):
            if s is stream and other_given is not given:
                self._axis_stage[out, other_given] = self.axis_stage(source[0], stream, other_given)
        return out

    def _remade(self, value: Value, stream: Stream, old: Stage, to: Stage, builder: Builder) -> Value:
        """What was computed from the map of one stage, computed from that of another."""
        if old not in self.origins.maps(value):
            return value
        key = (value, old, to, "remade")
        if key not in self._carried:
            for was, now in zip(old.map.fields, to.map.fields, strict=True):
                if was is value:
                    return now
            node = value.node
            assert node is not None
            inputs = [v and self._remade(v, stream, old, to, builder) for v in node.inputs]
            attrs = {**node.attrs, **self._patched(node, {old: (stream, to)})}
            if map_leaves(node.op) is not None:
                attrs |= to.facts.attrs(map_operand(node.op))
            if node.attrs.get("segments") == old.count:
                attrs["segments"] = to.count
            for was, now in zip(node.outputs, builder.multi(node.op, *inputs, **attrs), strict=True):
                now.name = was.name
                self._take_over(was, now, stream, to)
                self._carried[was, old, to, "remade"] = now
        return self._carried[key]

    def _patched(self, node: Node, targets: Targets) -> dict[str, Any]:
        """Token counts that an op has in its attributes, as they become."""
        attrs: dict[str, Any] = {}
        now = node.attrs
        for axis, _, first, given in self.token_axes(node.output):
            if given not in targets:
                continue
            count = targets[given][1].count - first
            if has(node, Trait.SHAPED):
                attrs["shape"] = with_size(attrs["shape"] if attrs else now["shape"], axis, count)
            elif node.op.qualified == "rearrange" and node.attrs["axes"]:
                name = node.attrs["pattern"].partition("->")[2].replace("(", " ( ").split()
                if "(" not in name[: axis + 1]:
                    sizes = attrs["axes"] if attrs else now["axes"]
                    attrs["axes"] = tuple((n, plain(count) if n == name[axis] else d) for n, d in sizes)
            elif node.op.family == "segment":
                attrs["segments"] = plain(count)
        return attrs

    def _carry_pairs(self, value: Value, stream: Stream, given: Stage, to: Stage, rank: int, builder: Builder) -> Value:
        """What says something of pairs of places: a relative position bias, a window. A merged token stands where the token is
        that the others were merged into; what was made of restored tokens says there what it says of the merged one."""
        node, origins, floats = value.node, self.origins.of(value), value.type.dtype.kind == "float"
        features = floats and origins & stream.inputs and not self._of_restored(value, stream)
        if self.stage(value, stream) is not stream.stages[0] or features:
            before = {"merged": "the merge", "dropped": "some were dropped"}[stream.said(to)]
            raise CannotFollow(f"{shown(value)} compares tokens as they were before {before}, not places")
        says_padding = stream.padding is not None and origins & self.origins.of(stream.padding[0])
        if node is not None and node.op is not None and has(node, Trait.CONNECTS) and says_padding and not floats:
            # What is padding is in the sizes, which know it of merged tokens better than a place does.
            parts = [v and self._at(v, stream, given, to, value.type.rank, builder) for v in node.inputs]
            out = builder.op(node.op, *parts, **node.attrs)
            self._take_over(value, out, stream, to)
            return out
        if node is not None and node.op.qualified == "expand" and (row := self._row(node, stream)) is not None:
            # The same for all rows: one is enough to pick from.
            out = self._at(row, stream, given, to, rank, builder)
            if any(d == 1 != e for d, e in zip(row.type.shape[1:], value.type.shape[1:], strict=True)):
                shape = tuple(e if d == 1 else d for d, e in zip(out.type.shape, value.type.shape, strict=True))
                out = builder.op("expand", out, shape=tuple(map(plain, shape)))
                self._take_over(value, out, stream, to)
            return out
        places = [(axis, first) for axis, s, first, _ in self.token_axes(value) if s is stream]
        batch = self.batch(value, stream, places[0][0])
        self._check_batch(value, stream, places[0][0], batch, rank)
        if batch not in (None, 0) or len(places) > 2:
            raise CannotFollow(f"{shown(value)} relates token places; it cannot be carried to {stream.said(to)} tokens")
        out, shift = value, 0
        if batch is None and rank > value.type.rank:
            shift = rank - value.type.rank
            out = builder.op("unsqueeze", value, axis=tuple(range(shift)))
        for n, (axis, first) in enumerate(places):
            index = flow.vector(stream, to, "position", first, builder)
            out = flow.pick(out, axis + shift, index, batch == 0 or n > 0, builder)
        self._take_over(value, out, stream, to)
        return out

    def _of_restored(self, value: Value, stream: Stream) -> bool:
        """Whether all features that a value was made of were restored on the way to it."""
        pending, seen, ends = [value], {value}, set(self.restored)
        while pending:
            node = pending.pop().node
            if node is None:
                return False
            fresh = {v for v in node.inputs if v is not None and self.is_feature(v, stream)} - seen
            seen |= fresh
            pending += fresh if node not in ends else ()
        return True

    def _row(self, node: Node, stream: Stream) -> Value | None:
        """What an ``expand`` repeats for each row, where that is all the places too."""
        row, whole = node.inputs[0], node.output
        if (
            row is None
            or row.type.rank != whole.type.rank
            or row.type.shape[0] != 1
            or whole.type.shape[0] != stream.batch_size
        ):
            return None
        tokens = [axis for axis, s, _, _ in self.token_axes(whole) if s is stream]
        return row if all(row.type.shape[axis] == whole.type.shape[axis] for axis in tokens) else None

    def _take_over(self, old: Value, new: Value, stream: Stream, stage: Stage) -> None:
        """``new`` is ``old`` at ``stage``, perhaps with other rows and more axes in front."""
        shift = new.type.rank - old.type.rank
        tokens = {axis for axis, s, _, _ in self.token_axes(old) if s is stream}
        for axis, (before, after) in enumerate(zip(old.type.shape, new.type.shape[shift:], strict=True)):
            if axis in tokens or before == after:
                self.axes.join((old, axis), (new, axis + shift))
        if new.type.rank and new.type.shape[0] == stream.batch_size:
            self.axes.join(stream.batch, (new, 0))
        self._stage[new, stream] = stage
        if new.node is not None:
            self.origins.add(new.node)

    @staticmethod
    def _check_batch(value: Value, stream: Stream, axis: int, batch: int | None, rank: int) -> None:
        if (
            batch is None
            and rank == value.type.rank
            and stream.batch_size != 1
            and (axis == 0 or value.type.shape[0] != 1)
        ):
            raise CannotFollow(f"{shown(value)} has no batch axis, but which tokens leave differs within a batch")

    def _carried_mask(
        self, value: Value, stream: Stream, axis: int, first: int, batch: int, to: Stage, builder: Builder
    ) -> Value:
        """The padding mask, or what was made from it, is true where a token's size is not 0."""
        assert stream.padding is not None
        size = flow.vector(stream, to, "size", first, builder)
        positive = flow.trace_mask(value, self.origins, stream)[1] == stream.padding[1]
        mask = flow.as_mask(size, positive, value.type.dtype, builder)
        out = flow.spread(mask, value.type.rank, axis, batch, builder)
        if all(d == 1 for i, d in enumerate(value.type.shape) if i not in (axis, batch)):
            return out
        shape = with_size(with_size(value.type.shape, axis, out.type.shape[axis]), batch, stream.batch_size)
        return builder.op("expand", out, shape=shape)

    def adopt(self, value: Value, axis: int, like: Axis, stream: Stream, stage: Stage) -> None:
        """Say what a value is that was made beside the walk: its tokens along ``axis`` are those of ``like``, at ``stage``."""
        self._adopt(value, axis, like, stream, stage)

    def _adopt(self, value: Value, axis: int, like: Axis, stream: Stream, stage: Stage) -> None:
        """Say what a value that this pass made is: tokens along ``axis``, as those of ``like``, at ``stage``."""
        self.axes.join(like, (value, axis))
        if value.type.shape[0] == stream.batch_size and axis != 0:
            self.axes.join(stream.batch, (value, 0))
        self._stage[value, stream] = stage
        if value.node is not None:
            self.origins.add(value.node)

    def batch(self, value: Value, stream: Stream, axis: int) -> int | None:
        """Where the batch axis of a value is, if it has one."""
        root = self.axes.find(*stream.batch)
        for i in range(value.type.rank):
            if i != axis and self.axes.find(value, i) == root:
                return i
        return 0 if stream.batch_size == 1 and axis > 0 and value.type.shape[0] == 1 else None

    def brought(
        self, value: Value, axis: int, like: Axis, stream: Stream, stage: Stage, to: Stage, builder: Builder
    ) -> Value:
        """A feature that this pass made, with the tokens of ``like`` along ``axis``, from ``stage`` to ``to``."""
        if stage is to:
            return value
        out = flow.reduced(stream, value, axis, stage, to, builder)
        self._adopt(out, axis, like, stream, to)
        return out

    def adopt_reduced(self, x: Value, y: Value, stream: Stream, stage: Stage) -> None:
        """``y`` is ``x`` after one more reduction, which made ``stage``."""
        for axis in range(x.type.rank):
            self.axes.join((x, axis), (y, axis))
        self._adopt(y, 1, (x, 1), stream, stage)


def with_size(shape: tuple[Any, ...], axis: int, dim: Dim) -> tuple[Any, ...]:
    """A shape attribute with another size at ``axis``."""
    return (*map(plain, shape[:axis]), plain(dim), *map(plain, shape[axis + 1 :]))


def resized(shape: tuple[Dim, ...], axis: int, dim: Dim) -> tuple[Dim, ...]:
    """A type's shape with another size at ``axis``."""
    return (*shape[:axis], dim, *shape[axis + 1 :])


def plain(dim: Any) -> Any:
    """A dimension as attributes hold it: an integer where it is known."""
    return dim.value if isinstance(dim, Dim) and dim.value is not None else dim


def shown(value: Value) -> str:
    """A value in a message."""
    return f"`{value.name}`, {value.type}," if value.name else f"a value {value.type}"
