"""Which stage of a shrinking token stream a value is at, and what it is at another one.

A padding mask follows by the sizes, a rotary table by position, a bias or window of pairs of places by the positions of both,
a feature as an average over what was merged.
"""

from __future__ import annotations

from typing import Any

from ...ir.analysis.axes import Axes, Axis
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.dims.dim import Dim
from ...ir.graph import Graph, Node, Value
from ...ir.library import composite
from . import streams as flow
from .streams import Origins, Stream

# One axis of a value that belongs to a stream: (axis, stream, how many of its first tokens are cut off).
TokenAxis = tuple[int, Stream, int]
# Ops that put what masks say together; of numbers 0 and 1 too.
_CONNECTIVES = frozenset({"logical_and", "logical_or", "logical_not", "mul", "cast"})
# The streams that a node meets, and at which stage, by identity.
Targets = dict[int, tuple[Stream, int]]


class CannotFollow(Exception):
    """Something that belongs to token places; the message says what."""

    def __init__(self, message: str, help: str | None = None) -> None:
        super().__init__(message)
        self.help = help


class Carrier:
    """The stages of all values of one graph, whose ``streams`` are known by their axis classes."""

    def __init__(self, graph: Graph, axes: Axes, streams: dict[Axis, Stream], origins: Origins) -> None:
        self.graph, self.axes, self.streams, self.origins = graph, axes, streams, origins
        self._stage: dict[tuple[Value, int], int] = {}
        self._views: dict[Axis, tuple[Stream, int]] = {}
        self._carried: dict[tuple[Any, ...], Value] = {}
        self.find_views()

    def find_views(self) -> None:
        """Classes that are a stream without its first tokens: `x[:, 1:]`."""
        for root, stream in self.streams.items():
            self._views[self.axes.find(*root)] = (stream, 0)
        for cut in self.axes.cuts:
            seen = self._views.get(self.axes.find(*cut.source))
            if seen is not None:
                self._views.setdefault(self.axes.find(*cut.result), (seen[0], seen[1] + cut.start))

    def token_axes(self, value: Value) -> list[TokenAxis]:
        """The axes of a value that are tokens of a stream."""
        found = []
        for axis in range(value.type.rank):
            view = self._views.get(self.axes.find(value, axis))
            if view is not None:
                found.append((axis, *view))
        return found

    def stage(self, value: Value, stream: Stream) -> int:
        """How many merges the tokens of ``value`` have been through."""
        return self._stage.get((value, id(stream)), 0)

    def align(self, node: Node, targets: Targets) -> None:
        """Carry every operand to the stages at which this node meets the streams."""
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            for stream, stage in targets.values():
                if any(s is stream for _, s, _ in self.token_axes(value)) and self.stage(value, stream) != stage:
                    value = self.carry(value, stream, stage, node)
                    node.set_input(i, value)

    def carry(self, value: Value, stream: Stream, to: int, node: Node) -> Value:
        """``value`` at stage ``to`` of ``stream``, for ``node`` to read. Raises CannotFollow."""
        rank = max(v.type.rank for v in (value, *node.outputs)) if node.op.family == "elementwise" else value.type.rank
        # In front of its first reader: later readers come later in the order.
        return self._at(value, stream, to, rank, Builder(self.graph).before(node))

    def _at(self, value: Value, stream: Stream, to: int, rank: int, builder: Builder) -> Value:
        if all(s is not stream for _, s, _ in self.token_axes(value)):
            return value
        key = (value, id(stream), to, rank)
        if key not in self._carried:
            self._carried[key] = self._carry(value, stream, to, rank, builder)
        return self._carried[key]

    def _carry(self, value: Value, stream: Stream, to: int, rank: int, builder: Builder) -> Value:
        places = [(axis, first) for axis, s, first in self.token_axes(value) if s is stream]
        if len(places) > 1:
            return self._carry_pairs(value, stream, to, rank, builder)
        (axis, first), stage = places[0], self.stage(value, stream)
        batch = self.batch(value, stream, axis)
        self._check_batch(value, stream, axis, batch, rank)
        if batch is None and rank > value.type.rank:
            value = builder.op("unsqueeze", value, axis=tuple(range(rank - value.type.rank)))
            axis += value.type.rank - (value.node.inputs[0].type.rank)  # type: ignore[union-attr]
        is_feature = value.type.dtype.kind == "float" and self.origins.of(value) & stream.inputs
        if (
            stage == 0
            and stream.padding is not None
            and flow.trace_mask(value, self.origins, stream)[0] is stream.padding[0]
        ):
            out = self._carried_mask(value, stream, axis, first, batch or 0, to, builder)
        elif value.node is not None and value.node.op.qualified == "full":
            shape = with_size(value.node.attrs["shape"], axis, stream.counts[to] - first)
            out = builder.op("full", **{**value.node.attrs, "shape": shape})
        elif is_feature and batch == 0 and first == 0:
            out = flow.merge_mean(stream, value, axis, stage, to, builder)
        elif is_feature or stage or batch not in (0, None):
            raise CannotFollow(f"{shown(value)} comes from before the merge, and cannot be carried to merged tokens")
        else:
            out = flow.pick(value, axis, flow.vector(stream, to, "position", first, builder), batch == 0, builder)
        self._adopt(out, axis, stream, first, to)
        return out

    def _carry_pairs(self, value: Value, stream: Stream, to: int, rank: int, builder: Builder) -> Value:
        """What says something of pairs of places: a relative position bias, a window. A merged token stands where the token is
        that the others were merged into."""
        node, origins, floats = value.node, self.origins.of(value), value.type.dtype.kind == "float"
        if self.stage(value, stream) or (floats and origins & stream.inputs):
            raise CannotFollow(f"{shown(value)} compares tokens as they were before the merge, not places")
        says_padding = stream.padding is not None and origins & self.origins.of(stream.padding[0])
        if node is not None and node.op.qualified in _CONNECTIVES and says_padding and not floats:
            # What is padding is in the sizes, which know it of merged tokens better than a place does.
            parts = [v and self._at(v, stream, to, value.type.rank, builder) for v in node.inputs]
            out = builder.op(node.op, *parts, **node.attrs)
            self._take_over(value, out, stream, to)
            return out
        if node is not None and node.op.qualified == "expand" and (row := self._row(node, stream)) is not None:
            # The same for all rows: one is enough to pick from.
            out = self._at(row, stream, to, rank, builder)
            if any(d == 1 != e for d, e in zip(row.type.shape[1:], value.type.shape[1:], strict=True)):
                shape = tuple(e if d == 1 else d for d, e in zip(out.type.shape, value.type.shape, strict=True))
                out = builder.op("expand", out, shape=tuple(map(plain, shape)))
                self._take_over(value, out, stream, to)
            return out
        places = [(axis, first) for axis, s, first in self.token_axes(value) if s is stream]
        batch = self.batch(value, stream, places[0][0])
        self._check_batch(value, stream, places[0][0], batch, rank)
        if batch not in (None, 0) or len(places) > 2:
            raise CannotFollow(f"{shown(value)} relates token places; it cannot be carried to merged tokens")
        out, shift = value, 0
        if batch is None and rank > value.type.rank:
            shift = rank - value.type.rank
            out = builder.op("unsqueeze", value, axis=tuple(range(shift)))
        for n, (axis, first) in enumerate(places):
            index = flow.vector(stream, to, "position", first, builder)
            out = flow.pick(out, axis + shift, index, batch == 0 or n > 0, builder)
        self._take_over(value, out, stream, to)
        return out

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
        tokens = [axis for axis, s, _ in self.token_axes(whole) if s is stream]
        return row if all(row.type.shape[axis] == whole.type.shape[axis] for axis in tokens) else None

    def _take_over(self, old: Value, new: Value, stream: Stream, stage: int) -> None:
        """``new`` is ``old`` at ``stage``, perhaps with other rows and more axes in front."""
        shift = new.type.rank - old.type.rank
        tokens = {axis for axis, s, _ in self.token_axes(old) if s is stream}
        for axis, (before, after) in enumerate(zip(old.type.shape, new.type.shape[shift:], strict=True)):
            if axis in tokens or before == after:
                self.axes.join((old, axis), (new, axis + shift))
        if new.type.shape[0] == stream.batch_size:
            self.axes.join(stream.batch, (new, 0))
        self._stage[new, id(stream)] = stage
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
            raise CannotFollow(f"{shown(value)} has no batch axis, but merging differs within a batch")

    def _carried_mask(
        self, value: Value, stream: Stream, axis: int, first: int, batch: int, to: int, builder: Builder
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

    def _adopt(self, value: Value, axis: int, stream: Stream, first: int, stage: int) -> None:
        """Say what a value that this pass made is: tokens along ``axis``, at ``stage``."""
        for root, view in self._views.items():
            if view[0] is stream and view[1] == first:
                self.axes.join(root, (value, axis))
                break
        if value.type.shape[0] == stream.batch_size and axis != 0:
            self.axes.join(stream.batch, (value, 0))
        self._stage[value, id(stream)] = stage
        if value.node is not None:
            self.origins.add(value.node)

    def batch(self, value: Value, stream: Stream, axis: int) -> int | None:
        """Where the batch axis of a value is, if it has one."""
        root = self.axes.find(*stream.batch)
        for i in range(value.type.rank):
            if i != axis and self.axes.find(value, i) == root:
                return i
        return 0 if stream.batch_size == 1 and axis > 0 and value.type.shape[0] == 1 else None

    def adopt_merged(self, x: Value, y: Value, stream: Stream) -> None:
        """``y`` is ``x`` after one more merge."""
        for axis in range(x.type.rank):
            self.axes.join((x, axis), (y, axis))
        self._adopt(y, 1, stream, 0, stream.stage)

    def unmerged(self, value: Value, builder: Builder) -> Value:
        """``value`` with every original token given what its merged token has."""
        key = (value, "unmerged")
        if key not in self._carried:
            self._carried[key] = self._unmerged(value, builder)
        return self._carried[key]

    def _unmerged(self, value: Value, builder: Builder) -> Value:
        for axis, stream, first in self.token_axes(value):
            stage = self.stage(value, stream)
            if stage == 0:
                continue
            if self.batch(value, stream, axis) != 0:
                raise Diagnostic(
                    "E0710", f"{shown(value)} has no batch axis in front, so that its tokens cannot be restored"
                )
            if value.type.rank == 3 and axis == 1 and first == 0:
                back = builder.op(composite("std.token.unmerge"), value, *stream.maps[stage].fields)
            else:
                back = builder.op(
                    "take", value, flow.vector(stream, stage, "source", first, builder), axis=axis, batch=1
                )
            self._adopt(back, axis, stream, first, 0)
            value = back
        return value


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
