"""The end of a run: outputs whose tokens left, maps as taps, and states, which keep their shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...ir.builder import Builder
from ...ir.diagnostics import Diagnostic, Note
from ...ir.graph import Graph, Output, Value
from ...ir.types import f32
from .stream import Stage, Stream

if TYPE_CHECKING:
    from .follow import Follower
    from .reduce import ReduceTokens


def finish(graph: Graph, follower: Follower, options: ReduceTokens) -> None:
    """Give back what outputs need, and expose maps. Raises E0710 for a state that would shrink."""
    states = {v.name: v.type for v in graph.inputs if v.role == "state"}
    last = {v: _last(stream, s) for stream in follower.streams for s in stream.stages if s.tokens for v in s.map.fields}
    for i, (value, info) in enumerate(zip(list(graph.outputs), graph.output_info, strict=True)):
        if info.role == "tap" and value in last:
            # A map that a pass before exposed.
            final = last[value].map
            what = "size" if value.type.dtype == f32 else "source"
            graph.end.set_input(i, getattr(final, what))
            continue
        value = follower.given_back(value, Builder(graph))
        if options.restore:
            value = follower.unmerged(value, Builder(graph))
        graph.end.set_input(i, value)
        if info.role == "state" and value.type != states.get(info.name, value.type):
            raise _changed_state(info, value, options.verbs[1])
    if options.map:
        _expose_maps(graph, follower.streams)


def _last(stream: Stream, stage: Stage) -> Stage:
    """What became of the tokens of a stage in the end."""
    final = stream.stages[-1]
    return final if stage in (stream.stages[0], *stream.until(final)) else stage


def _expose_maps(graph: Graph, streams: list[Stream]) -> None:
    """The last map of every stream as taps; of several streams each is numbered."""
    reduced = [s for s in streams if len(s.stages) > 1]
    taken = {info.name for info in graph.output_info}
    for i, stream in enumerate(reduced):
        number = str(i) if len(reduced) > 1 else ""
        for what in ("source", "size"):
            if f"token_{what}{number}" not in taken:
                graph.add_output(getattr(stream.stages[-1].map, what), f"token_{what}{number}", "tap")


def _changed_state(info: Output, value: Value, done: str) -> Diagnostic:
    return Diagnostic(
        "E0710",
        f"the state `{info.name}` would become {value.type}: its tokens were {done}, but a state keeps its shape",
        notes=[Note("the value is computed here", value.node.span if value.node is not None else None)],
        help="restore every token with `restore=true`",
    )
