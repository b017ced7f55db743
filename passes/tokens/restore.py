"""Going back: tokens get the value of what they became part of, at the end of a region or where nothing else will do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...ir.analysis.axes import Axes
from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic
from ...ir.graph import Graph, Node, Value
from . import stage as flow
from .carry import Carrier, shown
from .stream import Origins, Stage, Stream

# What makes of features [B, t, D] those of the tokens in front of a region.
Back = Callable[[Value, Builder], Value]


@dataclass(frozen=True)
class Region:
    """A part of the graph that worked on fewer tokens, and lies behind the walk.

    Args:
        start: the stage in front of it, to which its values go back.
        stage: the stage that its end has, for whose features ``back`` is made; others are copied.
    """

    stream: Stream
    start: Stage
    stage: Stage
    back: Back | None


class Restorer(Carrier):
    """A carrier that knows the way back."""

    def __init__(self, graph: Graph, axes: Axes, streams: list[Stream], origins: Origins) -> None:
        super().__init__(graph, axes, streams, origins)
        self._closed: dict[Stage, Region] = {}

    def close(self, region: Region) -> None:
        """Behind the walk lies a region: what is still read of it goes back to the stage in front of it.

        Raises:
            Diagnostic: E0710 when a pass before reduced tokens within, which would be none behind it.
        """
        stream = region.stream
        inside = stream.between(region.start, stream.current)
        for stage in inside:
            if stage.node is not None and self.was_given(stage):
                raise Diagnostic(
                    "E0710", "a pass before reduced tokens within this region, and they would come back at its end",
                    stage.node.span, help="let the region end in front of that block, or begin behind it",
                )  # fmt: skip
            self._closed[stage] = region
        stream.current = region.start

    def was_given(self, stage: Stage) -> bool:
        """Whether a stage was in the graph before this pass."""
        return any(known is stage for _, _, known in self._roots)

    def give_back(self, node: Node) -> None:
        """Let a node behind regions read every token of what it takes out of them."""
        if not self._closed:
            return
        builder = Builder(self.graph).before(node)
        for i, value in enumerate(node.inputs):
            if value is not None:
                node.set_input(i, self.given_back(value, builder))

    def given_back(self, value: Value, builder: Builder) -> Value:
        """``value`` as it is behind the regions that lie behind the walk."""
        inside = [s for _, stream, _, _ in self.token_axes(value) if (s := self.stage(value, stream)) in self._closed]
        if not inside:
            return value
        key = (value, "given back")
        if key not in self._carried:
            region = self._closed[inside[0]]
            whole = value.type.rank == 3 and value.type.dtype.kind == "float" and self.token_axes(value)[0][0::2] == (1, 0)
            if region.back is not None and whole and inside == [region.stage]:
                back = region.back(value, builder)
                self._adopt(back, 1, (value, 1), region.stream, region.start)
                self._carried[key] = back
            else:
                self._carried[key] = self._back(value, builder, regions=True)
        return self._carried[key]

    def unmerge_operands(self, node: Node) -> None:
        """Let a node read every token."""
        builder = Builder(self.graph).before(node)
        for i, value in enumerate(node.inputs):
            if value is not None:
                node.set_input(i, self.unmerged(value, builder))
        self.restored.append(node)

    def unmerged(self, value: Value, builder: Builder) -> Value:
        """``value`` with every original token given what its reduced token has."""
        key = (value, "unmerged")
        if key not in self._carried:
            self._carried[key] = self._back(value, builder, regions=False)
        return self._carried[key]

    def _back(self, value: Value, builder: Builder, regions: bool) -> Value:
        # All of them as they are: of pairs of tokens both axes are restored, one after the other.
        axes = [
            (axis, stream, first, self.stage(value, stream), given)
            for axis, stream, first, given in self.token_axes(value)
        ]
        for axis, stream, first, stage, given in axes:
            goal = stream.stages[0]
            if regions:
                goal = self._closed[stage].start if stage in self._closed else stage
            if stage is goal:
                continue
            batch = self.batch(value, stream, axis)
            if batch is None and stream.batch_size == 1:
                # The only row: its index has no batch either.
                row = builder.op("squeeze", flow.owner(stream, goal, stage, first, builder), axis=0)
                back = builder.op("take", value, row, axis=axis)
            elif batch != 0 and (whole := self._moved_back(value, stream, given, goal, builder, regions)) is not None:
                return whole
            elif batch != 0:
                raise Diagnostic(
                    "E0710",
                    f"{shown(value)} has no batch axis in front, so that its tokens cannot be restored: of "
                    f"{stream.batch_size} rows each keeps tokens of its own, and it has {value.type.shape[0]}",
                    value.node.span if value.node is not None else None,
                    help="leave the blocks before it out with `blocks=[…]`; in a spec, keep the batch an axis of its own",
                )
            elif value.type.rank == 3 and axis == 1 and first == 0 and goal is stream.stages[0]:
                back = flow.unmerged(value, stage, builder)
            else:
                back = builder.op("take", value, flow.owner(stream, goal, stage, first, builder), axis=axis, batch=1)
            # The class of the tokens that it has now, so far as they were cut off in the same way.
            views = ((root, view) for root, view in self._views.items() if view == (stream, first, goal))
            like = (value, axis) if regions and given is not goal else next((root for root, _ in views), (back, axis))
            self._adopt(back, axis, like, stream, goal)
            value = back
        return value

    def _moved_back(
        self, value: Value, stream: Stream, given: Stage, goal: Stage, builder: Builder, regions: bool
    ) -> Value | None:
        """Of what a `rearrange` makes, as heads in the batch, what it makes of every token; None where that cannot be told."""
        node = value.node
        source = node.inputs[0] if node is not None and node.op is not None and node.op.qualified == "rearrange" else None
        if node is None or source is None or self.stage(source, stream) is not self.stage(value, stream):
            return None
        whole = self._back(source, builder, regions)
        made = builder.op("rearrange", whole, **{**node.attrs, **self._patched(node, {given: (stream, goal)})})
        self._take_over(value, made, stream, goal)
        return made
