"""Keys are turned by their positions once: `std.attention.rope` gets none that carry its rotation already.

Keys carry it behind `rope`, in whatever state or record they are kept since, and where a record says so (`rotated=true`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ....ir.diagnostics import Diagnostic, Note, Span
from ....ir.graph import Graph, Input, Node, Value
from ....ir.op import Composite, Trait, has, kept
from ....ir.regions import first_captured
from ....ir.signature import RecordPattern
from .blame import blame_call

_ROPE = "std.attention.rope"
# The static field of a record that says so, and what it calls its keys.
ROTATED, KEYS = "rotated", ("k", "key", "keys")
# A multiple of what is turned is turned as far, and so are whole numbers of a step.
_MULTIPLES = ("mul", "div", "neg", "round")


@dataclass(frozen=True)
class _Origin:
    """Why something is known to carry its rotation, and where that stands."""

    why: str
    span: Span | None


_Found = dict[Value, _Origin]
_TURNED = "they are turned here"
_SAID = "the record says here that its keys are turned"


def check_turned(graphs: Mapping[str, Graph], said: Mapping[Value, Span | None]) -> None:
    """Follow what is turned through all that keeps it, and through the states that the graphs share.

    Args:
        said: what was put into records that say so.

    Raises:
        Diagnostic: E0508 with both places.
    """
    walk = _Walk({value: _Origin(_SAID, span) for value, span in said.items()})
    states: dict[str, _Origin] = {}
    for graph in graphs.values():
        for value in graph.inputs:
            if _says_so(value):
                states[value.name] = _Origin(_SAID, value.span)
    before = -1
    while before < len(states):
        before = len(states)
        for graph in graphs.values():
            given = [states.get(v.name) if v.role == "state" else None for v in graph.inputs]
            for info, origin in zip(graph.output_info, walk.through(graph, given), strict=True):
                if info.role == "state" and origin is not None:
                    states.setdefault(info.name, origin)


def _says_so(value: Input) -> bool:
    part = value.record
    return part is not None and value.name.rpartition(".")[2] in KEYS and dict(part.statics).get(ROTATED) is True


class _Walk:
    """What is turned in each graph for what is turned of its inputs; each is walked once for each such choice."""

    def __init__(self, said: _Found) -> None:
        self._said = said
        self._done: dict[tuple[Graph, tuple[bool, ...]], list[_Origin | None]] = {}

    def through(self, graph: Graph, given: Iterable[_Origin | None]) -> list[_Origin | None]:
        """Of each result why it is turned, or None. Raises E0508."""
        given = list(given)
        key = (graph, tuple(origin is not None for origin in given))
        if key not in self._done:
            found = dict(self._said)
            found.update((v, origin) for v, origin in zip(graph.inputs, given, strict=True) if origin is not None)
            for node in graph.nodes():
                self._add(node, found)
            self._done[key] = [found.get(value) for value in graph.outputs]
        return self._done[key]

    def _add(self, node: Node, found: _Found) -> None:
        if node.op.qualified == _ROPE:
            results = [self._rope(node, found)]
        elif isinstance(node.op, Composite):
            results = self._composite(node, node.op, found)
        elif node.bodies:
            results = self._regions(node, found)
        else:
            results = [_core(node, found)]
        for value, origin in zip(node.outputs, results, strict=False):
            if origin is not None:
                found[value] = origin

    def _rope(self, node: Node, found: _Found) -> _Origin | None:
        """What it gives: turned in all features, or only in some, of which nothing is said. Raises E0508."""
        x, cosine = node.inputs[:2]
        assert x is not None
        assert cosine is not None
        if x in found:
            raise Diagnostic(
                "E0508", "these keys carry their rotation already: turned again they would stand at other positions", node.span,
                [Note(found[x].why, found[x].span)],
                "turn keys once: before they are kept, or, where they are kept as they are, when they are read",
            )  # fmt: skip
        return _Origin(_TURNED, node.span) if cosine.type.shape[-1] * 2 == x.type.shape[-1] else None

    def _composite(self, node: Node, op: Composite, found: _Found) -> list[_Origin | None]:
        """By its body; told from the place of the call."""
        given = [found.get(v) for v in node.inputs if v is not None]
        names = [name for (name, _, _), v in zip(op.signature.leaves(), node.inputs, strict=True) if v is not None]
        for i, name in enumerate(names):
            record, _, field = name.rpartition(".")
            if record and field in KEYS and node.attrs.get(f"{record}.{ROTATED}") is True:
                given[i] = given[i] or _Origin(_SAID, node.span)
        body = op.instantiate([None if v is None else v.type for v in node.inputs], node.attrs)
        try:
            results = self.through(body, given)
        except Diagnostic as error:
            blame_call(error, node.span, f"in the body of `{op.name}`")
            raise
        # Walked for another call too: what is told is where it was turned for this one.
        first = next((origin for origin in given if origin is not None), _Origin(_TURNED, node.span))
        results = [None if origin is None else first for origin in results]
        records = [r.type.record for r in op.signature.results if isinstance(r.type, RecordPattern)]
        says = [statics.get(ROTATED) is True for statics in op.record_statics(body)] if records else []
        if any(says):
            # Results that may be left out stand behind the others, and are no records.
            at = 0
            for result in op.signature.results:
                fields = [name for name, _ in result.type.fields()] if isinstance(result.type, RecordPattern) else [""]
                sure = says.pop(0) if isinstance(result.type, RecordPattern) else False
                for i, field in enumerate(fields, at):
                    if sure and field in KEYS:
                        results[i] = results[i] or _Origin(_SAID, node.span)
                at += len(fields)
        return results

    def _regions(self, node: Node, found: _Found) -> list[_Origin | None]:
        """By its regions, of which loops are given what they gave before."""
        name, carried = node.op.qualified, node.attrs["carried"]
        given = [None if v is None else found.get(v) for v in node.inputs]
        captured = given[first_captured(node)[0] :]
        values = given[1 : carried + 1] if name == "cond" else given[:carried]
        while True:
            inside = {"fold": [None, *values], "scan": [*values, *values]}.get(name, values)
            results: list[_Origin | None] = [*values, *[None] * (len(node.outputs) - carried)]
            for region in node.bodies:
                each = self.through(region, [*inside, *captured])
                results = [a or b for a, b in zip(results, [*each, *results[len(each) :]], strict=True)]
            if name == "cond" or results[:carried] == values:
                return results
            values = results[:carried]


def _core(node: Node, found: _Found) -> _Origin | None:
    if node.op.qualified in _MULTIPLES:
        taken: list[Any] = node.inputs
    else:
        taken = [node.inputs[i] for i in kept(node)]
    origins = [found.get(v) for v in taken]
    last = node.outputs[0].type.rank - 1
    # Features that are turned beside others that are not: which ones they are is not followed.
    beside = has(node, Trait.AXIS) and len(taken) > 1 and node.attrs.get("axis") == last
    if beside and None in origins:
        return None
    return next((origin for origin in origins if origin is not None), None)
